"""What can be asked of the data sets: one file for each set, with its tasks; `TASKS` has them all by name."""

from ctlssl.questions import (
    asas,
    covid19,
    generated,
    japanese_vowels,
    pbc,
    pendulum,
    pharmacokinetics,
    physionet2012,
    physionet2012_values,
    plaid,
    sepsis2019,
)
from ctlssl.questions.task import Task

__all__ = ["TASKS", "Task"]

_SETS = (
    asas,
    covid19,
    generated,
    japanese_vowels,
    pbc,
    pendulum,
    pharmacokinetics,
    physionet2012,
    physionet2012_values,
    plaid,
    sepsis2019,
)

TASKS: dict[str, Task] = {task.name: task for questions in _SETS for task in questions.TASKS}
"""The tasks by name."""
