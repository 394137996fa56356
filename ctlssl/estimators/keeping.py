"""Fitted estimators as files: tensors and JSON under a digest, nothing that could be run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctlssl.contract import Problem
from ctlssl.durable import write_whole
from ctlssl.estimators.intervals import GapConformal
from ctlssl.estimators.quantile_intervals import QuantileConformal
from ctlssl.model_names import models_by_name
from ctlssl.normalization import Normalizer
from ctlssl.sealed import format_of, pack, read_json, unpack
from ctlssl.target_scale import TargetScale
from ctlssl.training import History

__all__ = ["read_estimator", "write_estimator"]

_KIND = "estimator 1"
_QUANTILE_PARTS = ("levels", "quantiles", "targets", "gaps")
_APART = ("model_", "normalizer_", "problem_", "history_", "intervals_", "targets_")


def write_estimator(estimator: Any, path: str | os.PathLike) -> None:
    """Write a fitted estimator.

    Args:
        estimator: a `SeriesEstimator`.
        path: the file.

    Raises:
        ValueError: a setting that is no plain JSON value, or a path at which something else is.
        OSError: the file cannot be written; what was there stays.
    """
    path = Path(path)
    if path.exists() and (path.is_dir() or not (format_of(path) or "").startswith("ctlssl estimator")):
        raise ValueError(f"{path} is there, and is no saved estimator; it is not replaced: give another name.")
    tensors = {f"model.{name}": part for name, part in estimator.model_.state_dict().items()}
    tensors |= {f"normalizer.{name}": part for name, part in estimator.normalizer_.tensors().items()}
    plain: dict[str, Any] = {}
    for name, value in vars(estimator).items():
        if name.endswith("_") and not name.endswith("__") and name not in _APART:
            plain[name] = _plain(value)
    intervals = getattr(estimator, "intervals_", None)
    if isinstance(intervals, QuantileConformal):
        for name in _QUANTILE_PARTS:
            tensors[f"intervals.{name}"] = torch.from_numpy(np.ascontiguousarray(getattr(intervals, name)))
    elif intervals is not None:
        tensors["intervals.edges"] = torch.from_numpy(intervals.edges)
        tensors |= {f"intervals.{k}": torch.from_numpy(part) for k, part in enumerate(intervals.deviations)}
    if hasattr(estimator, "targets_"):
        plain["targets_"] = {"targets": asdict(estimator.targets_)}
    about = {
        "class": type(estimator).__name__,
        "settings": _json({name: _plain(value) for name, value in estimator.get_params(deep=False).items()}),
        "problem": _json(estimator.problem_.to_dict()),
        "history": _json(asdict(estimator.history_)),
        "fitted": _json(plain),
    }
    write_whole(path, pack(tensors, about, _KIND))


def read_estimator(cls: type, path: str | os.PathLike) -> Any:
    """The estimator that `write_estimator` wrote.

    Args:
        cls: its class.
        path: the file.

    Raises:
        OSError: the file cannot be read.
        ValueError: a file of something else, or one that was changed since.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder, no saved estimator; the folder of a run is opened by ctlssl.open_run.")
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file.")
    tensors, about = unpack(path.read_bytes(), _KIND)
    if about["class"] != cls.__name__:
        raise ValueError(f"{path} holds a {about['class']}, not a {cls.__name__}; call {about['class']}.load.")
    estimator = cls(**{name: _read_plain(value) for name, value in read_json(about["settings"]).items()})
    estimator.problem_ = Problem.from_dict(read_json(about["problem"]))
    estimator.model_ = models_by_name(estimator.model)[estimator.model](estimator.problem_, width=estimator.width)
    estimator.model_.load_state_dict(_named(tensors, "model"))
    estimator.model_.eval()
    estimator.normalizer_ = Normalizer.from_tensors(_named(tensors, "normalizer"))
    history = {k: tuple(v) if isinstance(v, list) else v for k, v in read_json(about["history"]).items()}
    estimator.history_ = History(**history)
    for name, value in read_json(about["fitted"]).items():
        setattr(estimator, name, _read_plain(value))
    intervals = _named(tensors, "intervals")
    if "levels" in intervals:
        parts = {name: tensor.numpy() for name, tensor in intervals.items()}
        estimator.intervals_ = QuantileConformal(**parts, bins=estimator.bins)
    elif intervals:
        parts = tuple(intervals[str(k)].numpy() for k in range(len(intervals) - 1))
        estimator.intervals_ = GapConformal(intervals["edges"].numpy(), parts)
    elif hasattr(cls, "predict_interval"):
        estimator.intervals_ = None
    return estimator


def _named(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{part}."): tensor for name, tensor in tensors.items() if name.startswith(f"{part}.")}


def _plain(value: Any) -> Any:
    """A value that JSON can hold, from which `_read_plain` makes the same again."""
    if isinstance(value, np.ndarray):
        return {"array": value.tolist()}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):  # whose keys may be numbers
        return {"pairs": [[_plain(key), _plain(item)] for key, item in value.items()]}
    return value


def _read_plain(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    if not isinstance(value, dict):
        return value
    if "targets" in value:
        return TargetScale.from_dict(value["targets"])
    return np.array(value["array"]) if "array" in value else dict(value["pairs"])


def _json(value: Any) -> str:
    try:
        return json.dumps(value)
    except TypeError as error:
        raise ValueError(f"a setting or an answer is no plain value ({error}); give numbers and texts.") from error
