"""Which view runs: the rule over every structure, that it reads no data, and that the layer obeys it."""

import dataclasses

import pytest
import torch

from ctlssl.layers import lssl
from ctlssl.layers.view_choice import VIEWS, ViewChoice, choose_view, crossover_length
from ctlssl.views import Integration
from tests.contracts import KIND_PARAMS, STRUCTURES, generator, layer_batch, make_layer, same_bits

LONG = 10**6
NAMES = pytest.mark.parametrize("structure", STRUCTURES)
KINDS = pytest.mark.parametrize("multi_input", KIND_PARAMS)


def chosen(structure, multi_input, device="cpu", view="auto", dt=None, rate=1.0, is_query=None, length=LONG):
    return choose_view(view, dt, rate, is_query, length, (structure, multi_input, device, False))


@NAMES
@KINDS
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_convolution_from_the_crossover_on(structure, multi_input, device):
    crossover = crossover_length(structure, multi_input, device)
    at_every_length = chosen(structure, multi_input, device)
    if crossover is None:
        assert at_every_length.name == "recurrence" and "at every length" in at_every_length.reason
    else:
        found = [chosen(structure, multi_input, device, length=length) for length in (0, crossover - 1, crossover)]
        assert [choice.name for choice in found] == ["recurrence", "recurrence", "convolution"]
        assert all(str(crossover) in choice.reason for choice in found)
        assert at_every_length.name == "convolution"
    assert "benchmarks/crossover.py" in at_every_length.reason and structure in at_every_length.reason


def test_exact_rules_of_a_matrix_a_gap_convolve_early():
    early, late = (crossover_length("dplr", False, "cpu", tabulated) for tabulated in (True, False))
    assert early < late and crossover_length("diagonal", False, "cpu", True) is None
    layer = make_layer("dplr", "zoh")
    assert layer.chosen_view(torch.ones(1, early, layer.channels), 0.1).name == "convolution"
    assert make_layer("dplr", "bilinear").chosen_view(torch.ones(1, early, layer.channels), 0.1).name == "recurrence"


@NAMES
def test_fixed_banks_convolve_earlier(structure):
    """What a fixed system keeps makes the convolution cheaper; with several inputs and on a GPU nothing changes."""
    fixed, learned = (crossover_length(structure, False, "cpu", fixed=fixed) for fixed in (True, False))
    assert fixed <= (learned or LONG)
    for given in ((True, "cpu"), (False, "cuda"), (True, "cuda")):
        assert crossover_length(structure, *given, fixed=True) == crossover_length(structure, *given)
    layer = make_layer(structure, "bilinear", learn=())
    choice = layer.chosen_view(torch.ones(1, fixed, layer.channels), 0.1)
    assert choice.name == "convolution" and "fixed" in choice.reason
    assert make_layer(structure, learn=()).chosen_view(torch.ones(1, fixed - 1, 3), 0.1).name == "recurrence"


def test_gated_layers_step():
    layer = make_layer("dplr", "bilinear", step_size="gated")
    choice = layer.chosen_view(torch.ones(1, LONG, layer.channels), 0.1)
    assert choice.name == "recurrence" and "depend on the input" in choice.reason


@NAMES
@KINDS
def test_what_allows_more_than_one_gap_takes_the_recurrence(structure, multi_input):
    for given, word in (
        ({"dt": torch.ones(5)}, "dt"),
        ({"dt": torch.ones(1)}, "dt"),
        ({"dt": torch.ones(2, 5)}, "dt"),
        ({"dt": [1.0, 1.0]}, "dt"),
        ({"rate": torch.ones(2)}, "rate"),
        ({"is_query": torch.zeros(2, 5, dtype=torch.bool)}, "is_query"),
        ({"dt": 0.1, "rate": 2.0, "is_query": torch.zeros(5, dtype=torch.bool)}, "is_query"),
    ):
        choice = chosen(structure, multi_input, **given)
        assert choice.name == "recurrence" and word in choice.reason
    for given in ({"dt": 0.1}, {"dt": torch.tensor(0.1)}, {"dt": 2, "rate": 0.5}, {"rate": torch.tensor(3.0)}):
        assert chosen(structure, multi_input, **given) == chosen(structure, multi_input)


def test_what_was_asked_for_runs():
    for name in VIEWS:
        assert chosen("dense", False, view=name, dt=torch.ones(3), length=3) == ViewChoice(
            name, f"view={name!r} was asked for"
        )
    assert chosen("diagonal", True, view=Integration("dopri5")).name == "integration"


@pytest.mark.parametrize("view", ["fourier", "", None, ["auto"], 3])
def test_an_unknown_view_is_refused(view):
    with pytest.raises(ValueError, match="choose auto, recurrence, convolution, integration"):
        chosen("dense", False, view=view)
    with pytest.raises(ValueError, match="choose auto"):
        make_layer("dense").chosen_view(torch.zeros(1, 3, 3), view=view)


def test_a_choice_is_a_value():
    choice = chosen("dense", False)
    assert choice == chosen("dense", False) and hash(choice) == hash(chosen("dense", False))
    with pytest.raises(dataclasses.FrozenInstanceError):
        choice.name = "recurrence"


@pytest.mark.parametrize("given", [{"dt": torch.ones(4)}, {"rate": torch.ones(3)}, {"is_query": torch.zeros(2, 5)}])
def test_the_method_refuses_what_forward_refuses(given):
    layer, u = make_layer("diagonal"), torch.zeros(2, 5, 3, dtype=torch.float64)
    for call in (layer.chosen_view, layer):
        with pytest.raises(ValueError, match="found"):
            call(u, **given)
        with pytest.raises(ValueError, match="u needs shape"):
            call(u[..., :2])


@NAMES
@KINDS
@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_layer_runs_what_it_says(structure, multi_input, bidirectional, monkeypatch):
    """The views note that they were run, over all kinds of arguments; the numbers are those of the named view."""
    rng = generator("view choice", structure, multi_input, bidirectional)
    ran = []

    def noted(name, view):
        def run(*rows, **options):
            ran.append(name)
            return view(*rows, **options)

        return run

    for name, view in VIEWS.items():
        monkeypatch.setitem(VIEWS, name, noted(name, view))
    monkeypatch.setattr(lssl, "integration", VIEWS["integration"])
    layer = make_layer(structure, multi_input=multi_input, bidirectional=bidirectional)
    u, _ = layer_batch(rng, 2, 40)
    flags = torch.zeros(2, 40, dtype=torch.bool)
    for given in (
        {}, {"dt": 0.2}, {"dt": torch.tensor(0.2), "rate": 1.5}, {"dt": torch.full((40,), 0.2)},
        {"is_query": flags}, {"rate": torch.ones(2)}, {"dt": 0.2, "view": "convolution"},
        {"dt": torch.full((2, 40), 0.2), "view": "recurrence"},
    ):  # fmt: skip
        choice = layer.chosen_view(u, **given)
        ran.clear()
        y, _ = layer(u, **given)
        assert ran == [choice.name] * (1 + bidirectional)
        assert same_bits(y, layer(u, **{**given, "view": choice.name})[0])
    choice = layer.chosen_view(u[:, :3], 0.2, view=Integration("dopri5"))
    ran.clear()
    layer(u[:, :3], 0.2, view=Integration("dopri5"))
    assert ran == [choice.name] * (1 + bidirectional) == ["integration"] * (1 + bidirectional)


@NAMES
@KINDS
def test_no_content_is_read(structure, multi_input):
    """Gaps and inputs of any content, NaN too, give one choice for one shape."""
    layer = make_layer(structure, multi_input=multi_input)
    u = torch.zeros(2, 30, 3, dtype=torch.float64)
    for shape in ((30,), (2, 30)):
        kinds = [torch.full(shape, value, dtype=torch.float64) for value in (1.0, torch.nan, -1.0)]
        kinds.append(torch.rand(shape, dtype=torch.float64))
        assert len({layer.chosen_view(v, dt) for v in (u, u + torch.nan) for dt in kinds}) == 1
    assert layer.chosen_view(u, 0.1) == layer.chosen_view(u * torch.nan, 7.0)
