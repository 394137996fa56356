"""Models of irregular series, by name: each is built as `MODELS[name](problem, width=32, ...)`."""

from ctlssl.contract import Model
from ctlssl.models.lssl_model import LSSLModel

__all__ = ["MODELS", "LSSLModel"]

MODELS: dict[str, type[Model]] = {"lssl": LSSLModel}
