"""Runs: a training in a folder of its own, which survives anything, and what was trained there."""

from ctlssl.runs.folder import RunFolder
from ctlssl.runs.live import LiveRun
from ctlssl.runs.settings import RunSettings, read_settings
from ctlssl.runs.table_task import TableTask
from ctlssl.runs.train import train_run
from ctlssl.runs.trained import TrainedRun, open_run

__all__ = ["LiveRun", "RunFolder", "RunSettings", "TableTask", "TrainedRun", "open_run", "read_settings", "train_run"]
