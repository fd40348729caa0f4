"""Models that pool slices: where their parts are, where each slice lies, and whether its weight tells the truth."""

from radiolucent.slicing.places import AXES, Place, find, on_grid, per_axis
from radiolucent.slicing.truth import (
    NOT,
    agreement,
    alike,
    covered,
    deletion,
    empty,
    insertion,
    left_out,
    repeatability,
    truth,
)

__all__ = [
    "AXES",
    "NOT",
    "Place",
    "agreement",
    "alike",
    "covered",
    "deletion",
    "empty",
    "find",
    "insertion",
    "left_out",
    "on_grid",
    "per_axis",
    "repeatability",
    "truth",
]
