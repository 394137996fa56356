"""What the project uses for its tasks: one file for each data set, and the means to carry it out."""

from ctlssl.recipes import asas, physionet2012
from ctlssl.recipes.recipe import Recipe
from ctlssl.recipes.reproduction import Scores, ablate, reproduce, reproduce_reference

__all__ = ["RECIPES", "Recipe", "Scores", "ablate", "reproduce", "reproduce_reference"]

RECIPES: dict[str, Recipe] = {recipe.task: recipe for module in (asas, physionet2012) for recipe in module.RECIPES}
"""The recipes by task."""
