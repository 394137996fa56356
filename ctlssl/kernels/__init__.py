"""Loops over time: arrays in, arrays out."""

from ctlssl.kernels.almost_linear_scan import almost_linear_scan, rectified, rectifier_slopes
from ctlssl.kernels.diagonal import diagonal_bank, diagonal_multi, diagonal_row
from ctlssl.kernels.householder import householder_memory
from ctlssl.kernels.linear_scan import block_scan, linear_scan
from ctlssl.kernels.matrix_scan import matrix_scan
from ctlssl.kernels.operators import plain_torch

__all__ = [
    "almost_linear_scan",
    "block_scan",
    "diagonal_bank",
    "diagonal_multi",
    "diagonal_row",
    "householder_memory",
    "linear_scan",
    "matrix_scan",
    "plain_torch",
    "rectified",
    "rectifier_slopes",
]
