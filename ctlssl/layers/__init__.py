"""Learnable layers: parameters -> StateSpace -> a view."""

from ctlssl.layers.lssl import LSSL

__all__ = ["LSSL"]
