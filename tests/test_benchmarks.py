"""The benchmark runs and says what it found: its rows, its arithmetic, its tables. No time is judged here."""

import dataclasses
import json
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from benchmarks import multi_input, peak, race, report, structured
from benchmarks.__main__ import arguments
from benchmarks.bank import EagerBank
from benchmarks.contenders import Contender, Passes, Sizes, drawn
from benchmarks.measures import Measure, at_least, at_most, fitted_exponent
from benchmarks.row import Row
from benchmarks.rows import ROWS
from benchmarks.surroundings import machine
from ctlssl import LSSL

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("name", ROWS)
def test_every_row_has_a_title_and_a_target_or_a_reason(name):
    row = ROWS[name]
    assert row.name == name and row.title and callable(row.run)
    assert bool(row.targets) != bool(row.reason)


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.run is race.race])
def test_every_target_belongs_to_a_measure(name):
    row = ROWS[name]
    contenders = [contender.name for contender in row.contenders]
    kinds = [race.FORWARD, race.BOTH] if row.both else [race.FORWARD]
    made = {f"{contender}, {kind}" for contender in contenders for kind in kinds}
    made |= {f"{contender}, exponent in {axis}" for contender in row.growing for axis in row.growth}
    assert set(row.targets) <= made and set(row.growing) <= set(contenders)


def test_what_needs_the_extra_is_in_the_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]
    extra = {name.split(">")[0] for name in project["optional-dependencies"]["bench"]}
    needed = {module for row in ROWS.values() for contender in row.contenders for module in contender.needs}
    assert extra == {"jax", "s5-pytorch"} and needed == {"jax", "s5"}


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_law_is_its_power(power):
    sizes = (16, 100, 250, 4000)
    assert fitted_exponent(sizes, [3e-4 * size**power for size in sizes]) == pytest.approx(power, abs=1e-12)


def test_a_target_judges_the_median_of_the_ratios_or_of_the_values():
    assert Measure("a", (9.0, 9.0), ratios=(3.0, 4.0, 100.0), target=at_least(4)).met
    assert Measure("a", (9.0, 9.0, 1.0), target=at_most(8)).met is False
    assert Measure("a", (), target=at_most(8)).met is None
    assert Measure("a", (1.0,)).met is None


def test_a_measure_survives_json():
    measure = Measure("a", (1.0, 2.0), "s", (3.0,), at_least(4, aim=6), "note")
    assert Measure.from_plain(json.loads(json.dumps(dataclasses.asdict(measure)))) == measure


def test_the_table_shows_medians_ranges_and_verdicts():
    measures = [
        Measure("ours, forward", (1.0, 2.0, 30.0)),
        Measure("theirs, forward", (10.0, 20.0, 300.0), ratios=(10.0, 10.0, 10.0), target=at_least(4.5, aim=6)),
        Measure("ours, exponent in length", (1.5,), "", target=at_most(1.1), note="length 4, 8"),
        Measure("absent", note=race.INSTALL, target=at_least(2)),
    ]
    header, rule, *lines = report.table(measures).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(line) for line in (header, rule, *lines)}) == 1
    assert cells[0] == ["ours, forward", "2.00 ms", "1.00 .. 30.0", "", "", "", ""]
    assert cells[1] == [
        "theirs, forward",
        "20.0 ms",
        "10.0 .. 300",
        "10.0",
        "10.0 .. 10.0",
        "at least 4.5, aim 6",
        "yes",
    ]
    assert cells[2] == ["ours, exponent in length (length 4, 8)", "1.50", "", "", "", "at most 1.1", "**no**"]
    assert cells[3][0].endswith("-e '.[bench]')") and cells[3][-1] == "not measured"
    assert [line[-1] for line in map(str.split, report.table(measures, judged=False).splitlines()[2:])] == ["|"] * 4


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (0.0123, "0.0123"), (0.123, "0.123"), (1.234, "1.23"), (12.34, "12.3"), (1234, "1234")],
)
def test_numbers_have_three_digits(value, shown):
    assert report.number(value) == shown


def test_the_report_has_the_machine_the_targets_and_every_table():
    row = Row("made", "Made up", race.race, targets={"ours, forward": at_most(3)})
    found = {"made": [Measure("ours, forward", (1.0, 2.0), target=at_most(3))]}
    text = report.document({"made": row}, found, machine(), "python -m benchmarks", True)
    for part in (
        "# Benchmarks",
        "processor: ",
        "torch 2",
        "## Made up",
        "`python -m benchmarks --only made`",
        "| yes |",
    ):
        assert part in text


def test_a_tiny_row_runs_through():
    sizes = Sizes(2, 6, 2, 4)
    absent = Contender("absent", lambda sizes: None, needs=("no_such_module_here",))
    row = dataclasses.replace(
        ROWS["multi_input"], contenders=(*ROWS["multi_input"].contenders[:2], absent), quick=sizes, peaks=False
    )
    found = {measure.what: measure for measure in race.race(row, quick=True)}
    ours, theirs = found[f"{multi_input.NAME}, forward"], found["torch LSTM, forward"]
    expected = [a / b for a, b in zip(theirs.values, ours.values, strict=True)]
    assert len(ours.values) == 2 and min(ours.values) > 0 and not ours.ratios
    assert list(theirs.ratios) == pytest.approx(expected)
    assert found["torch LSTM, forward + backward"].target == at_least(4.5, aim=6)
    assert found["absent"].note == race.INSTALL
    assert f"{multi_input.NAME}, exponent in state" in found
    assert "torch LSTM" in report.section(row, list(found.values()), judged=False)


def test_contenders_take_turns_and_warm_up_outside_the_clock():
    calls = []

    def counted(name):
        return Passes(lambda: calls.append(name), lambda: None, lambda: None, 0, scale=2.0)

    found = race.interleaved({"a": counted("a"), "b": counted("b")}, race.FORWARD, 3, {"b": 2})
    assert calls == ["a", "b", "b"] + ["a", "b"] * 3
    assert all(len(times) == 3 for times in found.values())


def test_peak_memory_counts_what_a_pass_allocates():
    def both():
        torch.ones(2**23).sum()  # 32 MiB, above the size from which memory is returned at once

    found = peak.measured(Passes(both, both, lambda: None, input_bytes=1000))
    if sys.platform == "linux":
        assert found - 1000 == pytest.approx(2**25, rel=0.2)


def layer_like(structure, method, channels, state):
    layer = LSSL(channels, state, structure, method=method).double()
    return layer, {name: part.detach() for name, part in layer.named_parameters()}


def test_the_eager_loop_is_the_same_bank():
    layer, found = layer_like("diagonal", "zoh", 3, 8)
    loop = EagerBank(3, 4).double()
    poles = layer.system().A.poles / found["log_step"].exp()[:, None]
    with torch.no_grad():
        loop.log_step.copy_(found["log_step"][:, None])
        loop.log_decay.copy_((-poles.real[0]).log())
        loop.frequency.data = poles.imag[0]
        loop.B.copy_(found["B"].unflatten(-1, (2, 4)).movedim(1, -1))
        # Ours reads the real and the imaginary parts as they stand, the loop twice the real part of C x.
        real, imag = found["C"][:, 0].unflatten(-1, (2, 4)).unbind(1)
        loop.C.copy_(torch.stack([real, -imag], -1) / 2)
        loop.D.copy_(found["D"][:, 0])
    u, gaps = (tensor.double() for tensor in drawn(Sizes(2, 7, 3)))
    torch.testing.assert_close(loop(u, gaps), layer(u, gaps)[0])


def test_the_dense_solves_are_the_same_bank():
    layer, found = layer_like("quasiseparable", "bilinear", 3, 8)
    bank = structured.DenseBank(3, 8).double()
    with torch.no_grad():
        A, B, C, D = layer.system().to_dense()
        bank.A.copy_(A[0] / found["log_step"].exp()[0])
        bank.log_step.copy_(found["log_step"])
        bank.B.copy_(found["B"])
        bank.C.copy_(C[:, 0])
        bank.D.copy_(D[:, 0])
    u, gaps = (tensor.double() for tensor in drawn(Sizes(2, 7, 3)))
    torch.testing.assert_close(bank(u, gaps), layer(u, gaps)[0])


def test_the_command_line_knows_the_rows():
    assert arguments([]).only == list(ROWS)
    assert arguments(["--only", "bank", "eager", "--quick"]).only == ["bank", "eager"]
    with pytest.raises(SystemExit):
        arguments(["--only", "no_such_row"])
