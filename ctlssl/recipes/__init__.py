"""What the project uses for its tasks: one file for each data set, and the means to carry it out."""

from ctlssl.recipes import asas, pendulum, physionet2012, physionet2012_values, sepsis2019
from ctlssl.recipes.recipe import Recipe
from ctlssl.recipes.reproduction import Scores, ablate, reproduce, reproduce_reference

__all__ = ["RECIPES", "Recipe", "Scores", "ablate", "reproduce", "reproduce_reference"]

_MODULES = (asas, pendulum, physionet2012, physionet2012_values, sepsis2019)

RECIPES: dict[str, Recipe] = {recipe.task: recipe for module in _MODULES for recipe in module.RECIPES}
"""The recipes by task."""
