"""What the state-space models are compared with, by name.

`BASELINES[name](problem, width=32, ...)` builds a neural baseline, a `Model` like those of `ctlssl.models`;
`REFERENCES[name](problem, seed=0)` a classical reference, fitted in one call.
"""

from collections.abc import Callable
from functools import partial

from ctlssl.baselines.cfc import CfC
from ctlssl.baselines.cru import CRU
from ctlssl.baselines.gru import GRU
from ctlssl.baselines.gru_d import GRUD
from ctlssl.baselines.gru_ode_bayes import GRUODEBayes
from ctlssl.baselines.latent_ode import LatentODE
from ctlssl.baselines.log_ncde import LogNCDE
from ctlssl.baselines.ltc import LTC
from ctlssl.baselines.mtan import MTAN
from ctlssl.baselines.neural_cde import NeuralCDE
from ctlssl.baselines.neural_ode import NeuralODE
from ctlssl.baselines.ode_rnn import ODERNN
from ctlssl.baselines.period_summaries import PeriodSummaries
from ctlssl.baselines.rnn_decay import RNNDecay
from ctlssl.baselines.s5 import S5
from ctlssl.baselines.summaries import LastValue, Reference, Summaries, summaries
from ctlssl.baselines.transformer import Transformer
from ctlssl.contract import Model

__all__ = [
    "BASELINES",
    "GRU",
    "GRUD",
    "LTC",
    "MTAN",
    "ODERNN",
    "REFERENCES",
    "S5",
    "CfC",
    "LastValue",
    "LogNCDE",
    "NeuralCDE",
    "PERIOD_REFERENCES",
    "PeriodSummaries",
    "RNNDecay",
    "Reference",
    "Summaries",
    "Transformer",
    "CRU",
    "GRUODEBayes",
    "NeuralODE",
    "LatentODE",
    "summaries",
]

BASELINES: dict[str, type[Model]] = {
    "gru": GRU,
    "ode_rnn": ODERNN,
    "neural_cde": NeuralCDE,
    "log_ncde": LogNCDE,
    "gru_d": GRUD,
    "rnn_decay": RNNDecay,
    "mtan": MTAN,
    "transformer": Transformer,
    "cfc": CfC,
    "ltc": LTC,
    "s5": S5,
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

PERIOD_REFERENCES: dict[str, Callable[..., Reference]] = {
    "linear_periods": partial(PeriodSummaries, family="linear"),
    "boosting_periods": partial(PeriodSummaries, family="boosting"),
}
"""References that look for periods: slow, and of use only where there are some, so no comparison takes them unasked."""
