"""Pre-training on series without labels, by a mixture of questions that they answer themselves."""

from ctlssl.pretraining.mixture import Mixture
from ctlssl.pretraining.objectives import OBJECTIVES, Objective, ask
from ctlssl.pretraining.pretrain import PretrainingReport, PretrainingSettings, pretrain
from ctlssl.pretraining.transferring import Transferred, transfer

__all__ = [
    "OBJECTIVES",
    "Mixture",
    "Objective",
    "PretrainingReport",
    "PretrainingSettings",
    "Transferred",
    "ask",
    "pretrain",
    "transfer",
]
