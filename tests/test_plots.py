"""The pictures: what stands where, drawn without a screen and without pyplot."""

import sys
import warnings

import numpy as np
import pytest
import xarray

from ctlssl.plots import plot_comparison, plot_learning, plot_timescales
from tests.toys import comparison


def test_one_panel_a_task_with_a_point_a_model_and_a_line_a_reference():
    death, forecast = plot_comparison(comparison()).axes
    legend = {text.get_text() for text in death.get_legend().get_texts()}
    assert legend == {"lssl", "gru", "ode_rnn", "boosting"}
    points = {bars.get_label(): bars.lines[0].get_xydata()[0].tolist() for bars in death.containers}
    assert points["ode_rnn"] == pytest.approx([40.0, 0.82])
    (line,) = [line for line in death.lines if line.get_linestyle() == "--"]
    assert line.get_ydata()[0] == pytest.approx(0.96)
    assert death.get_xscale() == "log"
    assert death.get_ylabel() == "test auroc (higher is better)"
    assert forecast.get_ylabel() == "test rmse (lower is better)"
    assert {bars.get_label() for bars in forecast.containers} == {"lssl", "gru", "ode_rnn"}


def test_the_spread_is_the_length_of_the_bars():
    death = plot_comparison(comparison()).axes[0]
    (bars,) = [bars for bars in death.containers if bars.get_label() == "lssl"]
    across, up = (segments.get_segments()[0] for segments in bars.lines[2])
    assert np.ptp(up[:, 1]) == pytest.approx(2 * 0.02)
    assert np.ptp(across[:, 0]) == pytest.approx(0)


def test_one_seed_one_task_and_missing_scores(tmp_path):
    results = comparison(seeds=1).isel(task=[0])
    results["auroc"].loc[{"model": "gru"}] = np.nan
    figure = plot_comparison(results)
    figure.savefig(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert {bars.get_label() for bars in figure.axes[0].containers} == {"lssl", "ode_rnn"}


@pytest.mark.parametrize("plot", [plot_comparison, plot_learning])
def test_the_names_of_many_models_stand_beside_the_panel(tmp_path, plot):
    some = comparison().sel(model=["lssl"])
    many = xarray.concat([some.assign_coords(model=[f"a model of a long name {k}"]) for k in range(26)], "model")
    figure = plot(many)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib says so where there is no room
        figure.savefig(tmp_path / "picture.png")
    axes = figure.axes[0]
    assert axes.get_legend().get_window_extent().x0 >= axes.get_window_extent().x1
    assert len(axes.get_legend().get_texts()) == 26


def test_learning_curves_of_each_seed_and_their_mean_as_far_as_all_go(tmp_path):
    figure = plot_learning(comparison())
    death, forecast = figure.axes
    assert {text.get_text() for text in death.get_legend().get_texts()} == {"lssl", "gru", "ode_rnn"}
    means = {line.get_label(): line.get_ydata() for line in death.lines if not line.get_label().startswith("_")}
    assert means["lssl"] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])
    assert means["gru"][:2] == pytest.approx([1, 1 / 2]) and np.isnan(means["gru"][2:]).all()
    assert len(death.lines) == 3 * (3 + 1)
    assert forecast.get_ylabel() == "validation loss"
    figure.savefig(tmp_path / "learning.png")


def test_pyplot_is_not_touched():
    known = "matplotlib.pyplot" in sys.modules
    plot_comparison(comparison())
    assert ("matplotlib.pyplot" in sys.modules) == known


def spectra(layers=("blocks.0.layer", "blocks.1.layer"), factor=1.0):
    """Half-lives of made-up layers: modes 1, 2, ... 40 of two systems, one that never decays, one that is not there."""
    values = factor * np.arange(1.0, 41.0) * np.ones((len(layers), 2, 1))
    values[0, 1, -1], values[0, 1, 0] = np.inf, np.nan
    return xarray.Dataset({"half_life": (("layer", "system", "mode"), values)}, coords={"layer": list(layers)})


def test_half_lives_before_and_after(tmp_path):
    figure = plot_timescales(spectra(), spectra(factor=10.0))
    first, second = figure.axes
    assert [text.get_text() for text in first.get_legend().get_texts()] == ["before training", "after training"]
    assert first.get_xscale() == "log" and "unit of the data" in second.get_xlabel()
    assert first.get_title() == "blocks.0.layer"
    low, high = first.get_xlim()
    assert low < 1.0 and high > 400.0
    figure.savefig(tmp_path / "spectrum.png")
    assert (tmp_path / "spectrum.png").read_bytes().startswith(b"\x89PNG")


def test_every_finite_half_life_is_counted():
    figure = plot_timescales(spectra())
    heights = [
        sum(height for (_, height), (_, after) in zip(xy[1:-1:2], xy[2::2], strict=False) if height == after)
        for xy in (axes.patches[0].get_xy() for axes in figure.axes)
    ]
    assert heights == [78, 80]


def test_spectra_that_do_not_belong_together():
    with pytest.raises(ValueError, match="after has"):
        plot_timescales(spectra(), spectra(layers=("other", "layers")))
    with pytest.raises(ValueError, match="no mode"):
        plot_timescales(spectra() * np.inf)


def test_one_half_life_is_drawn():
    (axes,) = plot_timescales(spectra(layers=("layer",)).isel(mode=[3])).axes
    assert axes.get_ylabel() == "modes"
