"""From one scan to its explanations."""

from radiolucent.explanation.checking import check, faithful
from radiolucent.explanation.examining import checked, examine, examined, remade
from radiolucent.explanation.likeness import likeness, partners, slices_of
from radiolucent.explanation.prediction import Made, Prediction, explain, predict
from radiolucent.explanation.result import Explanation
from radiolucent.explanation.slices import slice_rows
from radiolucent.explanation.together import sharing

__all__ = [
    "Explanation",
    "Made",
    "Prediction",
    "check",
    "checked",
    "examine",
    "examined",
    "explain",
    "faithful",
    "likeness",
    "partners",
    "predict",
    "remade",
    "sharing",
    "slice_rows",
    "slices_of",
]
