"""Models of irregular series, by name: each is built as `MODELS[name](problem, width=32, ...)`."""

from collections.abc import Callable
from functools import partial

from ctlssl.contract import Model
from ctlssl.layers import FAMILY
from ctlssl.models.ensemble import Ensemble
from ctlssl.models.event_model import EventModel
from ctlssl.models.folded_model import FoldedModel
from ctlssl.models.layer_model import LayerModel
from ctlssl.models.lssl_model import LSSLModel
from ctlssl.models.paper import PAPER_MODELS, PAPER_SETTINGS, PaperSetting, PaperSize, paper_model

__all__ = [
    "MODELS",
    "PAPER_MODELS",
    "PAPER_SETTINGS",
    "SERIES_MODELS",
    "Ensemble",
    "EventModel",
    "FoldedModel",
    "LSSLModel",
    "LayerModel",
    "PaperSetting",
    "PaperSize",
    "paper_model",
]

MODELS: dict[str, Callable[..., Model]] = {
    "lssl": LSSLModel,
    **{name: partial(LayerModel, layer=name) for name in FAMILY},
}

SERIES_MODELS: dict[str, Callable[..., Model]] = {"folded": FoldedModel}
"""Models that answer once a series and never forecast, by name."""
