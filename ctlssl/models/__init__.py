"""Models of irregular series, by name: each is built as `MODELS[name](problem, width=32, ...)`."""

from ctlssl.contract import Model
from ctlssl.models.event_model import EventModel
from ctlssl.models.layer_model import LayerModel
from ctlssl.models.lssl_model import LSSLModel
from ctlssl.models.paper import PAPER_MODELS, PAPER_SETTINGS, PaperSetting, PaperSize, paper_model

__all__ = [
    "MODELS",
    "PAPER_MODELS",
    "PAPER_SETTINGS",
    "EventModel",
    "LSSLModel",
    "LayerModel",
    "PaperSetting",
    "PaperSize",
    "paper_model",
]

MODELS: dict[str, type[Model]] = {"lssl": LSSLModel}
