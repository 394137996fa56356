"""The files of a comparison: the results as NetCDF, the tables as markdown, and the pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xarray

__all__ = ["WRITERS", "save_ablation", "save_adaptation", "save_comparison", "save_views"]

Writer = Callable[["xarray.Dataset", Path], None]


def save_comparison(results: xarray.Dataset, folder: str | os.PathLike) -> list[Path]:
    """Write results.nc, table.md, quality.png (quality against cost), learning.png (losses by epoch) and report.html.

    Args:
        results: from `ctlssl.compare`.
        folder: exists.

    Returns:
        The paths.
    """
    return _save(results, Path(folder), WRITERS)


def save_ablation(results: xarray.Dataset, folder: str | os.PathLike) -> list[Path]:
    """Write clock.nc, clock.md and clock.png; arguments as of `save_comparison`, results of the clock ablation."""
    return _save(results, Path(folder), _OF_CLOCKS)


def save_views(results: xarray.Dataset, folder: str | os.PathLike) -> list[Path]:
    """Write views.nc, views.md and views.png; arguments as of `save_comparison`, results of `compare_views`."""
    return _save(results, Path(folder), _OF_VIEWS)


def save_adaptation(results: xarray.Dataset, folder: str | os.PathLike, metric: str | None = None) -> list[Path]:
    """Write adapt.nc, adapt.md and adapt.png.

    Args:
        results: from `ctlssl.adaptation.adaptation`.
        folder: exists.
        metric: what the table and the picture show; None is that by which a ranking goes.

    Returns:
        The paths.
    """
    from ctlssl.adaptation_report import adaptation_markdown, plot_adaptation

    writers: dict[str, Writer] = {
        "adapt.nc": _write_netcdf,
        "adapt.md": lambda found, path: _write_text(adaptation_markdown(found, metric), path),
        "adapt.png": lambda found, path: plot_adaptation(found, metric).savefig(path, format="png", dpi=150),
    }
    return _save(results, Path(folder), writers)


def _write_text(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf8")


def _save(results: xarray.Dataset, folder: Path, writers: Mapping[str, Writer]) -> list[Path]:
    """All files under temporary names first; then they get their own, so that none is ever half-written."""
    written: dict[Path, Path] = {}
    try:
        for name, write in writers.items():
            temporary = folder / f".{name}.{os.getpid()}.tmp"
            written[temporary] = folder / name
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


def _write_page(results: xarray.Dataset, path: Path) -> None:
    from ctlssl.page import page, picture, section, table, words
    from ctlssl.plots import plot_comparison, plot_learning
    from ctlssl.report import summary, verdict

    told = [words(line) for line in verdict(results).splitlines()]
    scores = [section(task, table(*summary(results, task)[:2])) for task in results.task.values.tolist()]
    quality = picture(plot_comparison(results), "Test scores by seconds of training")
    learning = picture(plot_learning(results), "Validation loss by epoch")
    path.write_text(
        page("Comparison of models", *told, *scores, section("Pictures", quality, learning)), encoding="utf8"
    )


def _write_clock_markdown(results: xarray.Dataset, path: Path) -> None:
    from ctlssl.clock_report import ablation_markdown

    path.write_text(ablation_markdown(results), encoding="utf8")


def _write_clock_picture(results: xarray.Dataset, path: Path) -> None:
    from ctlssl.clock_report import plot_ablation

    plot_ablation(results).savefig(path, format="png", dpi=150)


def _write_views_markdown(found: xarray.Dataset, path: Path) -> None:
    from ctlssl.views_report import views_markdown

    path.write_text(views_markdown(found), encoding="utf8")


def _write_views_picture(found: xarray.Dataset, path: Path) -> None:
    from ctlssl.views_report import plot_views

    plot_views(found).savefig(path, format="png", dpi=150)


WRITERS: dict[str, Writer] = {
    "results.nc": _write_netcdf,
    "table.md": _write_markdown,
    "quality.png": _write_quality,
    "learning.png": _write_learning,
    "report.html": _write_page,
}
_OF_CLOCKS: dict[str, Writer] = {
    "clock.nc": _write_netcdf,
    "clock.md": _write_clock_markdown,
    "clock.png": _write_clock_picture,
}
_OF_VIEWS: dict[str, Writer] = {
    "views.nc": _write_netcdf,
    "views.md": _write_views_markdown,
    "views.png": _write_views_picture,
}
