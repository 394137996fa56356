"""Loops over time: arrays in, arrays out."""

from ctlssl.kernels.diagonal import diagonal_bank, diagonal_states, plain_torch
from ctlssl.kernels.linear_scan import linear_scan

__all__ = ["diagonal_bank", "diagonal_states", "linear_scan", "plain_torch"]
