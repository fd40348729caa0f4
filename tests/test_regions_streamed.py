"""Rows from slabs equal those of the whole map."""

import numpy as np
import pytest
import torch
from torch import nn

from radiolucent import Region, Volume, predict
from radiolucent.errors import BadInput
from radiolucent.io.tables import Name
from radiolucent.methods import Gradient, InputXGradient
from radiolucent.parcellation import Parcellation
from radiolucent.regions import Regions, by_region, by_region_streamed
from radiolucent.tiling import Tiled

CLASSES = ("background", "a", "b")
NUMBERS = ("mass_fraction", "positive", "negative", "density", "enrichment", "voxels", "volume_mm3")


def segmenter() -> nn.Module:
    return nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 3, 3, padding=1))


def scan() -> Volume:
    return Volume(np.random.default_rng(0).normal(size=(1, 20, 11, 9)).astype(np.float32), np.diag([2.0, 1, 1.5, 1]))


@pytest.mark.parametrize("method", [Gradient(), InputXGradient()])
def test_streamed_rows_are_those_of_the_whole_map(method):
    prediction = predict(Tiled(segmenter(), (8, 8, 8)), scan())
    parcellation = Parcellation(prediction.labels(), {v: Name(name) for v, name in enumerate(CLASSES)})
    mask = prediction.scan.like(prediction.scan.data > 0.5)
    regions = Regions(parcellation, joined={"both": ["a", "b"]}, masks={"bright": mask}, near_mm=[2])
    streamed = by_region_streamed(prediction, method, Region(1, 2), regions, classes=CLASSES)
    whole = by_region(prediction.explain([method], Region(1, 2), classes=CLASSES)[0], regions)
    for one, other in zip(streamed, whole, strict=True):
        assert {k: v for k, v in one.items() if k not in NUMBERS} == {k: v for k, v in other.items() if k not in NUMBERS}
        np.testing.assert_allclose([one[k] for k in NUMBERS], [other[k] for k in NUMBERS], rtol=1e-4, atol=1e-7)
    assert {row["target"] for row in streamed} == {"a", "b"}


def test_what_cannot_be_streamed():
    prediction = predict(segmenter(), scan())
    parcellation = Parcellation(prediction.labels(), {v: Name(name) for v, name in enumerate(CLASSES)})
    with pytest.raises(BadInput, match="the prediction of a Tiled model; got Sequential"):
        by_region_streamed(prediction, Gradient(), Region(1), parcellation)
    tiled = predict(Tiled(segmenter(), (8, 8, 8)), Volume(torch.randn(1, 12, 12, 12).numpy()))
    with pytest.raises(BadInput, match="a parcellation on the model's grid"):
        by_region_streamed(tiled, Gradient(), Region(1), parcellation)
