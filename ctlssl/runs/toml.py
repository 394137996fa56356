"""Settings written as TOML, to be read again by `ctlssl.runs.read_settings` or by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["toml_text"]

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def toml_text(values: Mapping[str, Any]) -> str:
    """The TOML text of nested names and values; a None is left out, since TOML has none.

    Args:
        values: texts, numbers, truth values, lists of these, and tables of all of them.

    Raises:
        ValueError: a value that TOML cannot hold.

    References:
        Preston-Werner et al. (2021), TOML 1.0.0.

    Example:
        >>> print(toml_text({"task": "covid19/death", "training": {"epochs": 5, "chunk": None}}), end="")
        task = "covid19/death"
        <BLANKLINE>
        [training]
        epochs = 5
    """
    return "\n".join(_tables(values, ())).lstrip("\n") + "\n"


def _tables(values: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    """Lines of a table: its values first, then the tables in it."""
    plain = {name: value for name, value in values.items() if value is not None and not isinstance(value, Mapping)}
    inner = {name: value for name, value in values.items() if isinstance(value, Mapping)}
    lines = ["", f"[{'.'.join(map(_key, path))}]"] if path and (plain or not inner) else []
    lines += [f"{_key(name)} = {_value(value)}" for name, value in plain.items()]
    for name, value in inner.items():
        lines += _tables(value, (*path, name))
    return lines


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _text(name)


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Sequence):
        return f"[{', '.join(map(_value, value))}]"
    raise ValueError(f"TOML has no form for {value!r}.")
