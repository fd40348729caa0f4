"""From one scan to its explanations."""

from radiolucent.explanation.checking import check, faithful
from radiolucent.explanation.prediction import Prediction, explain, predict
from radiolucent.explanation.result import Explanation
from radiolucent.explanation.slices import slice_rows

__all__ = ["Explanation", "Prediction", "check", "explain", "faithful", "predict", "slice_rows"]
