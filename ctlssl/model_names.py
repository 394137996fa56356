"""Models and baselines by name, with options behind the name: "ode_rnn:method=dopri5:rtol=1e-3"."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from ctlssl.baselines import BASELINES
from ctlssl.contract import Model
from ctlssl.image_models import IMAGE_MODELS
from ctlssl.models import MODELS, SERIES_MODELS

__all__ = ["NAMED", "Factory", "models_by_name", "options_of", "own_options", "parameters_of"]

Factory = Callable[..., Model]  # (problem, width=...)

NAMED: dict[str, Factory] = {**MODELS, **BASELINES, **SERIES_MODELS, **IMAGE_MODELS}
"""Everything that has a name: for any problem, for one answer a series, for images."""


def models_by_name(names: str | Sequence[str]) -> dict[str, Factory]:
    """What builds each model, called as ``factory(problem, width=width)``, under the name as it was given.

    A name is one of `NAMED`, or "all" alone for those of any problem, which are `MODELS` and `BASELINES`; options of
    the constructor follow it, each after a colon, as JSON or plain text: the same model then stands in a table several
    times, once a setting.

    Args:
        names: one name or several.

    Raises:
        TypeError: what is no text, such as a class.
        ValueError: a name or an option that does not exist, with those that do.

    Example:
        >>> models_by_name("ode_rnn:method=dopri5:rtol=1e-3")["ode_rnn:method=dopri5:rtol=1e-3"].keywords
        {'method': 'dopri5', 'rtol': 0.001}
    """
    asked = [names] if isinstance(names, str) or not isinstance(names, Iterable) else list(names)
    if wrong := [item for item in asked if not isinstance(item, str)]:
        raise TypeError(
            f"models are named by texts here, found {getattr(wrong[0], '__name__', repr(wrong[0])):.60}; a model of "
            'your own goes to fit as it is, and to compare as models={"mine": Mine}.'
        )
    asked = [*MODELS, *BASELINES] if asked == ["all"] else list(dict.fromkeys(asked))
    unknown = [name for name in asked if name.split(":")[0] not in NAMED]
    if unknown or not asked:
        found = f"model {unknown[0]!r} is unknown" if unknown else "No model was asked for"
        there = ", ".join(name for name in NAMED if name not in IMAGE_MODELS)
        raise ValueError(f"{found}; there are {there}, or all; each also with image_ before it.")
    return {name: _with_options(NAMED, name) for name in asked}


def options_of(factory: Factory) -> set[str] | None:
    """Names of the options that a factory takes beside the problem and the width; None where it takes any."""
    parameters = inspect.signature(factory).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters} - {"problem", "width"}


def own_options(name: str) -> list[str]:
    """The options of a model, sorted, with those of the model inside it.

    Args:
        name: in `NAMED`.

    Example:
        >>> own_options("gru")
        ['dropout', 'layers']
    """
    found = parameters_of(name).items()
    return sorted({key for key, item in found if item.kind is not item.VAR_KEYWORD} - {"problem", "width"})


def parameters_of(name: str) -> dict[str, inspect.Parameter]:
    """What the constructor of a model takes, and what that of the model inside it takes, which it hands on.

    Args:
        name: in `NAMED`.

    Example:
        >>> parameters_of("image_lssl")["state_size"].default
        16
    """
    found = dict(inspect.signature(NAMED[name]).parameters)
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in found.values()):
        return found
    inside = name.removeprefix("image_") if name in IMAGE_MODELS else "lssl"  # of FoldedModel
    return parameters_of(inside) | found


def _with_options(known: dict[str, Factory], text: str) -> Factory:
    name, *parts = text.split(":")
    if not parts:
        return known[name]
    taken, options = options_of(known[name]), {}
    for part in parts:
        option, equals, value = part.partition("=")
        if not equals or (taken is not None and option not in taken):
            allowed = "any" if taken is None else ", ".join(sorted(taken))
            raise ValueError(f"{part!r} in model {text!r} is no option=value; options of {name} are {allowed}.")
        options[option] = _value(value)
    return partial(known[name], **options)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
