"""From one scan to its explanations."""

from radiolucent.explanation.prediction import Prediction, explain, predict
from radiolucent.explanation.result import Explanation

__all__ = ["Explanation", "Prediction", "explain", "predict"]
