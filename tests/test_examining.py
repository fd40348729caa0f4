"""Methods examined on a scan: contracts over all metrics, tasks and axes, and what only the whole can show."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from test_checking import COLUMNS
from test_contracts import disturb, every_axes, every_task, state, world
from torch import Tensor, nn
from worlds import Breaks, Bright, ConvNet, Returns, Transformer, classifier, image, segmenter

from radiolucent import BadInput, Logits, Outputs, Parcellation, Region, Volume, predict
from radiolucent.explanation import examine, faithful, remade
from radiolucent.explanation.examining import reseeded
from radiolucent.methods import (
    EdgeMap,
    ExpectedGradients,
    GradCAM,
    Gradient,
    IntegratedGradients,
    KernelSHAP,
    RandomMap,
    SmoothGrad,
)
from radiolucent.metrics import (
    REMAKING,
    AverageSensitivity,
    Completeness,
    EffectiveComplexity,
    Evaluations,
    FaithfulnessCorrelation,
    IoU,
    ParameterRandomisation,
    ShiftContinuity,
)
from radiolucent.targets import Predicted, Select
from radiolucent.tiling import Tiled

EFFICIENCY = [name for name, kind in REMAKING.items() if kind.category == "efficiency"]
TIMED = {"seconds", "peak-memory"}


def scan_of(x: Tensor) -> Volume:
    return Volume(x[0].numpy())


def table(rows: list[dict[str, Any]], *, timed: bool = False) -> dict[tuple[str, str, str], float]:
    return {(r["method"], r["target"], r["metric"]): r["value"] for r in rows if timed or r["metric"] not in TIMED}


def same(a: dict[Any, float], b: dict[Any, float], rel: float = 0.0) -> bool:
    assert a.keys() == b.keys()
    for key in a:
        assert a[key] == pytest.approx(b[key], rel=rel, abs=1e-9, nan_ok=True), key
    return True


@every_axes
@every_task
def test_every_metric_has_a_row_for_every_target_and_the_model_is_left_as_found(task: str, axes: int) -> None:
    here, others = world(task, axes, batch=1), [world(task, axes, batch=1).model]
    prediction = predict(here.model, scan_of(here.x))
    disturb(here.model)
    before = state(here.model)
    method = SmoothGrad(samples=2)
    rows = examine(prediction, [method, EdgeMap()], here.target(1, 2), list(REMAKING), others=others)
    assert state(here.model) == before
    assert all(list(row) == COLUMNS for row in rows)
    assert len(rows) == 2 * 2 * len(REMAKING)
    for row in rows:
        if row["metric"] != "completeness":
            assert math.isfinite(row["value"]), row
            assert row["reason"] == ""
            assert math.isnan(row["low"]) or row["low"] <= row["value"]
            assert math.isnan(row["high"]) or row["value"] <= row["high"]
    assert same(table(examine(prediction, [method], here.target(1, 2), list(REMAKING)[:5])), {
        key: value for key, value in table(rows).items() if key[0] == "smooth-grad(gradient)" and key[2] in list(REMAKING)[:5]
    })  # fmt: skip


@every_axes
@every_task
def test_targets_together_are_targets_alone(task: str, axes: int) -> None:
    here = world(task, axes, batch=1)
    model = here.model.double()
    prediction = predict(model, Volume(here.x[0].double().numpy()))
    metrics = [name for name in REMAKING if name not in ("target-randomisation", *EFFICIENCY)]
    together = table(examine(prediction, [SmoothGrad(samples=2), GradCAM()], here.target(0, 2), metrics))
    alone = [table(examine(prediction, [SmoothGrad(samples=2), GradCAM()], here.target(t), metrics)) for t in (0, 2)]
    assert same(together, alone[0] | alone[1], rel=1e-5)


@every_axes
@every_task
def test_a_failure_is_a_reason_and_the_model_is_left_as_found(task: str, axes: int) -> None:
    here = world(task, axes, batch=1)
    breaks = Breaks("backward")
    model = nn.Sequential(here.model, breaks)
    prediction = predict(model, scan_of(here.x))
    disturb(model)
    before = state(model)
    rows = examine(prediction, [Gradient(), EdgeMap()], here.target(1), ["entropy", "parameter-randomisation"])
    assert breaks.raised
    assert state(model) == before
    assert {row["reason"] for row in rows if row["method"] == "gradient"} == {"RuntimeError: the model broke"}
    assert all(math.isnan(row["value"]) for row in rows if row["method"] == "gradient")
    assert all(row["value"] >= 0 for row in rows if row["method"] == "edge-map")


def test_a_model_that_fails_only_when_it_is_asked_again() -> None:
    class Tired(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.calls = classifier(2), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if self.calls > 2:
                raise ValueError("enough")
            return self.net(x)

    model, x = Tired(), image(2, 1, size=8)
    rows = examine(predict(model, scan_of(x)), [Gradient()], Logits(0), ["entropy", "max-sensitivity"])
    assert [row["reason"] for row in rows] == ["", "ValueError: enough"]


def test_the_same_seed_gives_the_same_numbers_and_no_trace() -> None:
    net, x = classifier(3), image(3, 1, size=8)
    prediction = predict(net, scan_of(x))
    methods = [SmoothGrad(samples=2), RandomMap()]
    first = table(examine(prediction, methods, Logits(0, 1)))
    random, numpy_random = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    torch.rand(3)
    assert same(table(examine(prediction, methods, Logits(0, 1))), first)
    torch.set_rng_state(random)
    examine(prediction, methods, Logits(0, 1))
    assert torch.equal(torch.get_rng_state(), random)
    assert np.random.get_state()[1].tolist() == numpy_random  # noqa: NPY002
    with torch.inference_mode():
        assert same(table(examine(prediction, methods, Logits(0, 1))), first)


def test_a_predicted_mask_moves_with_the_image_and_a_class_stays() -> None:
    class Voxelwise(nn.Module):
        """Each voxel's class by its own intensity, and nothing else."""

        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv3d(1, 2, 1)
            with torch.no_grad():
                self.head.weight.copy_(torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1, 1))
                self.head.bias.copy_(torch.tensor([0.5, -0.5]))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x).tanh()

    x = image(3, 1, size=8)
    (row,) = examine(predict(Voxelwise(), scan_of(x)), [Gradient()], Region(1), [ShiftContinuity(1)])
    assert row["value"] == pytest.approx(0, abs=1e-6)
    mask = x[:, 0] > 0.5
    (row,) = examine(predict(Voxelwise(), scan_of(x)), [Gradient()], Region(1, mask=mask.long()), [ShiftContinuity(1)])
    assert row["value"] > 0.3  # a mask of one's own stays where it was

    class Turns(nn.Module):
        """Prefers class 1 as soon as the image moves; its gradients tell the classes apart."""

        def __init__(self, x: Tensor) -> None:
            super().__init__()
            self.x = x

        def forward(self, x: Tensor) -> Tensor:
            moved = (x - self.x).abs().mean((1, 2, 3, 4)).detach() > 1e-6
            first, second = (x**3).sum((1, 2, 3, 4)), (x**2).sum((1, 2, 3, 4))
            return torch.stack([first + 1e4 * ~moved, second + 1e4 * moved], 1)

    (row,) = examine(predict(Turns(x), scan_of(x)), [Gradient()], Predicted(), [ShiftContinuity(1)])
    assert row["value"] == 0


def test_seeds_are_raised_inside_methods_too() -> None:
    method = SmoothGrad(ExpectedGradients(seed=4), seed=2)
    assert reseeded(method, 3) == SmoothGrad(ExpectedGradients(seed=7), seed=5)
    assert reseeded(method, 0) is method
    assert reseeded(GradCAM("layer4"), 3) == GradCAM("layer4")


def test_methods_that_promise_to_add_up_do() -> None:
    torch.manual_seed(2)
    net, x = ConvNet(3), image(3, 1, size=8)
    methods = [
        IntegratedGradients(steps=200),
        KernelSHAP(cubes=2, samples=300),
        ExpectedGradients("mean", samples=3000),
        SmoothGrad(IntegratedGradients(), samples=2),
        ExpectedGradients(__file__),
    ]
    found = examine(predict(net, scan_of(x)), methods[:4], Logits(1), ["completeness"])
    assert found[0]["value"] < 1e-2
    assert found[1]["value"] < 1e-4
    assert found[2]["value"] < 0.1
    assert math.isnan(found[3]["value"])


def test_a_parcellation_of_the_users() -> None:
    net, x = ConvNet(3), image(3, 1, size=8)
    labels = torch.arange(x[0].numel()).reshape(x[0].shape) // 200
    parcellation = Parcellation(Volume(labels.numpy().astype(np.int32)), {int(v): f"part {v}" for v in labels.unique() if v})
    method = KernelSHAP("parcellation", samples=200)
    rows = examine(predict(net, scan_of(x)), [method], Logits(1), ["completeness", "repeatability"], parcellation=parcellation)
    assert [row["reason"] for row in rows] == ["", ""]
    assert rows[0]["value"] < 1e-4


def test_what_a_metric_costs_is_counted() -> None:
    net, x = ConvNet(2), image(2, 1, size=8)
    metrics = [AverageSensitivity(samples=4), "max-sensitivity", ParameterRandomisation(steps=0), "reproducibility", Evaluations()]
    rows = examine(predict(net, scan_of(x)), [Gradient()], Logits(0, 1), metrics, others=[ConvNet(2)])
    cost = {row["metric"]: row["evaluations"] for row in rows}
    assert cost["average-sensitivity(samples=4)"] == 4 * 3  # a forward pass and two backward passes each
    assert cost["max-sensitivity"] == 10 * 3
    assert cost["parameter-randomisation(steps=0)"] == 1 + 3 * 3  # the layers' order, and three layers
    assert cost["reproducibility"] == 3
    assert {row["value"] for row in rows if row["metric"] == "evaluations"} == {3}


def test_windows_transformers_and_parts_of_an_output() -> None:
    x = image(3, 1, size=8)
    tiled = Tiled(segmenter(3, x), 6)
    metrics = ["max-sensitivity", "parameter-randomisation", "shift-continuity", "complexity-rise"]
    rows = examine(predict(tiled, scan_of(x)), [Gradient()], Region(1, 2), metrics)
    rows += examine(predict(Transformer(3), scan_of(x)), [Gradient()], Logits(1), metrics)
    wrapped = Returns(classifier(3), "dict")
    rows += examine(predict(wrapped, scan_of(x)), [Gradient(), GradCAM()], Select("logits", Outputs(1)), metrics)
    assert [row["reason"] for row in rows] == [""] * len(rows)
    assert rows[-1]["layer"] == "network.6"


def test_maps_made_once_serve_faithfulness_too() -> None:
    net, x = Bright(3), image(3, 1, size=8)
    prediction = predict(net, scan_of(x))
    maps = {m: remade(prediction, m, Logits(0)).relevance for m in (IntegratedGradients(), RandomMap(), EdgeMap())}
    rows = faithful(prediction, maps, Logits(0), [FaithfulnessCorrelation(cubes=4)])
    assert [row["method"] for row in rows] == ["integrated-gradients", "random-map", "edge-map"]
    assert rows[0]["value"] > 0.9 > max(rows[1]["value"], rows[2]["value"])


@every_axes
def test_controls_leave_the_model_as_found_and_have_a_map_for_every_output(axes: int) -> None:
    net, x = classifier(axes), image(axes, 2, size=8)
    disturb(net)
    before = state(net)
    for control in (RandomMap(), EdgeMap()):
        R = control(net, x.requires_grad_(), Outputs())  # how many there are, the model says
        assert R.shape == (4, 2, 1, *x.shape[2:])
        assert not R.requires_grad
        with torch.inference_mode():
            assert torch.equal(control(net, x, Outputs()), R)
    assert state(net) == before


def test_what_is_no_metric_is_refused() -> None:
    prediction = predict(ConvNet(2), scan_of(image(2, 1, size=8)))
    for wrong in ("entropie", Completeness, 3, "iou", IoU()):
        with pytest.raises(BadInput, match="among faithfulness-correlation"):
            examine(prediction, [Gradient()], Logits(0), [wrong])  # type: ignore[list-item]
    (row,) = examine(prediction, [Gradient()], Logits(0), [EffectiveComplexity(0.2)])
    assert row["metric"] == "effective-complexity(threshold=0.2)"
