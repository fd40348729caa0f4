"""Methods against each other: methods x metrics x cases x models as a study that resumes, and the scoreboard of it."""

from radiolucent.bench.recipe import Contender, Recipe, read_recipe
from radiolucent.bench.reporting import write_results
from radiolucent.bench.running import Run, run
from radiolucent.bench.store import Bench

__all__ = ["Bench", "Contender", "Recipe", "Run", "read_recipe", "run", "write_results"]
