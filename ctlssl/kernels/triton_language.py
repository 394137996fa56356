"""Triton where it is installed; without it the kernels can be imported and read, but not run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = tl = None

__all__ = ["constant", "jit", "tl", "triton"]


def jit(function: Callable) -> Any:
    """A kernel, or a part of one, in Triton's language."""
    return function if triton is None else triton.jit(function)


def constant(value: Any) -> Any:
    """A number that kernels may read from their module."""
    return value if tl is None else tl.constexpr(value)
