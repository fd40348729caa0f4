"""What a metric that asks the model finds: a value with its interval, or the reason why there is none."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

LEVEL = 0.95
"""Of all intervals."""


class Undefined(Exception):
    """A metric has no value here; the message says why. Rows then hold NaN with this reason, never 0."""


@dataclass(frozen=True)
class Finding:
    """A value for one map of one target, the ends of its 95 % interval, and the `reason` where there is no value.

    A number in which there is no chance is its own interval; NaN ends say that none is known. shares, scores: of a metric
    along a curve, where (share of the units) the score was what.
    """

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    reason: str = ""
    shares: tuple[float, ...] = ()
    scores: tuple[float, ...] = ()


def unfit(row: Tensor) -> str:
    """Why the map of one target says nothing, or ""."""
    if not row.isfinite().all():
        return "the map is NaN or infinite in places"
    return "" if row.min() < row.max() else "the map is the same everywhere"
