"""What a check finds, how sure it is of it, and what a check is."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from functools import cached_property
from statistics import NormalDist
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from radiolucent.metrics.faithfulness.changed import Changed, Order, Witness
from radiolucent.metrics.faithfulness.units import Units
from radiolucent.metrics.finding import LEVEL, Finding, Undefined, unfit


class Claim:
    """What a map says about one target: relevance (c, *grid) on the model's grid, the target's number.

    slope: whether it is the score per unit of intensity, as a gradient is, and not a share of the score.
    """

    def __init__(self, relevance: Tensor, target: int, slope: bool = False) -> None:
        self.relevance, self.target, self.slope = relevance, target, slope
        self._sums: dict[int, Tensor] = {}
        self._orders: dict[tuple[int, int], Order] = {}

    def sums(self, units: Units) -> Tensor:
        """The relevance of each unit, (count,) on the processor."""
        if id(units) not in self._sums:  # a witness keeps its units as long as it is asked
            self._sums[id(units)] = units.sums(self.relevance.cpu())
        return self._sums[id(units)]

    def order(self, units: Units, seed: int) -> Order:
        """The units from the highest to the lowest relevance."""
        if (id(units), seed) not in self._orders:
            self._orders[id(units), seed] = Order(self.sums(units), seed)
        return self._orders[id(units), seed]

    @cached_property
    def says_nothing(self) -> str:
        """Why no check of this map has a value, or nothing."""
        return unfit(self.relevance)


Asking = Generator[Sequence[Changed], Tensor, Finding]
"""Asks for the scores of changed copies, is sent them (copies,) in double precision, and ends with what it found."""


class Check(Protocol):
    """A frozen dataclass of hyper-parameters that asks the model whether a map is to be believed."""

    @property
    def name(self) -> str: ...

    @property
    def category(self) -> str: ...

    @property
    def higher_is_better(self) -> bool: ...

    def __call__(self, claim: Claim, witness: Witness) -> Asking:
        """Asks in rounds; raises Undefined where there is no value."""
        ...


def looks(samples: int, error: float) -> Sequence[int]:
    """After how many samples to see whether the error is small enough: at the end, or at 20, 30, 40, ... of them."""
    return [samples] if not error else [*range(20, samples, 10), samples]


def drops(S: Tensor) -> Tensor:
    """S[0] - S[1:]; without a value where nothing moved but the last digits of single precision."""
    if float(S.max() - S.min()) <= rounding(S):
        raise Undefined("the score does not change, whatever is hidden")
    return S[0] - S[1:]


def rounding(S: Tensor) -> float:
    """By how much scores of single precision may differ for no reason."""
    return 16 * torch.finfo(torch.float32).eps * float(S.abs().max())


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's; Undefined where one of the two does not vary."""
    if float(a.max() - a.min()) <= 1e-12 * float(a.abs().max()):
        raise Undefined("the relevance of what is hidden is always the same")
    a, b = a - a.mean(), b - b.mean()
    return max(-1.0, min(1.0, float(a @ b) / float(a.norm() * b.norm())))


def fisher(r: float, n: int, variance: float = 1.0) -> tuple[float, float]:
    """The interval of a correlation of n pairs: tanh(atanh r +- z sqrt(variance / (n - 3)))."""
    if n < 4:
        return math.nan, math.nan
    if abs(r) >= 1 - 1e-12:
        return r, r
    half = NormalDist().inv_cdf((1 + LEVEL) / 2) * math.sqrt(variance / (n - 3))
    return math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)


def area(shares: Sequence[float], scores: Sequence[float]) -> Finding:
    """The mean of a curve by the trapezoidal rule; low and high are what it could be between points if it is monotone there."""
    width, y = np.diff(shares), np.asarray(scores, np.float64)
    ends = np.stack([y[:-1], y[1:]])
    low, value, high = (float((width * side).sum() / width.sum()) for side in (ends.min(0), ends.mean(0), ends.max(0)))
    return Finding(value, low, high, shares=tuple(map(float, shares)), scores=tuple(map(float, y)))
