"""The clock contract, every line, over every layer, structure, method and option, every model and baseline."""

import itertools
import zlib

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings

from ctlssl.baselines import BASELINES
from ctlssl.contract import Model
from ctlssl.discretization import METHODS, Discretization, exact, gbt
from ctlssl.holds import PREVIOUS
from ctlssl.models import EventModel, LSSLModel, PaperSize, paper_model
from ctlssl.series import TimeSeries
from ctlssl.testing import LayerCase, ModelCase, check_clock
from ctlssl.testing.model_cases import tick
from tests.contracts import KIND_PARAMS, STRUCTURE_PARAMS, STRUCTURES, make_layer, sampled
from tests.members import CHANNELS, MEMBERS, PROBLEMS, STATIC, Member

WAYS = {
    **METHODS,
    "gbt(0.3)": Discretization(gbt(0.3)),
    "gbt(0.7)": Discretization(gbt(0.7)),
    "exact+previous": Discretization(exact, PREVIOUS),
}
DIRECTIONS = [pytest.param(False, id="causal"), pytest.param(True, id="bidirectional")]
# Derandomized: the same examples in every run, which hypothesis prints where one fails.
FEW = settings(
    max_examples=2,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)
ONE = settings(FEW, max_examples=1)
GAPS = (0.0, 1e-6, 1e-3, 1.0, 1e3)


NEWER = {"lssl-labelling", "gru-survival", "lssl-quantiles"}


def spread(chosen, *tables):
    """Every combination; the chosen ones run by default, the others are slow."""
    return [
        pytest.param(*param.values, id=param.id, marks=() if param.id in chosen else pytest.mark.slow)
        for param in sampled(0.0, *tables)
    ]


@st.composite
def ragged(draw):
    """A batch, its padded length and its lengths, with a seed for what is in it; the first tried is a large one."""
    B, L = draw(st.sampled_from([3, 2, 1])), draw(st.sampled_from([6, 5, 4, 3, 2]))
    shorter = draw(st.lists(st.integers(0, L), min_size=B, max_size=B))
    return B, L, [L - rows for rows in shorter], draw(st.integers(0, 2**31))


@st.composite
def layer_cases(draw):
    """Ragged series with gaps over four decades, some of them far out, and queries anywhere."""
    B, L, lengths, seed = draw(ragged())
    random = torch.Generator().manual_seed(seed)
    dt = (10.0 ** (4 * torch.rand(B, L, generator=random) - 2)).double()
    for place, gap in draw(st.dictionaries(st.integers(0, B * L - 1), st.sampled_from(GAPS), max_size=3)).items():
        dt.view(-1)[place] = gap
    asked = st.lists(st.integers(0, L), min_size=1, max_size=3)
    places = tuple(tuple(sorted(min(place, length) for place in draw(asked))) for length in lengths)
    u = torch.randn(B, L, 3, generator=random).double()
    return LayerCase("drawn", u, dt.float().double(), torch.tensor(lengths), places, seed)


@st.composite
def model_cases(draw, problem=PROBLEMS["forecasting"]):
    """Ragged series, rows that share a time, rows with nothing in them, and queries anywhere."""
    B, L, lengths, seed = draw(ragged())
    unit, random = tick(problem), torch.Generator().manual_seed(seed)
    gaps = draw(st.lists(st.sampled_from([64, 0, 1, 7, 1000, 20000]), min_size=B * L, max_size=B * L))
    times = 512 * unit + torch.tensor(gaps, dtype=torch.float64).reshape(B, L).cumsum(1) * unit
    series = TimeSeries(
        torch.randn(B, L, CHANNELS, generator=random).double(),
        times,
        torch.rand(B, L, CHANNELS, generator=random) < draw(st.sampled_from([0.5, 0.2, 1.0])),
        torch.tensor(lengths),
        torch.randn(B, STATIC, generator=random).double(),
    )
    asked = draw(st.lists(st.one_of(st.integers(0, 60000), st.none()), min_size=2 * B, max_size=2 * B))
    queries = torch.tensor([torch.nan if q is None else (q + 0.5) * unit for q in asked], dtype=torch.float64)
    return ModelCase("drawn", series, queries.reshape(B, 2), seed)


def built(structure, method, multi_input=False, **options):
    """A small layer, the same in every run."""
    torch.default_generator.manual_seed(zlib.crc32(repr((structure, method, multi_input, options)).encode()))
    layer = make_layer(structure, WAYS[method], multi_input, torch.float32, **options)
    with torch.no_grad():
        layer.C.mul_(1.5)
    return layer


LAYERS = {
    "diagonal-zoh-bank-causal",
    "diagonal-foh-multi-input-bidirectional",
    "diagonal-exact+previous-bank-bidirectional",
    "quasiseparable-bilinear-bank-causal",
    "quasiseparable-gbt(0.3)-multi-input-causal",
    "dplr-impulse-bank-causal",
    "dense-backward_euler-multi-input-causal",
}


@pytest.mark.parametrize(
    ("structure", "method", "multi_input", "bidirectional"),
    spread(LAYERS, STRUCTURE_PARAMS, [*WAYS], KIND_PARAMS, DIRECTIONS),
)
@FEW
@given(case=layer_cases(), N=st.sampled_from([2, 4, 6]), heads=st.integers(1, 3))
def test_layers(structure, method, multi_input, bidirectional, case, N, heads):
    options = {"N": N, "bidirectional": bidirectional} | ({} if multi_input else {"heads": heads})
    report = check_clock(built(structure.name, method, multi_input, **options), cases=[case])
    expected = {10} | ({5, 7} if bidirectional else set()) | ({8} if WAYS[method].rule.growing else set())
    assert set(report.not_applicable) == expected


MEASURES = [
    pytest.param(name, measure, id=f"{name}-{measure}")
    for name, structure in STRUCTURES.items()
    for measure in structure.measures
]
OPTIONS = {
    "fixed": {"learn": ()},
    "per_channel": {"per_channel": True},
    "step per layer": {"step_size": "per_layer"},
    "step per state": {"step_size": "per_state"},
    "gate a row": {"step_size": "gated"},
    "gate a channel": {"step_size": "gated_per_channel"},
}


@pytest.mark.parametrize(
    ("structure", "measure", "method"),
    spread(
        {"dplr-fourier-zoh", "diagonal-inv-impulse", "quasiseparable-legt-bilinear"},
        MEASURES,
        ["zoh", "bilinear", "impulse"],
    ),
)
@ONE
@given(case=layer_cases())
def test_measures(structure, measure, method, case):
    check_clock(built(structure, method, measure=measure), cases=[case])


SOME = {"gate a row-zoh-bidirectional", "gate a channel-foh-causal", "step per state-zoh-causal"}


@pytest.mark.parametrize(("option", "method", "bidirectional"), spread(SOME, [*OPTIONS], ["zoh", "foh"], DIRECTIONS))
@ONE
@given(case=layer_cases())
def test_options(option, method, bidirectional, case):
    layer = built("diagonal", method, bidirectional=bidirectional, **OPTIONS[option])
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.startswith("gate"):
                parameter.add_(0.3 * torch.randn_like(parameter))
    check_clock(layer, cases=[case])


@pytest.mark.parametrize(
    ("name", "kind"),
    spread({"lssl-forecasting", "gru-classification", "ode_rnn-regression", *NEWER}, [*BASELINES, "lssl"], [*PROBLEMS]),
)
@FEW
@given(case=model_cases())
def test_models(name, kind, case):
    model = MEMBERS[name].model(kind)
    streams = type(model).initial_state is not Model.initial_state
    assert (5 in check_clock(model, cases=[case]).not_applicable) != streams


@pytest.mark.parametrize(
    ("structure", "method", "multi_input", "bidirectional"),
    spread(
        {"diagonal-zoh-bank-bidirectional"},
        STRUCTURE_PARAMS,
        ["zoh", "bilinear", "impulse"],
        KIND_PARAMS,
        DIRECTIONS,
    ),
)
@ONE
@given(case=model_cases(), layers=st.integers(1, 2))
def test_stacks(structure, method, multi_input, bidirectional, case, layers):
    options = {"structure": structure.name, "method": WAYS[method], "multi_input": multi_input, "layers": layers}
    member = Member(LSSLModel, options | {"bidirectional": bidirectional, "state_size": 4})
    report = check_clock(member.model("forecasting"), cases=[case])
    assert set(report.not_applicable) == ({5, 6, 7} if bidirectional else {6})


def of_events(problem, width):
    return EventModel(problem, width, state_size=4)


def of_the_paper(problem, width):
    return paper_model(problem, PaperSize(layers=2, width=width, state_size=4, heads=2))


@pytest.mark.parametrize(
    ("build", "kind"),
    spread({"of_events-forecasting"}, [pytest.param(b, id=b.__name__) for b in (of_events, of_the_paper)], [*PROBLEMS]),
)
@ONE
@given(case=model_cases())
def test_further_models(build, kind, case):
    report = check_clock(Member(build).model(kind), cases=[case])
    assert (5 in report.not_applicable) == (build is of_events)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ode_rnn", "neural_cde"])
def test_solvers_that_choose_their_steps(name):
    """Steps are chosen for the hardest series of a batch: what is equal otherwise is equal within the tolerance."""
    model = Member(BASELINES[name], {"method": "dopri5", "rtol": 1e-4, "atol": 1e-5}).model("forecasting")
    limits = dict.fromkeys((1, 3, 4, 5, 7), 1e-2)
    check_clock(model, cases=1, length=3, lines=(1, 3, 4, 5, 7, 10), limits=limits)


LONG = [
    *itertools.product(["diagonal"], ["zoh", "foh", "bilinear", "impulse"], [False, True]),
    *itertools.product(["dplr", "quasiseparable"], ["bilinear", "backward_euler"], [False, True]),
    *itertools.product(["dense"], ["bilinear", "foh"], [True]),
    ("quasiseparable", "zoh", True),
    ("dplr", "impulse", True),
]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("structure", "method", "multi_input"), LONG)
def test_ten_thousand_rows(structure, method, multi_input):
    """step == forward == chunks within 1e-12 and 1e-5, gaps over nine decades."""
    L, random = 10_000, torch.Generator().manual_seed(5)
    u = torch.randn(1, L, 3, generator=random).double()
    dt = (10.0 ** (4 * torch.rand(1, L, generator=random) - 2)).double()
    case = LayerCase("long", u, dt, torch.tensor([L]), ((),))
    for check in check_clock(built(structure, method, multi_input), lines=(5,), cases=[case])[5].checks:
        if "gradients" not in check.what:
            assert check.limit == (1e-12 if check.case.endswith("float64") else 1e-5)
