"""The contracts of the library, for layers and models of your own."""

from ctlssl.testing.clock import check_clock
from ctlssl.testing.layer_cases import LayerCase
from ctlssl.testing.model_cases import ModelCase
from ctlssl.testing.report import ClockError, ClockReport, LineResult

__all__ = ["ClockError", "ClockReport", "LayerCase", "LineResult", "ModelCase", "check_clock"]
