"""Many cases: a recipe, a cohort, a folder in which each case appears whole or not at all, and a run that resumes."""

from radiolucent.study.cohort import Case, Cohort
from radiolucent.study.layouts import read_cohort
from radiolucent.study.recipe import Recipe, read_recipe
from radiolucent.study.running import Run, run
from radiolucent.study.store import Status, Study

__all__ = ["Case", "Cohort", "Recipe", "Run", "Status", "Study", "read_cohort", "read_recipe", "run"]
