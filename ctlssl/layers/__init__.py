"""Learnable layers: LSSL, and its family, each called the same way and found here by name."""

from ctlssl.layers.almost_linear import AlmostLinearLSSL, FixedPoints
from ctlssl.layers.as_recurrence import as_recurrence
from ctlssl.layers.event_lssl import EventLSSL
from ctlssl.layers.linear_form import LinearForm
from ctlssl.layers.lssl import LSSL
from ctlssl.layers.recurrent import RecurrentLayer
from ctlssl.layers.signed import SignedLSSL
from ctlssl.layers.view_choice import ViewChoice

__all__ = [
    "FAMILY",
    "LSSL",
    "AlmostLinearLSSL",
    "EventLSSL",
    "FixedPoints",
    "LinearForm",
    "RecurrentLayer",
    "SignedLSSL",
    "ViewChoice",
    "as_recurrence",
]

FAMILY: dict[str, type[RecurrentLayer]] = {
    "signed": SignedLSSL,
    "almost_linear": AlmostLinearLSSL,
}
"""The other linear recurrences, each built as `FAMILY[name](channels, state_size=..., step_range=...)`."""
