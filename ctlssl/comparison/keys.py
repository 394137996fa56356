"""What decides the result of a cell, as JSON, and its digest: cells of one key have one result."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ctlssl.tasks import Split

__all__ = ["digest_of_split", "identity", "key_of", "surroundings"]

_PACKAGES = ("ctlssl", "torch", "numpy", "scipy", "scikit-learn", "torchdiffeq", "torchcde", "numba")
_AFTERWARDS = (  # what only tells of results, or is another's work
    "adaptation_report.py", "cli.py", "clock_report.py", "commands", "plots.py", "report.py", "report_notes.py",
    "runs", "saving.py", "views_report.py",
)  # fmt: skip


def key_of(spec: Mapping[str, Any]) -> str:
    """SHA-256 of what decides a result.

    Args:
        spec: JSON values.

    Example:
        >>> key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
        True
    """
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf8")).hexdigest()


@cache
def surroundings() -> dict[str, str]:
    """Versions of the packages that compute, and a digest of this one's sources, which may change within a version."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    root, content = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        place = path.relative_to(root).as_posix()
        if place.split("/")[0] not in _AFTERWARDS:
            content.update(f"{place}\0".encode())
            content.update(path.read_bytes())
    return found | {"sources": content.hexdigest()}


def digest_of_split(split: Split) -> str:
    """SHA-256 of all that models see and answer: the three parts and the problem, not the way there.

    Args:
        split: from `prepare`.
    """
    content = hashlib.sha256()
    for part in (split.train, split.valid, split.test):
        _take_in(part, content)
    content.update(json.dumps(split.problem.to_dict(), sort_keys=True).encode("utf8"))
    return content.hexdigest()


def identity(factory: Callable[..., Any]) -> Any:
    """How a model's class or function is told from others, as JSON.

    What belongs to this package is known by its name, since `surroundings` has its sources; a class or function of the
    user's also by its source text. What a function closes over is not seen: give options by `functools.partial`.

    Args:
        factory: a class, a function, a `functools.partial` or any other callable.
    """
    if isinstance(factory, partial):
        keywords = {name: _plain(value) for name, value in sorted(factory.keywords.items())}
        return {"of": identity(factory.func), "arguments": _plain(factory.args), "keywords": keywords}
    if not hasattr(factory, "__qualname__"):
        return {"of": identity(type(factory)), "fields": _plain(getattr(factory, "__dict__", {}))}
    name = f"{factory.__module__}.{factory.__qualname__}"
    if name.startswith("ctlssl."):
        return name
    try:
        source = inspect.getsource(factory)
    except (OSError, TypeError):  # typed at a prompt, or not written in Python
        return name
    return {"name": name, "source": hashlib.sha256(source.encode("utf8")).hexdigest()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | int | float):
        return repr(value) if isinstance(value, float) and not math.isfinite(value) else value
    return identity(value) if callable(value) else repr(value)


def _take_in(value: Any, content: Any) -> None:
    """Add tensors, arrays, text and all that is made of them to a hash, with their types and shapes."""
    if is_dataclass(value):
        for item in fields(value):
            content.update(f"{item.name}:".encode())
            _take_in(getattr(value, item.name), content)
    elif isinstance(value, Tensor | np.ndarray):
        array = np.ascontiguousarray(value.detach().cpu().numpy() if isinstance(value, Tensor) else value)
        content.update(f"{array.dtype.str}{array.shape}".encode())
        content.update(str(array.tolist()).encode("utf8") if array.dtype.kind in "OTU" else array.tobytes())
    else:
        content.update(f"{type(value).__name__}{value!r}".encode())
