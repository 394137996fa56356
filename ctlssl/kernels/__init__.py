"""Loops over time: arrays in, arrays out."""

from ctlssl.kernels.linear_scan import linear_scan

__all__ = ["linear_scan"]
