"""How well a segmentation agrees with a label image: overlap and the distance of the surfaces."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt

from radiolucent.errors import BadInput

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Agreement:
    """Dice, IoU and HD95 in mm; NaN where one is undefined, and then the `reason`."""

    dice: float = math.nan
    iou: float = math.nan
    hd95_mm: float = math.nan
    reason: str = ""


def agreement(predicted: NDArray[Any], truth: NDArray[Any], spacing: Sequence[float]) -> Agreement:
    """Two masks P and T on one grid, whose axes are at right angles.

        Dice = 2 |P & T| / (|P| + |T|),     IoU = |P & T| / |P | T|
        HD95 = max(q95 of d(p, surface of T) over p in surface of P, q95 of d(t, surface of P) over t in surface of T)

    A surface is what one erosion by face neighbours takes away (the image's border counts as outside), its distances
    are between voxel centres. Without a voxel in either mask nothing is defined; in one of them, no distance.
    """
    predicted, truth = np.asarray(predicted, bool), np.asarray(truth, bool)
    if predicted.shape != truth.shape or len(spacing) != predicted.ndim:
        raise BadInput(
            f"two masks on one grid {predicted.shape}", f"{truth.shape} and spacing {list(spacing)}", "Resample the label."
        )
    both, sizes = int((predicted & truth).sum()), (int(predicted.sum()), int(truth.sum()))
    if not any(sizes):
        return Agreement(reason="neither predicted nor in the label")
    dice, iou = 2 * both / sum(sizes), both / (sum(sizes) - both)
    if not all(sizes):
        return Agreement(dice, iou, reason="not in the label" if sizes[0] else "not predicted")
    return Agreement(dice, iou, _hd95(predicted, truth, spacing))


def _hd95(predicted: Mask, truth: Mask, spacing: Sequence[float]) -> float:
    box = tuple(slice(int(np.min(i)), int(np.max(i)) + 1) for i in np.nonzero(predicted | truth))
    surfaces = [_surface(mask[box]) for mask in (predicted, truth)]
    distances = [distance_transform_edt(~surface, sampling=spacing) for surface in surfaces]
    return max(float(np.percentile(distances[1 - i][surfaces[i]], 95)) for i in (0, 1))


def _surface(mask: Mask) -> Mask:
    return mask & ~binary_erosion(mask)
