"""How alike two maps are, whatever their scale."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from radiolucent import statistics
from radiolucent.errors import BadInput


def spearman(first: Tensor, second: Tensor) -> float:
    """Spearman's rank correlation of two maps of one shape, equal values sharing their ranks.

    0 where one is constant: what a random order of its values gives on average.
    """
    found = statistics.spearman(_numbers(first), _numbers(second))
    return 0.0 if math.isnan(found) else found


def ssim(first: Tensor, second: Tensor) -> float:
    """Structural similarity (Wang et al., 2004) of two maps (c, *cells), each divided by its largest absolute value.

    Windows of 7 cells along each axis, or of as many as the shortest has. NaN below 3.
    """
    try:
        from skimage.metrics import structural_similarity
    except ImportError:
        raise BadInput("scikit-image for SSIM", "it is not installed", "pip install scikit-image, or use spearman.") from None
    a, b = _numbers(first), _numbers(second)
    window = min(7, *((n - 1 + n % 2) for n in a.shape[1:]))
    if window < 3:
        return math.nan
    a, b = (values / max(float(np.abs(values).max()), np.finfo(np.float64).tiny) for values in (a, b))
    span = 2.0 if min(a.min(), b.min()) < 0 else 1.0
    return float(structural_similarity(a, b, win_size=window, channel_axis=0, data_range=span))


SIMILARITIES: dict[str, Callable[[Tensor, Tensor], float]] = {"spearman": spearman, "ssim": ssim}


def similarities(kind: str, first: Tensor, second: Tensor, absolute: bool) -> Tensor:
    """That of the maps (t, 1, c, *cells) of each target; NaN where there is none."""
    if first.shape != second.shape:
        return torch.full((len(first),), math.nan, dtype=torch.float64)
    made = []
    for a, b in zip(first[:, 0], second[:, 0], strict=True):
        finite = bool(a.isfinite().all() and b.isfinite().all())
        a, b = (a.abs(), b.abs()) if absolute else (a, b)
        made.append(SIMILARITIES[kind](a, b) if finite else math.nan)
    return torch.tensor(made, dtype=torch.float64)


def _numbers(values: Tensor) -> np.ndarray:
    return values.detach().double().cpu().numpy()
