"""The last layer: class scores, several yes-or-no answers, or measurements in their own units."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from radiolucent.errors import BadInput
from radiolucent.models.morphometry import mean_and_spread

TASKS = ("classification", "regression", "multi-label")


class Measurements(nn.Linear):
    """y[k] = mean[k] + spread[k] (W z + b)[k], so that W is trained on standardised measurements (as in Morphometry)."""

    mean: Tensor
    spread: Tensor

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__(width, outputs)
        self.register_buffer("mean", torch.zeros(outputs))
        self.register_buffer("spread", torch.ones(outputs))

    def standardise(self, truths: Tensor) -> None:
        """Take the mean and the spread (standard deviation, n - 1) of each output from training values (n, outputs)."""
        mean, spread = mean_and_spread(truths, len(self.mean))
        self.mean.copy_(mean)
        self.spread.copy_(spread)

    def forward(self, features: Tensor) -> Tensor:
        return self.mean + self.spread * super().forward(features)


def head(task: str, width: int, outputs: int) -> nn.Linear:
    """Logits (softmax for classification, a sigmoid each for multi-label, neither is in it) or measurements."""
    if task not in TASKS:
        raise BadInput(f"a task among {', '.join(TASKS)}", repr(task), "Choose one of them.")
    if type(outputs) is not int or outputs < 1:
        raise BadInput("outputs as a whole number above 0", repr(outputs), "One for each class, label or measurement.")
    return (Measurements if task == "regression" else nn.Linear)(width, outputs)
