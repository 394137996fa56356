"""What a comparison says: the winner, whether beyond the spread, and the ratio of costs, from numbers made up here."""

import io

import numpy as np
from rich.console import Console

from ctlssl.report import markdown, summary, tables, verdict
from tests.toys import comparison as results


def test_the_verdict_by_hand():
    first, second = verdict(results()).splitlines()
    # differences 0.01, 0.02, 0.01
    assert first.startswith("toy/death: lssl has the best auroc of the neural models, 0.920 ± 0.020, 0.013 above gru, ")
    assert "beyond the spread of that difference over 3 seeds (0.006)" in first
    assert "Simple references that do better on average: boosting (0.960 ± 0.010)" in first
    assert "An epoch of lssl takes 0.20 s; beside it take gru 0.5 times, ode_rnn 10.0 times as long." in first
    # differences of 0.1 in every seed have no spread
    assert second.startswith("toy/forecast: gru has the best rmse of the neural models, 0.550 ± 0.050, 0.100 below ls")
    assert "beyond the spread of that difference over 3 seeds (0.000)" in second
    assert "references" not in second


def test_a_lead_that_is_smaller_than_its_spread():
    noisy = results()
    noisy["auroc"].loc[{"task": "toy/death", "model": "gru"}] = [0.95, 0.85, 0.93]
    assert "0.010 above gru, within the spread of that difference over 3 seeds (0.060)" in verdict(noisy)


def test_one_seed_has_no_spread():
    text = verdict(results(seeds=1))
    assert "0.900, 0.010 above gru (one seed: the spread is unknown)" in text and "±" not in text


def test_a_model_that_failed_is_left_out():
    broken = results()
    broken["auroc"].loc[{"model": "lssl"}] = np.nan
    assert "gru has the best auroc" in verdict(broken)
    broken["auroc"].loc[{"model": ["gru", "ode_rnn"]}] = np.nan
    assert "toy/death: no neural model finished." in verdict(broken)


def test_the_cells():
    header, rows, best = summary(results(), "toy/forecast")
    assert header == ["model", "rmse", "s / epoch", "s to train", "epochs", "evaluations / epoch", "parameters"]
    assert best == "gru"
    assert rows[1] == ["gru", "0.550 ± 0.050", "0.13", "2.0", "20", "0", "9000"]
    assert rows[3] == ["last_value", "0.750 ± 0.050", "-", "-", "-", "-", "-"]
    assert [row[0] for row in rows] == ["lssl", "gru", "ode_rnn", "last_value"]


def test_the_tables_for_the_terminal():
    console = Console(width=160, record=True, file=io.StringIO())
    for table in tables(results()):
        console.print(table)
    text = console.export_text()
    assert "…" not in text and max(map(len, text.splitlines())) < 90
    assert (
        "toy/death (* best neural auroc)" in " ".join(text.split())  # a title is as wide as its table
        and "lssl *" in text
        and "0.920 ± 0.020" in text
        and "toy/death, costs" in text
    )


def test_markdown():
    text = markdown(results())
    assert "| **gru** | **0.550 ± 0.050** |" in text
    assert text.count("### toy/") == 2
    widths = {line.count("|") for line in text.split("### toy/forecast")[1].splitlines() if line.startswith("|")}
    assert widths == {8}


def test_how_costs_grow_with_length():
    grown = results()
    seconds = np.array([[0.01, 0.02], [0.01, 0.01], [0.05, 0.3], [np.nan] * 2, [np.nan] * 2])
    grown = grown.assign(pass_seconds=(("model", "length"), seconds)).assign_coords(length=[16, 64])
    sentence = (
        "One step of training on 32 series of 16, 64 observations takes lssl 0.010, 0.020 s; "
        "times as long take gru 1.0, 0.5; ode_rnn 5.0, 15.0."
    )
    assert verdict(grown).splitlines()[-1] == sentence
    assert markdown(grown).rstrip().endswith(sentence)


def test_where_lssl_stands_when_it_is_neither_first_nor_second():
    behind = results()
    behind["auroc"].loc[{"task": "toy/death", "model": "lssl"}] = [0.70, 0.72, 0.74]
    assert "lssl reaches 0.720 ± 0.020, 0.187 below gru, beyond the spread" in verdict(behind).splitlines()[0]
