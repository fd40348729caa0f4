"""Are the maps of one scan faithful to the model? A row for each map, target and check."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from radiolucent.errors import BadInput
from radiolucent.explanation.judged import asking, is_check, row
from radiolucent.explanation.kinds import check_target
from radiolucent.explanation.prediction import Prediction
from radiolucent.explanation.result import Explanation
from radiolucent.methods import unique_titles
from radiolucent.metrics import label_of
from radiolucent.metrics.faithfulness import FAITHFULNESS, Check, ask
from radiolucent.metrics.finding import Finding
from radiolucent.parcellation import Parcellation
from radiolucent.protocols import Method, Target

SLOPES = ("score per unit of intensity", "rectified gradient")
"""Units of maps whose values are to be multiplied by a change of the image."""


def check(
    prediction: Prediction,
    explanations: Sequence[Explanation],
    targets: Target,
    checks: Sequence[Check | str] = tuple(FAITHFULNESS),
    *,
    classes: Sequence[str] = (),
    parcellation: Parcellation | None = None,
    batch: int = 0,
) -> list[dict[str, Any]]:
    """Ask the model whether the maps of a scan are faithful; every changed copy of the image runs once for all of them.

    The maps are brought from the scan's grid to the model's, where the image is changed: exactly where the two share their
    voxels, and else by interpolation. `faithful` takes maps that are on the model's grid.

    Args:
        prediction: what `predict` gave for the scan.
        explanations: what `prediction.explain` gave; the targets that one of them has no map of get NaN.
        targets: as they were explained.
        checks: instances or names; default: all of radiolucent.metrics.FAITHFULNESS.
        classes: names of the classes, as for `explain`: targets are found by their names.
        parcellation: for checks with over="parcellation".
        batch: how many copies share a pass; 0: as many as fit well.

    Returns:
        rows with method, settings, layer, target, metric, category, better ("higher" or "lower"), value, low and high (the
        95 % interval, or bounds: see each check), evaluations and seconds (what the number takes by itself; what several
        need is shared), and reason ("" or why the value is NaN).
    """
    if isinstance(explanations, Explanation):
        raise BadInput("a list of explanations", "one", "Give what prediction.explain returned, or [explanation].")
    check_target(targets)
    fixed = targets.fix(prediction.output)
    names = fixed.names(classes)
    for explanation in explanations:
        _belongs(explanation, prediction, names)
    maps = [on_model_s_grid(prediction, explanation, names) for explanation in explanations]
    methods = [e.method for e in explanations]
    rows = _rows(prediction, methods, maps, fixed, checks, names, parcellation, batch)
    for number, each in enumerate(rows):
        if each["target"] not in explanations[number * len(explanations) // len(rows)].targets:
            each["reason"] = "there is no map of this target"
    return rows


def _belongs(explanation: Explanation, prediction: Prediction, names: Sequence[str]) -> None:
    """Refuse what explains another scan, or other targets."""
    if not isinstance(explanation, Explanation):
        raise BadInput("explanations of this scan", type(explanation).__name__, "Give what prediction.explain returned.")
    if explanation.relevance[0].grid != prediction.scan.grid:
        expected, got = f"explanations of the scan on {prediction.scan.grid}", f"one on {explanation.relevance[0].grid}"
        raise BadInput(expected, got, "Check each scan with its own.")
    if unknown := set(explanation.targets) - set(names):
        expected, got = f"maps of the targets {', '.join(names)}", ", ".join(sorted(unknown))
        raise BadInput(expected, got, "Give the targets, and the classes' names, that were explained.")


def faithful(
    prediction: Prediction,
    maps: Mapping[Method, Tensor],
    targets: Target,
    checks: Sequence[Check | str] = tuple(FAITHFULNESS),
    *,
    classes: Sequence[str] = (),
    parcellation: Parcellation | None = None,
    batch: int = 0,
) -> list[dict[str, Any]]:
    """`check` of relevance as the methods gave it for prediction.x: (t, 1, c, *cells)."""
    fixed = targets.fix(prediction.output)
    return _rows(prediction, list(maps), list(maps.values()), fixed, checks, fixed.names(classes), parcellation, batch)


def _rows(
    prediction: Prediction,
    methods: Sequence[Method],
    maps: Sequence[Tensor],
    fixed: Target,
    checks: Sequence[Check | str],
    names: Sequence[str],
    parcellation: Parcellation | None,
    batch: int,
) -> list[dict[str, Any]]:
    called = unique_titles(methods)
    slopes = [name for name, method in zip(called, methods, strict=True) if method.unit in SLOPES]
    kinds = asking(checks)
    if wrong := [label_of(c) for c in kinds if not is_check(c)]:
        do = "Those that make maps again are for radiolucent.explanation.examine."
        raise BadInput(f"checks among {', '.join(FAITHFULNESS)}", ", ".join(wrong), do)
    answers = ask(
        prediction.model,
        prediction.x,
        dict(zip(called, maps, strict=True)),
        fixed,
        kinds,
        slopes=slopes,
        labels=None if parcellation is None else _labels(prediction, parcellation),
        batch=batch,
    )
    by_label = {label_of(c): c for c in kinds}
    rows = []
    for a in answers:
        found = Finding(a.value, a.low, a.high, a.reason)
        rows.append(row(methods[called.index(a.map)], names[a.target], by_label[a.check], found, a.evaluations, a.seconds))
    return rows


def on_model_s_grid(prediction: Prediction, explanation: Explanation, names: Sequence[str]) -> Tensor:
    """(t, 1, c, *grid); NaN for a target without a map."""
    found = {name: v.on(prediction.image.grid).data for name, v in zip(explanation.targets, explanation.relevance, strict=True)}
    missing = np.full_like(next(iter(found.values())), math.nan)
    return torch.from_numpy(np.stack([found.get(name, missing) for name in names]))[:, None]


def _labels(prediction: Prediction, parcellation: Parcellation) -> Tensor:
    labels = parcellation.on(prediction.scan.grid).labels.on(prediction.image.grid, nearest=True)
    return torch.from_numpy(np.ascontiguousarray(labels.data[0]))
