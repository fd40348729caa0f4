"""Dice, IoU and HD95 against closed forms and MONAI."""

import math

import numpy as np
import pytest
import torch

from radiolucent.errors import BadInput
from radiolucent.metrics.agreement import agreement


def test_two_boxes_side_by_side() -> None:
    a, b = np.zeros((2, 10, 10, 10), bool)
    a[2:6, 2:6, 2:6] = True
    b[4:8, 2:6, 2:6] = True
    found = agreement(a, b, (3.0, 1.0, 1.0))
    assert (found.dice, found.iou) == (0.5, 1 / 3)
    assert found.hd95_mm == 6.0  # two voxels of 3 mm


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 2.5, 1.0), (0.5, 2.0)])
def test_as_monai(spacing: tuple[float, ...]) -> None:
    metrics = pytest.importorskip("monai.metrics")
    random = np.random.default_rng(0)
    for _ in range(5):
        noise = random.random((2, *(14, 12, 16)[: len(spacing)]))
        a, b = (noise[0] > 0.8), (noise[0] + 0.2 * noise[1] > 0.95)
        a[0] = b[-1] = False
        found = agreement(a, b, spacing)
        one, two = (torch.from_numpy(m)[None, None].float() for m in (a, b))
        theirs = metrics.compute_hausdorff_distance(one, two, include_background=True, percentile=95, spacing=list(spacing))
        assert found.dice == pytest.approx(float(metrics.compute_dice(one, two)))
        assert found.iou == pytest.approx(float(metrics.compute_iou(one, two)))
        assert found.hd95_mm == pytest.approx(float(theirs), rel=1e-5)


def test_what_is_not_defined_has_a_reason() -> None:
    empty, full = np.zeros((4, 4), bool), np.ones((4, 4), bool)
    nothing = agreement(empty, empty, (1, 1))
    assert math.isnan(nothing.dice)
    assert nothing.reason == "neither predicted nor in the label"
    missed, invented = agreement(empty, full, (1, 1)), agreement(full, empty, (1, 1))
    assert (missed.dice, missed.reason, invented.iou, invented.reason) == (0, "not predicted", 0, "not in the label")
    assert math.isnan(missed.hd95_mm)
    with pytest.raises(BadInput, match="two masks on one grid"):
        agreement(empty, full[:2], (1, 1))
