"""Linear state-space layers for time series sampled at irregular times.

The table of contents: what is imported with the package, and what on first use (pandas, xarray and the solvers are
not loaded for a user who wants one layer).
"""

import importlib
from typing import TYPE_CHECKING, Any

from ctlssl import hippo
from ctlssl.agreement import views_agree
from ctlssl.contract import Model, Prediction, Problem
from ctlssl.discretization import METHODS, Discretization, exact, gbt
from ctlssl.events import Events
from ctlssl.layers import LSSL, EventLSSL, LiquidLSSL, as_recurrence
from ctlssl.model_state import ModelState
from ctlssl.series import TimeSeries, gaps
from ctlssl.state_matrices import DPLR, Dense, Diagonal, Quasiseparable, StateMatrix
from ctlssl.state_space import StateSpace
from ctlssl.step_size import StepSize, step_range_from_gaps
from ctlssl.treatments import infusions
from ctlssl.views import Integration, State, convolution, integration, recurrence

if TYPE_CHECKING:
    from ctlssl import baselines, models, synthetic, testing
    from ctlssl.catalogue import dataset_names, load_dataset
    from ctlssl.clock_ablation import clock_ablation
    from ctlssl.comparison import compare
    from ctlssl.estimators import (
        LSSLClassifier,
        LSSLForecaster,
        LSSLImputer,
        LSSLLabeler,
        LSSLRegressor,
        LSSLSurvival,
        Records,
    )
    from ctlssl.exporting import export_model, export_step
    from ctlssl.files import open_dataset, save_dataset
    from ctlssl.half_lives import timescales
    from ctlssl.hippo_memory import Memory, remember_history, remember_window
    from ctlssl.models import Ensemble, EventModel, FoldedModel, LayerModel, LSSLModel
    from ctlssl.onnx_step import export_onnx_step
    from ctlssl.packed_series import PackedSeries
    from ctlssl.pretraining import PretrainingSettings, pretrain, transfer
    from ctlssl.runs import RunSettings, open_run, train_run
    from ctlssl.streaming import Stream
    from ctlssl.tables import (
        convert_table,
        from_aeon,
        from_arrays,
        from_long,
        from_pypots,
        from_pyrregular,
        from_wide,
        read_table,
        screen,
        to_long,
        to_series,
        to_torchcde,
    )
    from ctlssl.tasks import Examples, Normalizer, Task, prepare
    from ctlssl.timescale_fitting import TimeScale, fit_step_sizes, fit_timescale
    from ctlssl.training import Checkpoints, Training, evaluate, fit, predict

__version__ = "0.1.0"

_ON_FIRST_USE = {
    "baselines": "ctlssl.baselines",
    "models": "ctlssl.models",
    "Ensemble": "ctlssl.models",
    "EventModel": "ctlssl.models",
    "FoldedModel": "ctlssl.models",
    "LSSLModel": "ctlssl.models",
    "LayerModel": "ctlssl.models",
    "timescales": "ctlssl.half_lives",
    "Stream": "ctlssl.streaming",
    "PackedSeries": "ctlssl.packed_series",
    "dataset_names": "ctlssl.catalogue",
    "load_dataset": "ctlssl.catalogue",
    "Memory": "ctlssl.hippo_memory",
    "remember_history": "ctlssl.hippo_memory",
    "remember_window": "ctlssl.hippo_memory",
    "open_dataset": "ctlssl.files",
    "save_dataset": "ctlssl.files",
    "convert_table": "ctlssl.tables",
    "from_aeon": "ctlssl.tables",
    "from_arrays": "ctlssl.tables",
    "from_long": "ctlssl.tables",
    "from_pypots": "ctlssl.tables",
    "from_pyrregular": "ctlssl.tables",
    "from_wide": "ctlssl.tables",
    "read_table": "ctlssl.tables",
    "screen": "ctlssl.tables",
    "to_long": "ctlssl.tables",
    "to_series": "ctlssl.tables",
    "to_torchcde": "ctlssl.tables",
    "Examples": "ctlssl.tasks",
    "Normalizer": "ctlssl.tasks",
    "Task": "ctlssl.tasks",
    "prepare": "ctlssl.tasks",
    "Training": "ctlssl.training",
    "Checkpoints": "ctlssl.training",
    "evaluate": "ctlssl.training",
    "fit": "ctlssl.training",
    "predict": "ctlssl.training",
    "PretrainingSettings": "ctlssl.pretraining",
    "pretrain": "ctlssl.pretraining",
    "transfer": "ctlssl.pretraining",
    "RunSettings": "ctlssl.runs",
    "open_run": "ctlssl.runs",
    "train_run": "ctlssl.runs",
    "compare": "ctlssl.comparison",
    "clock_ablation": "ctlssl.clock_ablation",
    "LSSLClassifier": "ctlssl.estimators",
    "LSSLForecaster": "ctlssl.estimators",
    "LSSLImputer": "ctlssl.estimators",
    "LSSLLabeler": "ctlssl.estimators",
    "LSSLRegressor": "ctlssl.estimators",
    "LSSLSurvival": "ctlssl.estimators",
    "Records": "ctlssl.estimators",
    "fit_timescale": "ctlssl.timescale_fitting",
    "fit_step_sizes": "ctlssl.timescale_fitting",
    "TimeScale": "ctlssl.timescale_fitting",
    "export_model": "ctlssl.exporting",
    "export_step": "ctlssl.exporting",
    "export_onnx_step": "ctlssl.onnx_step",
    "testing": "ctlssl.testing",
    "synthetic": "ctlssl.synthetic",
}


def __getattr__(name: str) -> Any:
    """Names of `_ON_FIRST_USE`, imported when they are first asked for."""
    if name not in _ON_FIRST_USE:
        raise AttributeError(f"module 'ctlssl' has no attribute {name!r}")
    module = importlib.import_module(_ON_FIRST_USE[name])
    return module if module.__name__ == f"ctlssl.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    """Every public name, loaded or not."""
    return sorted(__all__)


__all__ = [
    # the mathematics
    "hippo",
    "remember_history",
    "remember_window",
    "Memory",
    "StateMatrix",
    "Dense",
    "Diagonal",
    "DPLR",
    "Quasiseparable",
    "StateSpace",
    "Discretization",
    "METHODS",
    "exact",
    "gbt",
    # views
    "recurrence",
    "convolution",
    "integration",
    "Integration",
    "State",
    "views_agree",
    # layers and models
    "LSSL",
    "EventLSSL",
    "LiquidLSSL",
    "as_recurrence",
    "StepSize",
    "step_range_from_gaps",
    "timescales",
    "Model",
    "Problem",
    "Prediction",
    "ModelState",
    "LSSLModel",
    "LayerModel",
    "EventModel",
    "Ensemble",
    "FoldedModel",
    "Stream",
    "models",
    "baselines",
    # data
    "TimeSeries",
    "PackedSeries",
    "Events",
    "infusions",
    "gaps",
    "convert_table",
    "from_aeon",
    "from_arrays",
    "from_long",
    "from_pypots",
    "from_pyrregular",
    "from_wide",
    "read_table",
    "screen",
    "to_long",
    "to_series",
    "to_torchcde",
    "open_dataset",
    "save_dataset",
    "dataset_names",
    "load_dataset",
    "synthetic",
    # tasks, training, comparison
    "Examples",
    "Normalizer",
    "Task",
    "prepare",
    "Training",
    "fit",
    "predict",
    "evaluate",
    "Checkpoints",
    "RunSettings",
    "train_run",
    "open_run",
    "PretrainingSettings",
    "pretrain",
    "transfer",
    "compare",
    "clock_ablation",
    "fit_timescale",
    "fit_step_sizes",
    "TimeScale",
    # estimators in the manner of scikit-learn
    "LSSLClassifier",
    "LSSLRegressor",
    "LSSLForecaster",
    "LSSLImputer",
    "LSSLLabeler",
    "LSSLSurvival",
    "Records",
    # programs that run without the library
    "export_model",
    "export_step",
    "export_onnx_step",
    # contracts, for layers and models of your own
    "testing",
]
