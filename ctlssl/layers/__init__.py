"""Learnable layers: parameters -> StateSpace -> a view."""

from ctlssl.layers.lssl import LSSL
from ctlssl.layers.view_choice import ViewChoice

__all__ = ["LSSL", "ViewChoice"]
