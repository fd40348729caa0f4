"""One list of all metrics: as text, as TOML, in words; and one table of what they say."""

import json
import math
import tomllib
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from torch import Tensor, nn
from worlds import Bright, ConvNet, image

from radiolucent import BadInput, Logits, Volume, metrics, predict
from radiolucent.explanation import check, examine
from radiolucent.methods import CONTROLS, METHODS, EdgeMap, Gradient, InputXGradient, RandomMap, SmoothGrad, titles
from radiolucent.methods import as_dict as method_as_dict
from radiolucent.methods import from_dict as method_from_dict
from radiolucent.metrics import (
    FAITHFULNESS,
    KNOWN,
    METRICS,
    REMAKING,
    AverageSensitivity,
    Deletion,
    FaithfulnessCorrelation,
    IoU,
    ParameterRandomisation,
    as_dict,
    describe,
    from_dict,
    from_text,
    label_of,
    measure,
)

every_metric = pytest.mark.parametrize("name", KNOWN)
OTHER: dict[str, Any] = {
    "over": "voxels",
    "cubes": (4, 4, 2),
    "threshold": 0.25,
    "similarity": "ssim",
    "order": "bottom-up",
    "baseline": "blur",
}


def changed(kind: type) -> Any:
    """The metric with other settings than the usual ones, as far as that goes."""
    settings = {}
    for f in fields(kind):
        value = f.default
        other = (
            not value
            if isinstance(value, bool)
            else value + 3
            if isinstance(value, int)
            else value / 2 + 0.125
            if isinstance(value, float)
            else ""
        )
        settings[f.name] = OTHER.get(f.name, other)
    return kind(**settings)


@every_metric
def test_text_and_toml_give_a_metric_back(name: str) -> None:
    for metric in (KNOWN[name](), changed(KNOWN[name])):
        assert eval(repr(metric), vars(metrics)) == metric
        assert from_text(label_of(metric)) == metric
        assert from_dict(tomllib.loads(tomli_w.dumps(as_dict(metric)))) == metric
        assert from_dict(json.loads(json.dumps(as_dict(metric)))) == metric
    if name not in METRICS:
        assert label_of(KNOWN[name]()) == name
    assert not fields(KNOWN[name]) or label_of(changed(KNOWN[name])) != name


@every_metric
def test_every_metric_has_a_category_a_direction_an_equation_and_a_meaning(name: str) -> None:
    text = describe(KNOWN[name])
    assert text["name"] == name
    assert text["category"] in (
        "localisation",
        "faithfulness",
        "complexity",
        "robustness",
        "randomisation",
        "axiomatic",
        "efficiency",
    )
    assert text["direction"].split()[0].capitalize() + " is better" in text["meaning"]
    assert "=" in text["equation"]
    assert text["summary"]
    assert text["meaning"]


def test_the_lists_do_not_overlap() -> None:
    assert len(KNOWN) == len(METRICS) + len(FAITHFULNESS) + len(REMAKING)
    assert not METHODS.keys() & CONTROLS.keys()


def test_text_is_read_with_and_without_spaces() -> None:
    wanted = Deletion("voxels", points=50)
    for text in ("deletion(over=voxels, points=50)", " deletion( over = voxels,points=50 )", "deletion(over='voxels', points=50)"):
        assert from_text(text) == wanted
    assert from_text("deletion(cubes=(4, 4, 2), relative=False)") == Deletion(cubes=(4, 4, 2), relative=False)
    assert from_text("deletion(cubes=4x4x2)") == Deletion(cubes=(4, 4, 2))
    assert from_text("effective-complexity@0.2").threshold == 0.2
    assert from_text("iou@0.5") == IoU(0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("deletions", "a metric among .*got 'deletions'. Did you mean deletion"),
        ("", "a metric among"),
        ("deletion(over=voxels", "a metric among .*got 'deletion"),
        ("deletion(voxels)", "settings of deletion as"),
        ("deletion(ovr=voxels)", "fields of deletion among: over, cubes, .*got 'ovr'"),
        ("deletion(points=many)", "int for the field points of deletion; got 'many'"),
        ("deletion(points=-1)", "points as a whole number >= 1"),
        ("deletion@voxels", "deletion.name=value. with a setting among over"),
        ("seconds@3", "seconds without a setting"),
        ("pointing-game@far", "float for the field .* of pointing-game; got 'far'"),
    ],
)
def test_mistakes_are_named(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        from_text(text)


def test_a_metric_that_asks_the_model_does_not_go_to_a_mask() -> None:
    relevance, mask = Volume(np.ones((1, 4, 4), np.float32)), Volume(np.ones((1, 4, 4), np.int32))
    for wrong in ("deletion", "seconds", Deletion(), ParameterRandomisation()):
        with pytest.raises(BadInput, match=r"a metric against a mask.*radiolucent.explanation.examine"):
            measure(relevance, mask, [wrong])  # type: ignore[list-item]
    with pytest.raises(BadInput, match="Give its name or an instance"):
        measure(relevance, mask, [IoU])  # type: ignore[list-item]


def test_the_controls_are_named_as_methods_are() -> None:
    for control in (RandomMap(cells=3), EdgeMap()):
        assert titles(control)[0] in CONTROLS
        assert method_from_dict(method_as_dict(control)) == control


def test_one_table_of_both_halves_with_each_map_made_once() -> None:
    class Counts(RandomMap):
        made = 0

        def __call__(self, *given: Any) -> Tensor:
            Counts.made += 1
            return super().__call__(*given)

    prediction = predict(Bright(3), Volume(image(3, 1, size=8)[0].numpy()))
    methods = [InputXGradient(), Counts(), Counts(seed=1)]
    asked = [FaithfulnessCorrelation(cubes=4), "average-sensitivity(samples=2)", "deletion(cubes=4)"]
    rows = examine(prediction, methods, Logits(0, 1), asked)
    assert Counts.made == 2 * (1 + 2)
    assert len({tuple(row) for row in rows}) == 1  # the columns
    assert len({(r["method"], r["settings"], r["layer"], r["target"], r["metric"]) for r in rows}) == len(rows) == 3 * 2 * 3
    assert {r["better"] for r in rows if r["metric"].startswith("deletion")} == {"lower"}
    alone = check(prediction, prediction.explain(methods[:1], Logits(0, 1)), Logits(0, 1), [FaithfulnessCorrelation(cubes=4)])
    both = [r for r in rows if r["method"] == "input-x-gradient" and r["category"] == "faithfulness" and r["better"] == "higher"]
    assert [r["value"] for r in both] == [r["value"] for r in alone]


def test_two_settings_of_one_method_and_metric_are_told_apart() -> None:
    prediction = predict(ConvNet(2), Volume(image(2, 1, size=8)[0].numpy()))
    methods = [SmoothGrad(samples=2), SmoothGrad(samples=3)]
    rows = examine(prediction, methods, Logits(0), [AverageSensitivity(2), AverageSensitivity(3), Deletion(), Deletion(points=5)])
    rows += check(prediction, prediction.explain(methods, Logits(0)), Logits(0), [Deletion("voxels")])
    assert len({(r["method"], r["settings"], r["metric"]) for r in rows}) == len(rows) == 2 * 5


def test_a_check_that_fails_takes_no_other_along() -> None:
    class Fragile(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if (x == 0).flatten(1).all(1).any():
                raise ValueError("an empty image")
            return x.flatten(1)[:, :2] + x.flatten(1).sum(1, keepdim=True)

    prediction = predict(Fragile(), Volume(np.random.default_rng(0).random((1, 8, 8), np.float32) + 1))
    asked = ["deletion(baseline=zero, cubes=4)", "deletion(baseline=mean, cubes=4)", "entropy"]
    rows = examine(prediction, [Gradient(), SmoothGrad(Gradient(), samples=1)], Logits(0), asked)
    reasons = {row["metric"]: row["reason"] for row in rows}
    assert reasons == {
        "deletion(cubes=4, baseline=zero)": "ValueError: an empty image",
        "deletion(cubes=4, baseline=mean)": "",
        "entropy": "",
    }
    assert all(math.isfinite(row["value"]) == (row["reason"] == "") for row in rows)


def test_a_method_that_fails_has_a_row_for_every_metric() -> None:
    class Broken(RandomMap):
        def __call__(self, *given: Any) -> Tensor:
            raise RuntimeError("no map")

    prediction = predict(ConvNet(2), Volume(torch.rand(1, 8, 8).numpy()))
    rows = examine(prediction, [Broken(), EdgeMap()], Logits(0), ["deletion(cubes=4)", "entropy"])
    assert len(rows) == 4
    assert {row["reason"] for row in rows if row["method"] == "Broken"} == {"RuntimeError: no map"}
    assert all(row["reason"] == "" for row in rows if row["method"] == "edge-map")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"metrics": "deletion"}, "a list of metrics; got 'deletion'"),
        ({"metrics": []}, "a list of metrics"),
        ({"methods": []}, "a list of methods"),
        ({"methods": Gradient()}, "a list of methods; got Gradient"),
        ({"methods": [Gradient]}, "a method with its settings"),
        ({"methods": ["gradient"]}, "a method with its settings"),
        ({"targets": 1}, "a target; got 1"),
        ({"others": ConvNet(2)}, "a list of other models; got ConvNet"),
    ],
)
def test_what_is_of_the_wrong_kind_is_refused_and_no_row_of_reasons(given: dict[str, Any], message: str) -> None:
    prediction = predict(ConvNet(2), Volume(image(2, 1, size=8)[0].numpy()))
    asked: dict[str, Any] = {"methods": [Gradient()], "targets": Logits(0), "metrics": ["entropy"]} | given
    with pytest.raises(BadInput, match=message):
        examine(prediction, **asked)


def test_one_explanation_or_a_number_is_not_checked() -> None:
    prediction = predict(ConvNet(2), Volume(image(2, 1, size=8)[0].numpy()))
    (explanation,) = prediction.explain([Gradient()], Logits(0))
    with pytest.raises(BadInput, match="a list of explanations; got one"):
        check(prediction, explanation, Logits(0))  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="a target; got 0"):
        check(prediction, [explanation], 0)  # type: ignore[arg-type]
