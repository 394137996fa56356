"""The deep network on summaries against its equation in numpy, in a model, and beside the additive one."""

import numpy as np
import pytest
import torch
from scipy.special import erf

from ctlssl.contract import Problem
from ctlssl.deep_summaries import GatedNetwork
from ctlssl.models import Ensemble, LSSLModel
from ctlssl.series import TimeSeries
from ctlssl.training import Training
from ctlssl.training.optimization import parameter_groups
from tests.members import PROBLEMS, answer, batch, close


def gelu(x):
    return x * 0.5 * (1 + erf(x / np.sqrt(2)))


def test_the_network_is_its_equation():
    torch.manual_seed(0)
    network = GatedNetwork(features=5, width=7, outputs=2).double().eval()
    with torch.no_grad():
        network.gates.normal_()
        network.linear.weight.normal_()
    x = np.random.default_rng(0).normal(size=(4, 5))
    p = {name: value.numpy() for name, value in network.state_dict().items()}
    hidden = gelu((6 * p["gates"] * x) @ p["first.weight"].T + p["first.bias"])
    hidden = gelu(hidden @ p["second.weight"].T + p["second.bias"])
    expected = x @ p["linear.weight"].T + hidden @ p["last.weight"].T + p["last.bias"]
    np.testing.assert_allclose(network(torch.from_numpy(x)).detach().numpy(), expected, rtol=1e-12)


def test_gates_start_at_one_and_learn_six_times_as_fast_without_decay():
    torch.manual_seed(0)
    network = GatedNetwork(features=3, width=4, outputs=1).double()
    groups = parameter_groups(network, Training(learning_rate=0.01, weight_decay=10.0))
    optimizer = torch.optim.AdamW(groups)
    network(torch.ones(1, 3).double()).sum().backward()
    optimizer.step()
    # the first step of Adam is one learning rate, whatever the gradient: here .06 of a gate that was 1
    moved = (6 * network.gates.detach() - 1).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.06), rtol=1e-4, atol=0)


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_what_the_network_says_is_added(kind):
    torch.manual_seed(0)
    series, _ = batch(dtype=torch.float64)
    model = LSSLModel(PROBLEMS[kind], width=6, summaries="deep").double().eval()
    encoded, summaries = model.encoder(series, None, 1.0), model.readout.summaries
    read = torch.cat([2.5 * summaries(summaries.gather(encoded), encoded.seen), series.static], dim=1)  # (B, F + S)
    with_it, said = answer(model(series)), model.readout.network(read)
    with torch.no_grad():
        for parameter in model.readout.network.parameters():
            parameter.zero_()
    outputs = PROBLEMS[kind].outputs
    torch.testing.assert_close(with_it[:, :outputs], answer(model(series))[:, :outputs] + said)


def test_an_ensemble_of_both_kinds_goes_on_from_its_state():
    torch.manual_seed(0)
    series, _ = batch(lengths=(7, 5), dtype=torch.float64)
    problem = PROBLEMS["classification"]
    model = Ensemble([LSSLModel(problem, width=6, summaries=how) for how in (True, "deep", False)]).double().eval()
    parts = (series.values, series.times, series.observed)
    first = TimeSeries(*(part[:, :3] for part in parts), torch.tensor([3, 3]), series.static)
    rest = TimeSeries(*(part[:, 3:] for part in parts), torch.tensor([4, 2]), series.static)
    assert close(answer(model(rest, state=model(first).state)), answer(model(series)), 1e-12)


def test_it_learns_what_no_sum_of_terms_tells():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(400, 1, 2, generator=generator)  # (B, L, D)
    labels = (values[:, 0, 0] * values[:, 0, 1] > 0).long()  # (B,): neither channel alone tells anything
    series = TimeSeries(values, torch.zeros(400, 1), torch.ones_like(values, dtype=torch.bool), torch.ones(400).long())
    torch.manual_seed(0)
    model = LSSLModel(Problem("classification", 2, 2), width=16, layers=0, summaries="deep", dropout=0.1)
    encoded, summaries = model.encoder(series, None, 1.0), model.readout.summaries
    read = 2.5 * summaries(summaries.gather(encoded), encoded.seen)  # (B, F)
    optimizer = torch.optim.AdamW(parameter_groups(model.readout, Training(learning_rate=3e-3)))
    for _ in range(100):
        loss = torch.nn.functional.cross_entropy(model.readout.network(read[:300]), labels[:300])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    right = model.readout.network(read[300:]).argmax(1) == labels[300:]
    assert right.double().mean() > 0.9


def test_what_it_cannot_be_is_refused():
    with pytest.raises(ValueError, match="tell a query of what comes after it"):
        LSSLModel(PROBLEMS["forecasting"], summaries="deep")
    with pytest.raises(ValueError, match="summaries is 'wide'; it is False, True or 'deep'"):
        LSSLModel(PROBLEMS["classification"], summaries="wide")
