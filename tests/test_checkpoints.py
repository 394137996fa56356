"""A fit that was interrupted anywhere ends in the same bits, and no damaged checkpoint is believed."""

import errno
import os
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

import ctlssl
from ctlssl.sealed import digest_of_weights
from ctlssl.training import Checkpoints, Interrupted, Training, fit
from ctlssl.training.checkpoints import Checkpoint
from tests.members import PROBLEMS, batch

SETTINGS = Training(epochs=4, batch_size=2, patience=3)


def examples(kind="classification"):
    """Five series of different lengths with something to learn."""
    series, asked = batch()
    if kind == "forecasting":
        wanted = torch.randn(*asked.shape, series.channels, generator=torch.Generator().manual_seed(1))
        observed = ~asked.isnan()[..., None].expand_as(wanted)
        return ctlssl.Examples(series, np.arange(5), query_times=asked, targets=wanted, target_observed=observed)
    return ctlssl.Examples(series, np.arange(5), labels=torch.tensor([0, 1, 2, 1, 0]))


def build(name="lssl", kind="classification", width=8, dropout=0.3):
    torch.manual_seed(3)
    known = {**ctlssl.models.MODELS, **ctlssl.baselines.BASELINES}
    return known[name](PROBLEMS[kind], width=width, dropout=dropout)


class Crash(Exception):
    """Stands for the end of the process."""


def crashing_after(writes):
    """Checkpoints whose process ends right after so many of them; one is written after every step."""

    class Short(Checkpoints):
        left = writes

        def due(self):
            return True

        def write(self, checkpoint):
            super().write(checkpoint)
            self.left -= 1
            if not self.left:
                raise Crash

    return Short


def outcome(model, history):
    return digest_of_weights(model), history.train_loss, history.valid_loss, history.best_epoch


def untouched(name="lssl", kind="classification", training=SETTINGS):
    model, data = build(name, kind), examples(kind)
    return outcome(model, fit(model, data, data, training))


@pytest.mark.parametrize(
    ("name", "kind"), [("lssl", "classification"), ("gru", "forecasting"), ("ode_rnn", "classification")]
)
def test_interrupted_after_any_number_of_checkpoints(tmp_path, name, kind):
    """Three steps and an end of epoch, four times: every place at which a checkpoint is written is one of them."""
    expected, data = untouched(name, kind), examples(kind)
    for writes in range(1, 17):
        folder, random_state = tmp_path / str(writes), torch.random.get_rng_state()
        model = build(name, kind)
        with pytest.raises(Crash):
            fit(model, data, data, SETTINGS, checkpoints=crashing_after(writes)(folder))
        torch.manual_seed(writes)  # a new process knows nothing of the old one
        model = build(name, kind)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        assert outcome(model, fit(model, data, data, SETTINGS, checkpoints=Checkpoints(folder))) == expected
        assert len(list(folder.iterdir())) <= 2
        torch.random.set_rng_state(random_state)


def test_interrupted_again_and_again(tmp_path):
    expected, data = untouched(), examples()
    for _ in range(40):
        model = build()
        try:
            found = outcome(model, fit(model, data, data, SETTINGS, checkpoints=crashing_after(1)(tmp_path)))
        except Crash:
            continue
        break
    assert found == expected


def test_a_finished_fit_is_finished(tmp_path):
    data, calls = examples(), []
    first = build()
    history = fit(first, data, data, SETTINGS, checkpoints=Checkpoints(tmp_path))
    again = build()
    found = fit(
        again, data, data, SETTINGS, progress=lambda *call: calls.append(call), checkpoints=Checkpoints(tmp_path)
    )
    assert found == history and not calls and digest_of_weights(again) == digest_of_weights(first)


def test_more_epochs_go_on(tmp_path):
    data, longer = examples(), replace(SETTINGS, epochs=6, patience=6)
    fit(build(), data, data, SETTINGS, checkpoints=Checkpoints(tmp_path))
    model = build()
    assert outcome(model, fit(model, data, data, longer, checkpoints=Checkpoints(tmp_path))) == untouched(
        training=longer
    )


def test_a_mean_of_weights_and_a_falling_rate_go_on(tmp_path):
    falling = replace(SETTINGS, schedule="cosine", average=0.8)
    expected, data = untouched(training=falling), examples()
    assert expected != untouched()
    for writes in (2, 4, 7):
        with pytest.raises(Crash):
            fit(build(), data, data, falling, checkpoints=crashing_after(writes)(tmp_path / str(writes)))
        model = build()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        found = outcome(model, fit(model, data, data, falling, checkpoints=Checkpoints(tmp_path / str(writes))))
        assert found == expected
    with pytest.raises(ValueError, match="training.epochs"):  # it decides every rate
        fit(build(), data, data, replace(falling, epochs=9), checkpoints=Checkpoints(tmp_path / "7"))


def test_stop_is_kept_and_said(tmp_path):
    data, checkpoints = examples(), Checkpoints(tmp_path)
    model = build()
    checkpoints.stop()
    with pytest.raises(Interrupted, match="epoch 1 after step 1"):
        fit(model, data, data, SETTINGS, checkpoints=checkpoints)
    model = build()
    assert outcome(model, fit(model, data, data, SETTINGS, checkpoints=Checkpoints(tmp_path))) == untouched()


def test_without_a_validation_part(tmp_path):
    data, model = examples(), build()
    expected = fit(model, data, training=SETTINGS)
    weights = digest_of_weights(model)
    with pytest.raises(Crash):
        fit(build(), data, training=SETTINGS, checkpoints=crashing_after(7)(tmp_path))
    model = build()
    found = fit(model, data, training=SETTINGS, checkpoints=Checkpoints(tmp_path))
    assert (found.train_loss, digest_of_weights(model)) == (expected.train_loss, weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: (build("gru"), data, SETTINGS), "a fit with model 'LSSLModel', this one has 'GRU'"),
        (lambda data: (build(dropout=0.1), data, SETTINGS), "a fit with dropout"),
        (lambda data: (build(width=16), data, SETTINGS), "a fit with structure"),
        (lambda data: (build(), data, replace(SETTINGS, learning_rate=0.1)), "training.learning_rate 0.003"),
        (lambda data: (build(), replace(data, labels=1 - data.labels.clamp(max=1)), SETTINGS), "training data"),
    ],
)
def test_another_fit_is_refused(tmp_path, change, message):
    data = examples()
    with pytest.raises(Crash):
        fit(build(), data, data, SETTINGS, checkpoints=crashing_after(2)(tmp_path))
    model, other, training = change(data)
    before = sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir())
    with pytest.raises(ValueError, match=message):
        fit(model, other, data, training, checkpoints=Checkpoints(tmp_path))
    assert sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir()) == before


def test_functions_that_make_data_are_refused(tmp_path):
    with pytest.raises(ValueError, match="a past of its own"):
        fit(build(), lambda epoch: [examples()], training=SETTINGS, checkpoints=Checkpoints(tmp_path))


def test_every_byte_and_every_length_of_a_checkpoint(tmp_path):
    """A changed byte or a missing end is found, always; the checkpoint before is then taken, with a word about it."""
    checkpoints = Checkpoints(tmp_path)
    for number in range(2):
        checkpoints.write(Checkpoint({"x": torch.full((3,), float(number))}, {"epoch": number}))
    path = sorted(tmp_path.iterdir())[-1]
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [data[:end] for end in range(len(data))]
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= int(rng.integers(1, 256))
        damaged.append(bytes(changed))
    for content in damaged:
        path.write_bytes(content)
        with pytest.warns(UserWarning, match="going on from checkpoint-000000000"):
            assert checkpoints.newest().about == {"epoch": 0}
    sorted(tmp_path.iterdir())[0].write_bytes(b"")
    with pytest.raises(ValueError, match="no checkpoint in .* is sound .*begin in another folder"):
        checkpoints.newest()


def test_a_full_disk_leaves_the_checkpoints_before(tmp_path, monkeypatch):
    data = examples()
    with pytest.raises(Crash):
        fit(build(), data, data, SETTINGS, checkpoints=crashing_after(3)(tmp_path))
    before = sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir())

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            fit(build(), data, data, SETTINGS, checkpoints=Checkpoints(tmp_path))
    assert sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir()) == before
    model = build()
    assert outcome(model, fit(model, data, data, SETTINGS, checkpoints=Checkpoints(tmp_path))) == untouched()


def test_what_else_lies_in_the_folder_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "checkpoint-7.safetensors").write_text("not ours either")
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.newest() is None
    for _ in range(4):
        checkpoints.write(Checkpoint({}, {}))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names[-1] == "notes.txt" and len(names) == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoints.newest().about == {}


def test_seconds_between_checkpoints():
    with pytest.raises(ValueError, match="must be positive"):
        Checkpoints("nowhere", seconds=0)
