"""Training: a recipe, cases with splits, one weight file per seed with its card, measures and curves."""

from importlib.util import find_spec

from radiolucent.errors import BadInput

if find_spec("accelerate") is None or find_spec("sklearn") is None:
    raise BadInput("accelerate and scikit-learn, which training needs", "not installed", 'pip install "radiolucent[train]"')

from radiolucent.training.recipe import Recipe, read_recipe
from radiolucent.training.running import train

__all__ = ["Recipe", "read_recipe", "train"]
