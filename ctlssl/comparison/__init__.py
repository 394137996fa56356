"""Models side by side on the same tasks: the same splits, the same seeds, the same budgets for each."""

from ctlssl.comparison.differences import paired_differences
from ctlssl.comparison.plans import DEFAULT_MODELS, TUNING, Plan, plan
from ctlssl.comparison.running import compare, run

__all__ = ["DEFAULT_MODELS", "TUNING", "Plan", "compare", "paired_differences", "plan", "run"]
