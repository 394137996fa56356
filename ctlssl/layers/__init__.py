"""Learnable layers: parameters -> StateSpace -> a view."""

from ctlssl.layers.event_lssl import EventLSSL
from ctlssl.layers.lssl import LSSL
from ctlssl.layers.view_choice import ViewChoice

__all__ = ["LSSL", "EventLSSL", "ViewChoice"]
