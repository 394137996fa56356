"""What can be asked of the data sets: one file for each set, with its tasks; `TASKS` has them all by name."""

from ctlssl.questions import (
    asas,
    covid19,
    generated,
    japanese_vowels,
    pbc,
    pharmacokinetics,
    physionet2012,
)
from ctlssl.questions.task import Task

__all__ = ["TASKS", "Task"]

_MODULES = (asas, covid19, generated, japanese_vowels, pbc, pharmacokinetics, physionet2012)

TASKS: dict[str, Task] = {task.name: task for module in _MODULES for task in module.TASKS}
"""The tasks by name."""
