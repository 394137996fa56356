"""Structures of the state matrix, one a file."""

from ctlssl.state_matrices.base import StateMatrix
from ctlssl.state_matrices.dense import Dense
from ctlssl.state_matrices.diagonal import Diagonal
from ctlssl.state_matrices.dplr import DPLR
from ctlssl.state_matrices.quasiseparable import Quasiseparable

STRUCTURES = {"dense": Dense, "diagonal": Diagonal, "dplr": DPLR, "quasiseparable": Quasiseparable}

__all__ = ["DPLR", "STRUCTURES", "Dense", "Diagonal", "Quasiseparable", "StateMatrix"]
