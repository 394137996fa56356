"""What the state-space models are compared with, by name.

`BASELINES[name](problem, width=32, ...)` builds a neural baseline, a `Model` like those of `ctlssl.models`;
`REFERENCES[name](problem, seed=0)` a classical reference, fitted in one call.
"""

from collections.abc import Callable
from functools import partial

from ctlssl.baselines.cru import CRU
from ctlssl.baselines.gru import GRU
from ctlssl.baselines.gru_ode_bayes import GRUODEBayes
from ctlssl.baselines.latent_ode import LatentODE
from ctlssl.baselines.neural_cde import NeuralCDE
from ctlssl.baselines.neural_ode import NeuralODE
from ctlssl.baselines.ode_rnn import ODERNN
from ctlssl.baselines.summaries import LastValue, Reference, Summaries, summaries
from ctlssl.contract import Model

__all__ = [
    "BASELINES",
    "CRU",
    "GRU",
    "GRUODEBayes",
    "NeuralODE",
    "ODERNN",
    "REFERENCES",
    "LastValue",
    "LatentODE",
    "NeuralCDE",
    "Reference",
    "Summaries",
    "summaries",
]

BASELINES: dict[str, type[Model]] = {
    "gru": GRU,
    "ode_rnn": ODERNN,
    "neural_cde": NeuralCDE,
    "latent_ode": LatentODE,
    "neural_ode": NeuralODE,
    "gru_ode_bayes": GRUODEBayes,
    "cru": CRU,
}

REFERENCES: dict[str, Callable[..., Reference]] = {
    "linear": partial(Summaries, family="linear"),
    "boosting": partial(Summaries, family="boosting"),
    "last_value": LastValue,
}
