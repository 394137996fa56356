"""Training: fit, predict and evaluate any model of the contract."""

from ctlssl.training.checkpoints import Checkpoints, Interrupted
from ctlssl.training.chunks import Pieces, backward_in_chunks, chunks, predict_in_chunks, terms_in_chunks
from ctlssl.training.fitting import Progress, evaluate, fit, predict, score
from ctlssl.training.optimization import Training
from ctlssl.training.run import History
from ctlssl.training.teacher_forcing import TeacherForcing, fit_dynamics

__all__ = [
    "Checkpoints",
    "History",
    "Interrupted",
    "Pieces",
    "Progress",
    "TeacherForcing",
    "Training",
    "backward_in_chunks",
    "chunks",
    "evaluate",
    "fit",
    "fit_dynamics",
    "predict",
    "predict_in_chunks",
    "score",
    "terms_in_chunks",
]
