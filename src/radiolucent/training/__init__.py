"""Training: a recipe, cases with splits, one weight file per seed with its card, measures and curves."""

from radiolucent.training.recipe import Recipe, read_recipe
from radiolucent.training.running import train

__all__ = ["Recipe", "read_recipe", "train"]
