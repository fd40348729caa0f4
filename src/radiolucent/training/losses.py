"""Losses, and what a network's outputs mean: one class for each task's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from radiolucent.geometry import Array
from radiolucent.training.recipe import Task


@dataclass
class Meaning:
    """Outputs (b, k) as probabilities or values, and their loss per case.

    Classification: softmax and cross-entropy. Multi-label: sigmoid and binary cross-entropy, mean over the labels.
    Regression: squares of (value - truth) / spread, mean over the outputs; `mean` and `spread` are those of the training
    data, and value = mean + spread * output, unless the network says values itself (`own_units`).
    """

    task: Task
    smoothing: float
    mean: Tensor
    spread: Tensor
    own_units: bool

    @classmethod
    def of(cls, network: nn.Module, task: Task, smoothing: float, truths: Array) -> Meaning:
        """For these training labels; a network that can `standardise` gets their mean and spread."""
        if task != "regression":
            return cls(task, smoothing, torch.zeros(1), torch.ones(1), False)
        values = torch.from_numpy(np.ascontiguousarray(truths, np.float64))
        own = callable(getattr(network, "standardise", None))
        if own:
            network.standardise(values)  # type: ignore[operator]
        return cls(task, smoothing, values.mean(0).float(), values.std(0).float(), own)

    def loss(self, outputs: Tensor, truth: Tensor) -> Tensor:
        """(b,)"""
        if self.task == "classification":
            return F.cross_entropy(outputs, truth, reduction="none", label_smoothing=self.smoothing)
        if self.task == "multi-label":
            return F.binary_cross_entropy_with_logits(outputs, truth, reduction="none").mean(1)
        mean, spread = self.mean.to(outputs), self.spread.to(outputs)
        told = (outputs - mean) / spread if self.own_units else outputs
        return ((told - (truth - mean) / spread) ** 2).mean(1)

    def truths(self, labels: Array) -> Tensor:
        """Labels as the loss takes them."""
        return torch.from_numpy(np.ascontiguousarray(labels, np.int64 if self.task == "classification" else np.float32))

    def told(self, outputs: Tensor) -> Array:
        """Probabilities or values, float64."""
        outputs = outputs.double()
        if self.task == "classification":
            return outputs.softmax(1).numpy()
        if self.task == "multi-label":
            return outputs.sigmoid().numpy()
        return (outputs if self.own_units else self.mean.double() + self.spread.double() * outputs).numpy()
