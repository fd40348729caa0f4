"""From one scan to its explanations."""

from radiolucent.explanation.checking import check, faithful
from radiolucent.explanation.examining import checked, examine, examined, remade
from radiolucent.explanation.likeness import likeness, partners, slices_of
from radiolucent.explanation.prediction import Prediction, explain, predict
from radiolucent.explanation.result import Explanation
from radiolucent.explanation.slices import slice_rows

__all__ = [
    "Explanation",
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
    "slice_rows",
    "slices_of",
]
