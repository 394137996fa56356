"""Streams as bytes: the same to the last bit after a restart, and no stranger's bytes believed."""

import hashlib
import json

import numpy as np
import pytest
import torch

import ctlssl
from ctlssl import Stream
from ctlssl.models.paper import PaperSize, paper_model
from ctlssl.sealed import pack, unpack
from ctlssl.streaming import kept
from tests.contracts import generator
from tests.streaming_cases import D, S, ask, ends, feed, model, problem, records, same_bits

POLICIES = [
    pytest.param({}, id="refuse"),
    pytest.param({"late": "replay", "window": 5.0}, id="replay"),
]

KIND = "stream 2"


OTHER_OPTIONS = [
    pytest.param("lssl", {"method": "zoh"}, {"method": "foh"}, ".*method='zoh'.*method='foh'.*", id="method"),
    pytest.param("lssl", {}, {"step_size": "without_gap"}, ".* this one .*gap=False.*", id="gap"),
    pytest.param("lssl", {}, {"step_size": "without_rate"}, ".* this one .*rate=False.*", id="rate"),
    pytest.param("ode_rnn", {"steps": 2}, {"steps": 3}, "ODERNN.*steps=2.* this one .*steps=3.*", id="solver"),
]


def stream_of(static=0, kind="forecasting", policy=None, rows=range(6)):
    built, series = model(kind, static=static), records("saved", static=static)
    stream = built.stream(4, rate=[1.0, 2.0, 0.5, 1.0], static=series.static, **(policy or {}))
    feed(stream, series, rows)
    return stream, series


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("kind", "static"), [("forecasting", 0), ("classification", S)])
def test_a_restart_changes_no_bit(kind, static, policy, monkeypatch):
    monkeypatch.setattr(kept, "FEWEST_KEPT", 8)  # rows are put away at the same moments too
    stream, series = stream_of(static, kind, policy)
    data = stream.save()
    again = Stream.load(stream.model, data)
    assert again.save() == data == stream.save()
    for one in (stream, again):
        feed(one, series, range(6, series.length))
    assert again.save() == stream.save() != data
    queries = ends(series)
    found, expected = ask(again, queries), ask(stream, queries)
    name = "mean" if kind == "forecasting" else "logits"
    assert torch.equal(getattr(found, name), getattr(expected, name))
    assert torch.equal(again.last_time, stream.last_time)


def test_streams_that_saw_nothing_are_saved_too():
    for policy in ({}, {"late": "replay", "window": 5.0}):
        stream = model().stream(2, **policy)
        again = Stream.load(stream.model, stream.save())
        assert same_bits(again.state, stream.state) and (again.late, again.window) == (stream.late, stream.window)


def test_a_late_row_after_a_restart_is_put_where_it_belongs():
    stream = model(layers=2).stream(2, late="replay", window=5.0)
    for k in range(8):
        stream.observe(float(k), torch.randn(2, D))
    again = Stream.load(stream.model, stream.save())
    for one in (stream, again):
        one.observe(4.5, torch.ones(2, D))
    assert torch.equal(again.predict(9.0).mean, stream.predict(9.0).mean)
    with pytest.raises(ValueError, match="stream 0: an observation at time 1.5 is before 2.0"):
        again.observe(1.5, torch.ones(2, D))


def test_it_is_a_safetensors_file_of_the_size_of_the_state():
    from safetensors.torch import load

    stream, _ = stream_of()
    data, state = stream.save(), stream.state.tensors()
    assert {f"state.{name}" for name in state} | {"rate"} == set(load(data))
    assert len(data) < sum(tensor.numel() * tensor.element_size() for tensor in state.values()) + 4096


class TestAnotherModel:
    def test_of_other_weights(self):
        stream, _ = stream_of()
        with torch.no_grad():
            next(iter(stream.model.parameters())).add_(1e-6)
        data = model().stream(4).save()
        with pytest.raises(ValueError, match="saved with the weights .* load the weights that"):
            Stream.load(stream.model, data)

    def test_of_another_precision(self):
        with pytest.raises(ValueError, match="saved with the weights"):
            Stream.load(model(dtype=torch.float32), stream_of()[0].save())

    def test_of_another_problem(self):
        with pytest.raises(ValueError, match="saved with the problem .*forecasting.*classification"):
            Stream.load(model("classification"), stream_of()[0].save())

    def test_of_another_class(self):
        with pytest.raises(ValueError, match="saved with the model LSSLModel, this one is GRU"):
            Stream.load(model(name="gru"), stream_of()[0].save())

    @pytest.mark.parametrize(("name", "here", "there", "words"), OTHER_OPTIONS)
    def test_of_other_options(self, name, here, there, words):
        stream = model(name=name, **here).stream(2)
        stream.observe(0.5, torch.ones(2, D))
        other = model(name=name, **there)
        other.load_state_dict(stream.model.state_dict())
        with pytest.raises(ValueError, match=f"saved with the structure {words}; .* built with the same options"):
            Stream.load(other, stream.save())

    def test_of_another_norm(self):
        size = PaperSize(layers=1, width=4, state_size=4, heads=1)
        here, there = (paper_model(problem("forecasting"), size, prenorm=before) for before in (True, False))
        there.load_state_dict(here.state_dict())
        with pytest.raises(ValueError, match="blocks.0: _PaperBlock.prenorm=True.*prenorm=False"):
            Stream.load(there, here.stream().save())

    def test_of_another_dropout_is_the_same(self):
        stream = model(dropout=0.5).stream(2)
        stream.observe(0.5, torch.ones(2, D))
        assert same_bits(Stream.load(model(dropout=0.0), stream.save()).state, stream.state)

    def test_without_a_state(self):
        with pytest.raises(ValueError, match="model LSSLModel, this one is NeuralCDE"):
            Stream.load(ctlssl.baselines.NeuralCDE(model().problem), stream_of()[0].save())


class TestDamage:
    def test_every_cut_is_found(self):
        data = stream_of()[0].save()
        for end in (0, 1, 7, 8, 9, 100, len(data) // 2, len(data) - 1):
            with pytest.raises(ValueError, match="no saved stream"):
                unpack(data[:end], KIND)
        with pytest.raises(ValueError, match="no saved stream"):
            unpack(data + b"\0", KIND)

    def test_every_changed_byte_is_found(self):
        data = stream_of()[0].save()
        rng = generator("bytes")
        places = [*range(0, len(data), 37), *rng.integers(0, len(data), 100).tolist()]
        for place in places:
            changed = bytearray(data)
            changed[place] ^= int(rng.integers(1, 256))
            with pytest.raises(ValueError):
                unpack(bytes(changed), KIND)

    @pytest.mark.parametrize(
        "data",
        [
            b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00cposix\nsystem\n.",
            b"PK\x03\x04" + b"\0" * 100,
            b"\xff" * 64,
            (2).to_bytes(8, "little") + b"{}",
            (2**62).to_bytes(8, "little") + b"{}",
            bytes(4096),
        ],
        ids=["pickle", "zip", "ones", "empty", "huge", "zeros"],
    )
    def test_other_bytes_are_no_stream(self, data):
        with pytest.raises(ValueError, match="no saved stream"):
            Stream.load(model(), data)

    def test_bytes_like_objects_are_read(self):
        stream, _ = stream_of()
        for kind in (bytearray, memoryview):
            assert same_bits(Stream.load(stream.model, kind(stream.save())).state, stream.state)

    def test_deep_texts_are_refused(self):
        tensors, about = unpack(stream_of()[0].save(), KIND)
        for text in ("[" * 100_000, '{"a":' * 100_000):
            with pytest.raises(ValueError, match="nested too deeply|no saved stream|found"):
                Stream.load(model(), pack(tensors, about | {"window": text}, KIND))


def _set(name, row, value):
    def change(tensors, about):
        tensors[name][row] = value

    return change


def _replace(name, make):
    def change(tensors, about):
        tensors[name] = make(tensors[name])

    return change


def _say(name, value):
    def change(tensors, about):
        about[name] = value

    return change


FORGERIES = {
    "nan-in-the-state": (_set("state.layers.0.x", 0, np.nan), "is finite; layers.0.x is not"),
    "shape-of-the-state": (_replace("state.layers.0.x", lambda x: x[..., :2]), "needs layers.0.x of shape"),
    "type-of-the-state": (_replace("state.layers.0.x", lambda x: x.half()), "has layers.0.x as torch.float16"),
    "no-such-layer": (lambda tensors, about: tensors.pop("state.layers.0.x"), "layers.0"),
    "one-layer-more": (
        lambda tensors, about: tensors.update({"state.layers.1.h": torch.zeros(4, 8)}),
        "belongs to another model",
    ),
    "rows-of-the-state": (_replace("state.seen.time", lambda x: x[:3]), "one row a series"),
    "ends-before-it-began": (_set("state.seen.time", 0, -1e9), "before it began|after the last observation"),
    "seen-later-than-now": (_set("state.seen.value_times", 0, 1e9), "seen after the last observation"),
    "rate-of-another-count": (_replace("rate", lambda x: x[:3]), "shape"),
    "no-rate": (lambda tensors, about: tensors.pop("rate"), "a rate each"),
    "rate-zero": (_set("rate", 0, 0.0), "positive and finite"),
    "rate-scalar": (_replace("rate", lambda x: x[0]), "a rate each"),
    "stranger": (lambda tensors, about: tensors.update(code=torch.zeros(2)), "do not hold code"),
    "static": (lambda tensors, about: tensors.update(static=torch.zeros(4, 2)), "without static covariates"),
    "policy": (_say("late", "drop"), "late is 'drop'"),
    "window-of-refuse": (_say("late", "refuse"), "a window belongs to late='replay'"),
    "window-text": (_say("window", '"5"'), "have a window"),
    "window-flag": (_say("window", "true"), "have a window"),
    "window-nan": (_say("window", "NaN"), "positive and finite"),
    "window-code": (_say("window", "__import__('os')"), "Expecting value"),
    "limit": (_say("limit", str(2**40)), "that cannot be"),
    "limit-negative": (_say("limit", "-1"), "that cannot be"),
    "format": (_say("format", "ctlssl stream 99"), "this version reads"),
    "row-of-nobody": (_set("kept.series", 0, 4), "a stream that does not exist"),
    "row-of-minus-one": (_set("kept.series", 0, -1), "a stream that does not exist"),
    "row-in-the-future": (_set("kept.times", 0, 1e9), "lie between their states"),
    "row-without-a-time": (_set("kept.times", 0, np.nan), "lie between their states"),
    "row-of-nan": (_set("kept.values", 0, np.nan), "lie between their states"),
    "row-of-nothing": (_set("kept.observed", 0, False), "nothing was seen in"),
    "row-missing": (_replace("kept.times", lambda x: x[:-1]), "keep rows with times"),
    "row-of-integers": (_replace("kept.times", lambda x: x.long()), "keep rows with times"),
    "rows-of-one-stream-gone": (
        lambda tensors, about: tensors.update({
            name: tensor[tensors["kept.series"] != 1] for name, tensor in list(tensors.items()) if name[:4] == "kept"
        }),
        "lie between their states",
    ),
    "no-base": (
        lambda tensors, about: [tensors.pop(name) for name in list(tensors) if name.startswith("base")],
        "saved base",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FORGERIES)
def test_a_forged_content_is_refused_though_its_digest_fits(case):
    change, message = FORGERIES[case]
    stream, _ = stream_of(policy={"late": "replay", "window": 5.0})
    tensors, about = unpack(stream.save(), KIND)
    change(tensors, about)
    with pytest.raises(ValueError, match=message):
        Stream.load(stream.model, pack(tensors, about, KIND))


def test_a_flag_is_true_or_false_whatever_its_byte():
    stream, _ = stream_of()
    data = stream.save()
    size = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:size])
    digest = header["__metadata__"]["ctlssl"][:64].encode()
    forged = bytearray(data.replace(digest, b"0" * 64, 1))
    start, stop = header["state.seen.known"]["data_offsets"]
    forged[size + start : size + stop] = bytes(2 * flag for flag in forged[size + start : size + stop])
    resealed = bytes(forged).replace(b"0" * 64, hashlib.sha256(forged).hexdigest().encode(), 1)
    again = Stream.load(stream.model, resealed)
    assert again.state.seen.known.any() and same_bits(again.state, stream.state)
    assert again.save() == data
