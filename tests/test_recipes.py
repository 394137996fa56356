"""Recipes: plain data that name what exists, and a reproduction that goes on where it was left."""

import json
import re
from dataclasses import replace

import pytest
import torch
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from ctlssl import recipes
from ctlssl.baselines import REFERENCES
from ctlssl.cli import app
from ctlssl.models import Ensemble
from ctlssl.recipes import RECIPES, Recipe, ablate, reproduce, reproduce_reference
from ctlssl.tasks import TASKS, prepare
from ctlssl.training import Training, evaluate, fit

SMALL = Recipe(
    "covid19/death",
    "auroc",
    width=8,
    training={"epochs": 2, "batch_size": 64},
    members=2,
    refit=True,
    seeds=2,
    ablation={
        "one model": {"members": 1},
        "slow, deep": {"training": {"learning_rate": 1e-4}, "options": {"layers": 2}},
    },
)


@pytest.mark.parametrize("task", RECIPES)
def test_what_the_project_uses_is_plain_data(task):
    recipe = RECIPES[task]
    assert recipe.task == task
    for variant in recipe.variants().values():
        assert isinstance(variant.plan(3), Training) and variant.plan(3).seed == 3
        json.dumps({**variant.options, **variant.training})


def test_a_variant_keeps_what_it_does_not_name():
    slow = SMALL.variants()["slow, deep"]
    assert slow.training == {"epochs": 2, "batch_size": 64, "learning_rate": 1e-4}
    assert (slow.options, slow.members, slow.ablation) == ({"layers": 2}, 2, {})
    assert SMALL.variants()["recipe"] is SMALL


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task": "covid19/life"}, "unknown task"),
        ({"model": "lsl"}, "model 'lsl' is unknown"),
        ({"members": 0}, "members is 0"),
        ({"options": {"depth": 2}}, "lssl has no option depth; it has bidirectional"),
        ({"training": {"epoch": 3}}, "training of the recipe for covid19/death"),
        ({"ablation": {"x": {"training": {"epochs": 0}}}}, "epochs is 0"),
        ({"kinds": [{}, {"training": {"epochs": 0}}]}, "epochs is 0"),
        ({"kinds": [{"members": 3}]}, "kinds change ['members']; members may differ in"),
    ],
)
def test_what_cannot_be_is_refused(fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Recipe(**{"task": "covid19/death", "metric": "auroc", **fields})


def test_members_take_the_kinds_in_turn():
    mixed = replace(SMALL, members=3, kinds=[{}, {"width": 4, "training": {"epochs": 1}}])
    first, second, third = (mixed.member(k) for k in range(3))
    assert first.training == third.training == SMALL.training and first.width == third.width == 8
    assert second.width == 4 and second.training == {"epochs": 1, "batch_size": 64}
    assert SMALL.member(1) is SMALL


class TestReproduction:
    def test_it_is_the_ensemble_trained_by_hand(self):
        found = reproduce(SMALL, seeds=1)
        split, members = prepare("covid19/death", 0, refit=True), []
        assert len(split.train) == 196 + 65
        for seed in (0, 1000):
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                model = recipes.reproduction.models_by_name("lssl")["lssl"](split.problem, width=8)
            fit(model, split.train, None, SMALL.plan(seed))
            members.append(model)
        expected = evaluate(Ensemble(members), split.test)
        assert {name: values[0] for name, values in found.metrics.items()} == pytest.approx(expected, abs=1e-12)
        assert found.parameters == sum(parameter.numel() for parameter in members[0].parameters())

    def test_members_of_several_kinds_are_those_of_their_own_recipes(self):
        kinds = [{}, {"width": 4, "training": {"epochs": 1}}]
        found = reproduce(replace(SMALL, kinds=kinds), seeds=1)
        split, members = prepare("covid19/death", 0, refit=True), []
        for seed, width, epochs in ((0, 8, 2), (1000, 4, 1)):
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                model = recipes.reproduction.models_by_name("lssl")["lssl"](split.problem, width=width)
            fit(model, split.train, None, Training(epochs=epochs, batch_size=64, seed=seed))
            members.append(model)
        expected = evaluate(Ensemble(members), split.test)
        assert {name: values[0] for name, values in found.metrics.items()} == pytest.approx(expected, abs=1e-12)

    def test_killed_it_goes_on_to_the_same_numbers(self, tmp_path):
        whole = reproduce(SMALL, out=tmp_path / "whole")

        class Killed(Exception):
            pass

        def killed_in(count):
            lines = []

            def tell(line):
                lines.append(line)
                if len(lines) == count:
                    raise Killed

            return tell

        for count in (3, 2, 3):
            with pytest.raises(Killed):
                reproduce(SMALL, out=tmp_path / "parts", tell=killed_in(count))
        lines = []
        again = reproduce(SMALL, out=tmp_path / "parts", tell=lines.append)
        assert again.metrics == whole.metrics and len(lines) < 8
        assert reproduce(SMALL, out=tmp_path / "parts", tell=killed_in(1)).metrics == whole.metrics

    def test_an_ablation_reads_no_test_part(self, monkeypatch):
        def hidden(*arguments, **options):
            split = prepare(*arguments, **options)
            object.__setattr__(split, "test", None)
            return split

        monkeypatch.setattr(recipes.reproduction, "prepare", hidden)
        monkeypatch.setattr(recipes.reproduction, "digest_of_split", lambda split: "")
        found = ablate(SMALL, seeds=1)
        assert list(found) == ["recipe", "one model", "slow, deep"]
        assert found["slow, deep"].parameters > found["recipe"].parameters
        with pytest.raises(ValueError, match="no variant 'fast'; it has recipe, one model, slow, deep"):
            ablate(SMALL, only=["fast"])

    def test_subgroups_are_scored_beside_all(self, monkeypatch):
        def old(examples):
            return examples.series.static[:, 0].numpy() > 0  # beyond the mean age

        task = replace(TASKS["covid19/death"], subgroups={"old": old})
        monkeypatch.setitem(TASKS, "covid19/death", task)
        found = reproduce_reference(SMALL, "linear", seeds=1).metrics
        split = prepare("covid19/death", 0, refit=True)
        fitted = REFERENCES["linear"](split.problem).fit(split.train.series, split.train.labels)
        logits, chosen = fitted.predict(split.test.series).logits, old(split.test)
        labels = split.test.labels.numpy()
        assert found["auroc"][0] == roc_auc_score(labels, (logits[:, 1] - logits[:, 0]).numpy())
        chances = (logits[:, 1] - logits[:, 0]).numpy()[chosen]
        assert found["auroc, old"][0] == roc_auc_score(labels[chosen], chances)
        assert "auroc, old" in reproduce(SMALL, seeds=1).metrics

    def test_a_reference_learns_from_the_same_series(self):
        found = reproduce_reference(SMALL, "linear", seeds=1)
        assert 0.5 < found.metrics["auroc"][0] <= 1.0


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(RECIPES, "covid19/death", SMALL)
    run = CliRunner().invoke(
        app, ["reproduce", "covid19/death", "--out", str(tmp_path), "--seeds", "2", "--reference", "linear"]
    )
    assert run.exit_code == 0, run.output
    assert "| covid19/death, test part, 2 seeds | auroc |" in run.output
    assert "+-" in run.output and "| linear |" in run.output
    run = CliRunner().invoke(
        app, ["reproduce", "covid19/death", "--out", str(tmp_path), "--seeds", "1", "--ablate", "--only", "slow, deep"]
    )
    assert run.exit_code == 0 and "validation part, 1 seed |" in run.output and "| slow, deep |" in run.output
    for more, message in ((["--only", "one model"], "give --ablate"), (["--ablate", "--members", "2"], "leave out")):
        run = CliRunner().invoke(app, ["reproduce", "pendulum_cru/angles", *more])
        assert run.exit_code == 2 and message in run.output
    run = CliRunner().invoke(app, ["reproduce", "covid19/life"])
    assert run.exit_code == 2 and "has no recipe; there are" in run.output
