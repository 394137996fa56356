"""Learnable layers: LSSL, and its family, each called the same way and found here by name."""

from ctlssl.layers.almost_linear import AlmostLinearLSSL, FixedPoints
from ctlssl.layers.as_recurrence import as_recurrence
from ctlssl.layers.attention_form import linear_attention_form
from ctlssl.layers.event_lssl import EventLSSL
from ctlssl.layers.householder import HouseholderLSSL
from ctlssl.layers.linear_form import LinearForm
from ctlssl.layers.linoss import LinOSS
from ctlssl.layers.liquid import LiquidLSSL
from ctlssl.layers.liquid_kernel import LiquidKernelLSSL
from ctlssl.layers.lssl import LSSL
from ctlssl.layers.recurrent import RecurrentLayer
from ctlssl.layers.robust_memory import RobustMemory
from ctlssl.layers.s6_form import s6_form
from ctlssl.layers.selective import SelectiveLSSL
from ctlssl.layers.signed import SignedLSSL
from ctlssl.layers.view_choice import ViewChoice

__all__ = [
    "FAMILY",
    "LSSL",
    "AlmostLinearLSSL",
    "EventLSSL",
    "FixedPoints",
    "HouseholderLSSL",
    "LinOSS",
    "LinearForm",
    "LiquidKernelLSSL",
    "LiquidLSSL",
    "RecurrentLayer",
    "RobustMemory",
    "SelectiveLSSL",
    "SignedLSSL",
    "ViewChoice",
    "as_recurrence",
    "linear_attention_form",
    "s6_form",
]

FAMILY: dict[str, type[RecurrentLayer]] = {
    "almost_linear": AlmostLinearLSSL,
    "householder": HouseholderLSSL,
    "linoss": LinOSS,
    "liquid": LiquidLSSL,
    "liquid_kernel": LiquidKernelLSSL,
    "robust": RobustMemory,
    "selective": SelectiveLSSL,
    "signed": SignedLSSL,
}
"""The other linear recurrences, each built as `FAMILY[name](channels, state_size=..., step_range=...)`."""
