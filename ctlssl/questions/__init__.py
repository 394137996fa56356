"""What can be asked of the data sets: one file for each set, with its tasks; `TASKS` has them all by name."""

from ctlssl.questions import covid19, generated, pendulum, physionet2012, physionet2012_values
from ctlssl.questions.task import Task

__all__ = ["TASKS", "Task"]

_MODULES = (covid19, generated, pendulum, physionet2012, physionet2012_values)

TASKS: dict[str, Task] = {task.name: task for module in _MODULES for task in module.TASKS}
"""The tasks by name."""
