"""The files of a comparison: the results as NetCDF, the tables as markdown, and the pictures."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xarray

__all__ = ["WRITERS", "save_comparison"]


def save_comparison(results: xarray.Dataset, folder: str | os.PathLike) -> list[Path]:
    """Write results.nc, table.md, quality.png (quality against cost) and learning.png (losses by epoch).

    All files are written under temporary names first; then they get their own, so that none is ever half-written.

    Args:
        results: from `ctlssl.compare`.
        folder: exists.

    Returns:
        The paths.
    """
    written: dict[Path, Path] = {}
    try:
        for name, write in WRITERS.items():
            temporary = Path(folder) / f".{name}.{os.getpid()}.tmp"
            written[temporary] = Path(folder) / name
            write(results, temporary)
        for temporary, final in written.items():
            os.replace(temporary, final)
    finally:
        for temporary in written:
            temporary.unlink(missing_ok=True)
    return list(written.values())


def _write_netcdf(results: xarray.Dataset, path: Path) -> None:
    results.to_netcdf(path, engine="netcdf4")


def _write_markdown(results: xarray.Dataset, path: Path) -> None:
    from ctlssl.report import markdown

    path.write_text(markdown(results), encoding="utf8")


def _write_quality(results: xarray.Dataset, path: Path) -> None:
    from ctlssl.plots import plot_comparison

    plot_comparison(results).savefig(path, format="png", dpi=150)


def _write_learning(results: xarray.Dataset, path: Path) -> None:
    from ctlssl.plots import plot_learning

    plot_learning(results).savefig(path, format="png", dpi=150)


WRITERS: dict[str, Callable[[xarray.Dataset, Path], None]] = {
    "results.nc": _write_netcdf,
    "table.md": _write_markdown,
    "quality.png": _write_quality,
    "learning.png": _write_learning,
}
