"""From one scan to its explanations."""

from radiolucent.explanation.checking import check, faithful
from radiolucent.explanation.likeness import likeness, partners, slices_of
from radiolucent.explanation.prediction import Prediction, explain, predict
from radiolucent.explanation.result import Explanation
from radiolucent.explanation.slices import slice_rows

__all__ = [
    "Explanation",
    "Prediction",
    "check",
    "explain",
    "faithful",
    "likeness",
    "partners",
    "predict",
    "slice_rows",
    "slices_of",
]
