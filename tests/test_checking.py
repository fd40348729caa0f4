"""Checks of explanations: rows, names, grids and what is refused."""

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from worlds import Bright, ConvNet, Linear, Segmenter

from radiolucent import BadInput, Logits, Parcellation, Preprocessing, Region, Volume, predict
from radiolucent.errors import InputWarning
from radiolucent.explanation import Prediction, check, faithful
from radiolucent.io.tables import Name
from radiolucent.methods import GradCAM, Gradient, HiResCAM, InputXGradient, SmoothGrad
from radiolucent.metrics import FAITHFULNESS, Deletion, FaithfulnessCorrelation, Infidelity, ask

COLUMNS = [
    "method",
    "settings",
    "layer",
    "target",
    "metric",
    "category",
    "better",
    "value",
    "low",
    "high",
    "evaluations",
    "seconds",
    "reason",
]


def scan(shape: tuple[int, ...] = (12, 10, 8), affine: np.ndarray | None = None) -> Volume:
    data = np.random.default_rng(0).random((1, *shape), np.float32)
    return Volume(data, np.diag([2.0, 1, 1, 1]) if affine is None else affine)


def small(prediction: Prediction, maps: list, **options: object) -> list[dict]:
    return check(prediction, maps, Logits(0, 1), [FaithfulnessCorrelation(samples=10)], **options)


def test_a_row_for_each_map_target_and_check() -> None:
    torch.manual_seed(0)
    prediction, targets = predict(ConvNet(3).eval(), scan()), Logits(2, 0)
    names = ("a", "b", "c", "d")
    maps = prediction.explain([HiResCAM("conv2"), Gradient(), SmoothGrad(Gradient(), samples=2)], targets, classes=names)
    rows = check(prediction, maps, targets, ["deletion", FaithfulnessCorrelation("voxels", samples=10)], classes=names)
    assert [list(row) for row in rows] == [COLUMNS] * 12
    assert [(r["method"], r["layer"]) for r in rows[::4]] == [
        ("hires-cam", "conv2"),
        ("gradient", ""),
        ("smooth-grad(gradient)", ""),
    ]
    assert [r["target"] for r in rows[:4]] == ["c", "c", "a", "a"]
    assert [r["metric"] for r in rows[:2]] == ["deletion", "faithfulness-correlation(over=voxels, samples=10)"]
    assert all(r["category"] == "faithfulness" and not r["reason"] for r in rows)
    assert all(r["low"] <= r["value"] <= r["high"] for r in rows)
    assert [r["evaluations"] for r in rows[:2]] == [21, 11]
    defaults = check(prediction, maps[:1], targets, classes=names)
    assert [r["metric"] for r in defaults[: len(FAITHFULNESS)]] == list(FAITHFULNESS)


def test_a_map_comes_back_to_the_model_s_grid() -> None:
    """The scan is turned, flipped and padded for the model; the map, on the scan's grid, is judged where the model looks."""
    affine = np.array([[0, -1.0, 0, 3], [0, 0, 1, -7], [-1, 0, 0, 5], [0, 0, 0, 1]])
    torch.manual_seed(0)
    preprocessing = Preprocessing(orientation="RAS", size=(16, 14, 12))
    prediction = predict(Linear((1, 16, 14, 12)), scan((9, 10, 8), affine), preprocessing)
    assert prediction.image.grid.shape == (16, 14, 12)
    assert prediction.scan.grid.shape == (9, 10, 8)
    maps = prediction.explain([InputXGradient()], Logits(0))
    metric = FaithfulnessCorrelation("voxels", subset=30, baseline="zero")
    (row,) = check(prediction, maps, Logits(0), [metric])
    assert row["value"] == pytest.approx(1, abs=1e-6)
    R = InputXGradient()(prediction.model, prediction.x, Logits(0))
    (same,) = faithful(
        prediction, {InputXGradient(): R}, Logits(0), [FaithfulnessCorrelation("voxels", subset=30, baseline="zero")]
    )
    assert same["value"] == pytest.approx(row["value"], abs=1e-6)
    assert same["method"] == "input-x-gradient"


def test_gradients_are_slopes_also_within_others() -> None:
    torch.manual_seed(0)
    prediction = predict(Linear((1, 12, 10, 8)), scan())
    maps = prediction.explain([Gradient(), SmoothGrad(Gradient(), samples=2), InputXGradient()], Logits(0))
    rows = check(prediction, maps, Logits(0), [Infidelity("voxels", baseline="zero", scaled=False)])
    assert [r["value"] for r in rows] == pytest.approx([0, 0, 0], abs=1e-6)


@pytest.mark.parametrize("axes", [2, 3])
def test_a_segmentation_s_regions(axes: int) -> None:
    torch.manual_seed(3)
    image = scan((12, 10, 8)[:axes])
    net = Segmenter(axes).eval()
    present = [int(v) for v in np.unique(predict(net, image).labels().data)][:2]
    prediction, targets = predict(net, image), Region(*present)
    maps = prediction.explain([InputXGradient()], targets)
    rows = check(prediction, maps, targets, [FaithfulnessCorrelation(cubes=4, samples=20), Deletion("semantic", points=3)])
    assert [r["target"] for r in rows[::2]] == [f"label {p}" for p in present]
    assert all(math.isfinite(r["value"]) or r["reason"] for r in rows)


def test_over_a_parcellation() -> None:
    prediction = predict(Bright(3), scan())
    labels = np.zeros((1, 12, 10, 8), np.int32)
    labels[0, :6], labels[0, 6:, :5] = 1, 2
    parcellation = Parcellation(Volume(labels, scan().affine), {1: Name("one"), 2: Name("two")})
    maps = prediction.explain([InputXGradient()], Logits(0))
    metric = Deletion("parcellation", baseline="zero")
    (row,) = check(prediction, maps, Logits(0), [metric], parcellation=parcellation)
    R = torch.from_numpy(maps[0].relevance[0].data)[None, None]
    (answer,) = ask(Bright(3), prediction.x, {"map": R}, Logits(0), [metric], labels=torch.from_numpy(labels[0]).long())
    assert row["value"] == pytest.approx(answer.value)
    assert row["evaluations"] == 4  # the image, and one, two and three regions less
    with pytest.raises(BadInput, match="a parcellation for over"):
        check(prediction, maps, Logits(0), [metric])


def test_a_target_without_a_map_is_nan_with_that_reason() -> None:
    class Half(Bright):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * torch.tensor([1.0, 0.0])

    prediction = predict(Half(3), scan())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        maps = prediction.explain([InputXGradient()], Logits(0, 1), failed=lambda *_: None)
    assert maps[0].targets == ("logit 0",)
    first, second = small(prediction, maps)
    assert not first["reason"]
    assert math.isnan(second["value"])
    assert second["reason"] == "there is no map of this target"


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (lambda p, e: check(p, [GradCAM()], Logits(0, 1)), "explanations of this scan; got GradCAM"),
        (lambda p, e: check(predict(p.model, scan((12, 10, 6))), e, Logits(0, 1)), "explanations of the scan on"),
        (lambda p, e: check(p, e, Logits(0)), "maps of the targets logit 0; got logit 1"),
        (lambda p, e: check(p, e, Logits(0, 1), classes=("cat", "dog")), "maps of the targets cat, dog; got logit 0, logit 1"),
        (lambda p, e: check(p, e, Logits(0, 1), ["delete"]), "a metric among .*got 'delete'.* Did you mean deletion"),
        (lambda p, e: check(p, e, Logits(0, 1), ["entropy"]), "checks among .*got entropy. .*examine"),
        (lambda p, e: check(p, e, Logits(0, 1), ["iou@0.5"]), "got 'iou@0.5'. It needs a mask"),
        (lambda p, e: check(p, [], Logits(0, 1)), "maps of the same number of targets; got none"),
    ],
)
def test_bad_input_is_refused_in_words(work: Callable[..., object], message: str) -> None:
    prediction = predict(Bright(3), scan())
    with pytest.raises(BadInput, match=message):
        work(prediction, prediction.explain([InputXGradient()], Logits(0, 1)))
