"""Members of a table, from their name, from their name and fields, or themselves."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

__all__ = ["named_member"]

_Member = TypeVar("_Member")


def named_member(given: str | Mapping[str, Any] | _Member, table: Mapping[str, _Member], what: str) -> _Member:
    """A member of a table of frozen dataclasses.

    Args:
        given: its name; a dictionary of "name" and the fields that differ from the table's; or the object itself.
        table: the members by name.
        what: how a message calls them.

    Raises:
        ValueError: a name or field that does not exist.

    Example:
        >>> from ctlssl.step_size import STEP_SIZES
        >>> named_member({"name": "plain", "gap": False}, STEP_SIZES, "step size").gap
        False
    """
    if type(given) in {type(member) for member in table.values()}:
        return given
    name, fields = given, {}
    if isinstance(given, Mapping):
        fields = dict(given)
        name = fields.pop("name", None)
    if not isinstance(name, str) or name not in table:
        raise ValueError(f"unknown {what} {given!r}; choose {', '.join(table)}, or a dictionary with such a name")
    known = [field.name for field in dataclasses.fields(table[name])]
    if unknown := [field for field in fields if field not in known]:
        has = f"it has {', '.join(known)}" if known else "it has none"
        raise ValueError(f"the {what} {name!r} has no field {unknown[0]!r}; {has}")
    return dataclasses.replace(table[name], **fields)
