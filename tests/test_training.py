"""Training: the closed form where there is one, the same bits for a seed, and nothing left behind."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from ctlssl.layers import LSSL, LinOSS, SelectiveLSSL
from ctlssl.tasks import Examples
from ctlssl.training import Training, evaluate, fit, predict
from ctlssl.training.batches import shuffled
from ctlssl.training.optimization import parameter_groups
from tests import toys


def built(problem, seed=0, **options):
    """A toy model with weights drawn from the seed."""
    torch.manual_seed(seed)
    return toys.Affine(problem, **options)


def weights(model):
    """All weights as one vector."""
    return torch.cat([value.flatten() for value in model.state_dict().values()])


class TestFit:
    def test_linear_regression_reaches_least_squares(self):
        problem, examples = toys.regression(seed=1)
        model = built(problem, dtype=torch.float64)
        plan = Training(epochs=300, batch_size=64, learning_rate=0.05, weight_decay=0.0, clip=100.0)
        history = fit(model, examples, training=plan)
        inputs = torch.cat([examples.series.values[:, 0], torch.ones(64, 1, dtype=torch.float64)], dim=1)  # (B, 3)
        truth = torch.linalg.lstsq(inputs, examples.labels).solution.squeeze()  # (3,)
        found = torch.cat([model.linear.weight.squeeze(), model.linear.bias])
        torch.testing.assert_close(found.detach(), truth, atol=1e-5, rtol=0)
        residual = float((inputs @ truth[:, None] - examples.labels).square().mean())
        assert history.train_loss[-1] == pytest.approx(residual, rel=1e-6)
        assert evaluate(model, examples)["rmse"] == pytest.approx(math.sqrt(residual), rel=1e-6)
        assert history.best_epoch == 299 and history.valid_loss == ()

    def test_scale_becomes_the_deviation_of_the_noise(self):
        problem, examples = toys.forecasting(seed=2, batch=300)
        noise = 0.4 * torch.randn(examples.targets.shape)
        examples = replace(examples, targets=examples.targets + noise)
        model = built(problem)
        fit(model, examples, training=Training(epochs=60, learning_rate=0.05, weight_decay=0.0, clip=100.0))
        deviation = [noise[..., d][examples.target_observed[..., d]].std().item() for d in range(2)]
        assert model.log_scale.exp().tolist() == pytest.approx(deviation, rel=0.1)

    @pytest.mark.parametrize("data", [toys.classification, toys.forecasting])
    def test_same_seed_same_bits(self, data):
        problem, examples = data(seed=3)
        runs = []
        for seed in (5, 5, 6):
            model = built(problem, dropout=0.3)
            torch.manual_seed(len(runs))  # whatever the global state is
            history = fit(model, examples, examples, Training(epochs=3, batch_size=16, seed=seed))
            runs.append((weights(model), history.train_loss, history.valid_loss))
        assert torch.equal(runs[0][0], runs[1][0]) and runs[0][1:] == runs[1][1:]
        assert not torch.equal(runs[0][0], runs[2][0])

    def test_global_randomness_and_modes_are_left_as_found(self):
        problem, examples = toys.classification(seed=4)
        model = built(problem, dropout=0.3)
        model.train()
        model.linear.eval()
        states = torch.get_rng_state(), np.random.get_state()[1].copy()
        fit(model, examples, examples, Training(epochs=2))
        evaluate(model, examples)
        assert torch.equal(states[0], torch.get_rng_state())
        assert np.array_equal(states[1], np.random.get_state()[1])
        assert model.training and model.dropout.training and not model.linear.training
        assert torch.is_grad_enabled()

    def test_stops_early_and_restores_the_best_weights(self):
        problem, train = toys.regression(seed=5)
        _, valid = toys.regression(seed=6)
        seen = []
        model = built(problem, dtype=torch.float64)

        def watch(epoch, train_loss, valid_loss):
            seen.append((epoch, valid_loss, weights(model)))

        plan = Training(epochs=500, batch_size=8, learning_rate=0.2, patience=4)
        history = fit(model, train, valid, plan, progress=watch)
        losses = [loss for _, loss, _ in seen]
        assert [epoch for epoch, _, _ in seen] == list(range(1, len(seen) + 1))
        assert history.valid_loss == tuple(losses) and len(losses) < 500
        assert history.best_epoch == int(np.argmin(losses)) == len(losses) - 1 - 4
        assert torch.equal(weights(model), seen[history.best_epoch][2])
        assert evaluate(model, valid)["rmse"] ** 2 == pytest.approx(min(losses), rel=1e-9)

    def test_counts_the_evaluations_of_training_alone(self):
        problem, examples = toys.regression(seed=7, batch=40)
        model = built(problem, dtype=torch.float64)
        history = fit(model, examples, examples, Training(epochs=2, batch_size=16))
        assert history.evaluations_per_epoch == 9  # three batches, three evaluations each
        assert len(history.seconds) == 2 and all(seconds > 0 for seconds in history.seconds)

    def test_batches_made_anew_and_a_measure_of_ones_own(self):
        problem, examples = toys.regression(seed=14)
        plan = Training(epochs=6, batch_size=16, seed=3)
        order, measured = torch.Generator().manual_seed(plan.seed), [3.0, 2.0, 5.0, 4.0, 6.0, 7.0]

        def batches(epoch):
            for index in shuffled(examples.series.lengths, plan.batch_size, order):
                yield examples.select(index)

        models, histories = [built(problem, dtype=torch.float64) for _ in range(2)], []
        for model, part in zip(models, (examples, batches), strict=True):
            histories.append(fit(model, part, training=plan))
        assert torch.equal(weights(models[0]), weights(models[1]))
        assert histories[0].train_loss == histories[1].train_loss

        short = built(problem, dtype=torch.float64)
        fit(short, examples, training=Training(epochs=2, batch_size=16, seed=3))
        model = built(problem, dtype=torch.float64)
        history = fit(model, examples, measured.__getitem__, plan)
        assert history.valid_loss == tuple(measured) and history.best_epoch == 1
        assert torch.equal(weights(model), weights(short))

    def test_an_epoch_without_a_target_has_no_loss(self):
        problem, _ = toys.regression(seed=15)
        history = fit(built(problem), lambda epoch: [], training=Training(epochs=2))
        assert all(math.isnan(loss) for loss in history.train_loss)

    def test_series_that_are_shuffled_train_as_well(self):
        problem, examples = toys.classification(seed=8)
        shuffled = examples.select(torch.randperm(len(examples)))
        scores = []
        for part in (examples, shuffled):
            model = built(problem)
            fit(model, part, training=Training(epochs=40, learning_rate=0.05))
            scores.append(evaluate(model, examples)["auroc"])
        assert min(scores) > 0.95 and abs(scores[0] - scores[1]) < 0.01

    def test_labels_that_are_shuffled_cannot_be_learned(self):
        problem, examples = toys.classification(seed=9, batch=400)
        mixed = Examples(examples.series, examples.ids, examples.labels[torch.randperm(400)])
        model = built(problem)
        fit(model, mixed.select(slice(0, 200)), training=Training(epochs=30, learning_rate=0.05))
        assert abs(evaluate(model, mixed.select(slice(200, 400)))["auroc"] - 0.5) < 0.12

    def test_three_classes(self):
        problem, examples = toys.classification(seed=10, classes=3)
        model = built(problem)
        fit(model, examples, training=Training(epochs=60, learning_rate=0.05))
        scores = evaluate(model, examples)
        assert set(scores) == {"auroc", "auprc", "log_loss", "accuracy", "macro_f1"}
        assert scores["accuracy"] > 0.75


class TestSchedule:
    def test_the_rate_falls_as_half_a_cosine(self):
        problem, examples = toys.regression(seed=6)
        model = built(problem, dtype=torch.float64)
        rates, step = [], torch.optim.AdamW.step

        def watched(optimizer, *arguments, **options):
            rates.append(optimizer.param_groups[0]["lr"])
            return step(optimizer, *arguments, **options)

        torch.optim.AdamW.step = watched
        try:
            fit(model, examples, training=Training(epochs=3, batch_size=16, learning_rate=0.1, schedule="cosine"))
        finally:
            torch.optim.AdamW.step = step
        assert rates == pytest.approx([0.05 * (1 + math.cos(math.pi * k / 12)) for k in range(12)])

    def test_the_average_is_that_of_the_weights_after_every_step(self):
        problem, examples = toys.regression(seed=7)
        model, seen = built(problem, dtype=torch.float64), []
        plan = Training(epochs=4, batch_size=16, learning_rate=0.05, average=0.9)

        def batches(epoch):
            for start in range(0, 64, 16):
                seen.append(weights(model).clone())
                yield examples.select(slice(start, start + 16))

        fit(model, batches, training=plan)
        again = built(problem, dtype=torch.float64)
        fit(
            again,
            lambda epoch: (examples.select(slice(k, k + 16)) for k in range(0, 64, 16)),
            training=replace(plan, average=0.0),
        )
        mean = seen[0]
        for step, now in enumerate([*seen[1:], weights(again)], start=1):
            decay = min(0.9, step / (step + 9))
            mean = decay * mean + (1 - decay) * now
        torch.testing.assert_close(weights(model), mean, rtol=1e-12, atol=1e-12)

    def test_what_is_validated_is_what_is_kept(self):
        problem, examples = toys.classification(seed=8)
        model, met = built(problem), []
        history = fit(
            model,
            examples,
            lambda epoch: met.append(weights(model).clone()) or -float(epoch),
            Training(epochs=3, average=0.95),
        )
        assert history.best_epoch == 2 and torch.equal(weights(model), met[2])


class TestErrors:
    def test_empty_parts(self):
        problem, examples = toys.regression(seed=11)
        model = built(problem, dtype=torch.float64)
        nothing = examples.select([])
        for arguments in ((nothing,), (examples, nothing)):
            with pytest.raises(ValueError, match="part has no series"):
                fit(model, *arguments)
        with pytest.raises(ValueError, match="evaluated part has no series"):
            evaluate(model, nothing)

    def test_arguments_of_another_kind_or_in_another_place(self):
        problem, examples = toys.regression(seed=11)
        model = built(problem, dtype=torch.float64)
        for call, message in (
            (lambda: fit(torch.nn.Linear(2, 2), examples), "fit takes a ctlssl.Model first, .*; found Linear"),
            (
                lambda: fit(model, examples, Training()),
                "valid of fit is Examples, found Training; give it as training=",
            ),
            (lambda: fit(model, Training()), "train of fit is Examples, found Training"),
            (lambda: fit(model, examples.series), "train of fit is Examples, found TimeSeries"),
            (lambda: fit(model, examples, None, {"epochs": 1}), "training of fit is Training, found dict"),
            (lambda: evaluate(examples, model), "evaluate takes a ctlssl.Model first, .*; found Examples"),
            (lambda: predict(model, examples.series), "examples of predict is Examples, found TimeSeries"),
        ):
            with pytest.raises(TypeError, match=message):
                call()

    def test_missing_answers(self):
        problem, examples = toys.forecasting(seed=12)
        blind = Examples(examples.series, examples.ids)
        with pytest.raises(ValueError, match="no query_times and no targets, which forecasting needs"):
            fit(built(problem), blind)

    def test_a_loss_that_is_not_finite_names_epoch_step_and_series(self):
        problem, examples = toys.regression(seed=13, batch=6)
        labels = examples.labels.clone()
        labels[4] = math.inf
        model = built(problem, dtype=torch.float64)
        before = weights(model)
        with pytest.raises(FloatingPointError, match=r"epoch 1, step 1: the loss is not finite for series s4; lower"):
            fit(model, Examples(examples.series, examples.ids, labels))
        assert torch.equal(before, weights(model))

    def test_divergence_keeps_the_best_weights(self):
        problem, examples = toys.regression(seed=14)
        model = built(problem, dtype=torch.float64)
        kept = []

        def spoil(epoch, train_loss, valid_loss):
            kept.append(weights(model))
            if epoch == 2:
                with torch.no_grad():
                    model.linear.bias.fill_(math.nan)

        with pytest.raises(FloatingPointError, match="epoch 3, step 1"):
            fit(model, examples, examples, Training(learning_rate=1e-3), progress=spoil)
        assert torch.equal(weights(model), kept[1])

    def test_a_gradient_that_is_not_finite(self):
        problem, examples = toys.regression(seed=15, batch=4)
        model = built(problem, dtype=torch.float64)
        model.linear.weight.register_hook(lambda gradient: gradient * math.nan)
        with pytest.raises(FloatingPointError, match="the gradient is not finite with series s"):
            fit(model, examples)

    @pytest.mark.parametrize(
        "name, value",
        [
            *{"epochs": 0, "batch_size": 2.5, "learning_rate": 0.0, "clip": math.nan, "patience": True}.items(),
            *{"seed": -1, "average": 1.0, "thin": 1.0, "schedule": "linear"}.items(),
        ],
    )
    def test_settings(self, name, value):
        with pytest.raises(ValueError, match=f"{name} is {value!r}"):
            Training(**{name: value})


class TestPredict:
    def test_in_the_order_of_the_examples_whatever_the_batches(self):
        problem, examples = toys.classification(seed=16)
        model = built(problem)
        together = predict(model, examples, batch_size=1000).logits
        torch.testing.assert_close(predict(model, examples, batch_size=7).logits, together)
        torch.testing.assert_close(together, model(examples.series).logits)
        assert not together.requires_grad

    def test_absent_queries_are_filled(self):
        problem, examples = toys.forecasting(seed=17)
        model = built(problem)
        prediction = predict(model, examples, batch_size=3)
        absent = torch.isnan(examples.query_times)
        assert prediction.mean.shape == examples.targets.shape == prediction.scale.shape
        torch.testing.assert_close(prediction.mean, model(examples.series, examples.query_times).mean)
        assert bool((prediction.mean[absent] == 0).all())

    def test_metrics_pool_the_observed_targets(self):
        problem, examples = toys.forecasting(seed=18)
        model = built(problem)
        error = (predict(model, examples).mean - examples.targets)[examples.target_observed].double()
        scores = evaluate(model, examples, batch_size=7)
        assert scores["rmse"] == pytest.approx(error.square().mean().sqrt().item(), rel=1e-5)
        assert scores["mae"] == pytest.approx(error.abs().mean().item(), rel=1e-5)


def test_settings_are_json():
    plan = Training(epochs=3)
    assert Training(**json.loads(json.dumps(plan.to_dict()))) == plan


def test_parameters_of_a_state_space_learn_slowly_and_do_not_decay():
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3))
    dynamics = torch.nn.Parameter(torch.zeros(3, 4))
    dynamics._no_weight_decay = True
    module.register_parameter("dynamics", dynamics)
    frozen = torch.nn.Parameter(torch.zeros(2, 2), requires_grad=False)
    module.register_parameter("frozen", frozen)
    groups = parameter_groups(module, Training(learning_rate=0.1, dynamics_rate=0.5, weight_decay=0.2))
    settings = [(len(group["params"]), group["lr"], group["weight_decay"]) for group in groups]
    assert settings == [(1, 0.1, 0.2), (3, 0.1, 0.0), (1, 0.05, 0.0)]
    assert groups[2]["params"][0] is dynamics


@pytest.mark.parametrize("structure", ["dense", "diagonal", "dplr", "quasiseparable"])
def test_the_dynamics_of_a_layer_are_found_whatever_its_structure(structure):
    layer = LSSL(channels=4, state_size=8, structure=structure)
    readout, dynamics = parameter_groups(layer, Training())
    assert {id(parameter) for parameter in readout["params"]} == {id(layer.C), id(layer.D)}
    assert len(dynamics["params"]) == len(list(layer.parameters())) - 2
    assert dynamics["weight_decay"] == 0 and dynamics["lr"] < readout["lr"]


@pytest.mark.parametrize("layer", [LinOSS(4, 8, damped=True), SelectiveLSSL(4, 8)], ids=["linoss", "selective"])
def test_the_dynamics_of_the_family_are_found(layer):
    *_, dynamics = parameter_groups(layer, Training())
    expected = {id(getattr(layer, name)) for name in layer.dynamics}
    assert {id(parameter) for parameter in dynamics["params"]} == expected and len(expected) == len(layer.dynamics)
    assert dynamics["weight_decay"] == 0 and dynamics["lr"] < Training().learning_rate
