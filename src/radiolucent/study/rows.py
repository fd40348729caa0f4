"""What a case says, as rows: relevance by region, agreement with the label, costs."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from radiolucent import io
from radiolucent.case import fitting
from radiolucent.errors import BadInput
from radiolucent.explanation import Explanation, Prediction
from radiolucent.geometry import Grid
from radiolucent.io.tables import Name, read_names
from radiolucent.methods import titles
from radiolucent.metrics.agreement import Agreement, agreement
from radiolucent.models import Card
from radiolucent.parcellation import Parcellation
from radiolucent.plan import Explained, class_names, is_segmentation, output_of, segmentation
from radiolucent.protocols import Method, Target
from radiolucent.provenance import peak_memory
from radiolucent.regions import Regions as Prepared
from radiolucent.regions import by_region, by_region_streamed
from radiolucent.study.cohort import Case
from radiolucent.study.recipe import Regions
from radiolucent.targets import Outputs, Overlapping, Region, Select
from radiolucent.volume import Volume

Row = dict[str, Any]


def names_of(ran: Sequence[Method], methods: Sequence[Method]) -> dict[Method, tuple[str, str]]:
    """Name and layer of each method as it ran; where `methods` differ in their settings alone, with these in the name."""
    kinds = {titles(method)[:2] for method in methods}
    several = {name for name, _ in kinds if sum(name == other for other, _ in kinds) > 1}
    found = {method: titles(method) for method in ran}
    return {m: (f"{name} ({settings})" if name in several else name, layer) for m, (name, settings, layer) in found.items()}


def region_rows(
    explained: Explained, parcellation: Parcellation, card: Card, wanted: Regions, names: dict[Method, tuple[str, str]]
) -> list[Row]:
    """One row per method, target and region, without the case: the one place where a study adds relevance up."""
    seen = _structures(explained.prediction, card, explained.prediction.scan.grid) if wanted.near_mm else None
    regions = Prepared(parcellation, joined=wanted.joined, targets=seen, near_mm=wanted.near_mm)
    rows = []
    for explanation in explained.explanations:
        method, layer = names[explanation.method]
        rows += [row | {"method": method, "layer": layer} for row in by_region(explanation, regions)]
    return rows


def _structures(prediction: Prediction, card: Card, grid: Grid) -> Parcellation | dict[str, Volume] | None:
    """Where the targets lie: in the segmentation, or, of regions that overlap, each as a whole."""
    if not card.regions:
        found = segmentation(prediction, card)[0]
        return found.on(grid) if found else None
    output = output_of(prediction, card)
    names = Overlapping(*range(output.shape[1])).names(card.classes)
    alone = {name: replace(prediction, output=output[:, c : c + 1]) for c, name in enumerate(names)}
    return {name: one.labels().on(grid, nearest=True) for name, one in alone.items()}


@dataclass(frozen=True)
class Streamed:
    """Rows of maps that were never whole, what each cost, and the methods that gave none, with their reasons."""

    rows: list[Row]
    costs: list[Row]
    failures: Mapping[str, str]


def streamed_rows(
    prediction: Prediction, targets: Target, parcellation: Parcellation, card: Card, wanted: Regions, methods: Sequence[Method]
) -> Streamed:
    """`region_rows` on the model's grid, from slabs; a method that fails does not take the others along."""
    grid = prediction.image.grid
    seen = _structures(prediction, card, grid) if wanted.near_mm else None
    regions = Prepared(parcellation.on(grid), joined=wanted.joined, targets=seen, near_mm=wanted.near_mm)
    names = names_of(methods, methods)
    rows, costs, failures = [], [], {}
    for method in methods:
        about, start = dict(zip(("method", "layer"), names[method], strict=True)), time.perf_counter()
        try:
            rows += [row | about for row in by_region_streamed(prediction, method, targets, regions, classes=card.classes)]
        except BadInput as error:
            failures[about["method"]] = str(error)
            continue
        spent = {"seconds": round(time.perf_counter() - start, 4), "shared_by_methods": 1}
        costs.append(about | spent | {"peak_memory_mib": peak_memory(prediction.x)})
    if not rows:
        raise BadInput("at least one method that gives a map", "; ".join(failures.values()), "See above.")
    return Streamed(rows, costs, failures)


def parcellation_of(case: Case, prediction: Prediction, card: Card, regions: Regions) -> tuple[Parcellation, str]:
    """The regions of one case on its scan's grid, and what they are called."""
    scan, names = prediction.scan, read_names(regions.names) if regions.names else None
    found: Parcellation | None
    if regions.parcellation == "predicted":
        found, called = segmentation(prediction, card)
        if found is None:
            raise BadInput("a parcellation for a model that does not segment", "predicted", "Name one: [regions] parcellation.")
        return Parcellation(found.labels, names or found.names), called
    if regions.parcellation == "label":
        labels = label_of(case, prediction, card)
        if labels is None:
            raise BadInput(f"a label image of {case.id}", "none in the manifest", "Add it, or choose another parcellation.")
        return Parcellation(labels, names or _label_names(labels, prediction, card)), "the label"
    path = Path(regions.parcellation.replace("{case}", case.id))
    return fitting(Parcellation.read(path, names), scan).on(scan.grid), path.name


def label_of(case: Case, prediction: Prediction, card: Card) -> Volume | None:
    """The case's label image, which lies on the scan's grid and holds the model's classes, where it names some."""
    if case.label is None:
        return None
    labels, scan = io.read_labels(case.label), prediction.scan
    if labels.grid != scan.grid:
        raise BadInput(
            f"a label on the grid of the scan ({scan.grid})", f"{labels.grid} in {case.label.name}", "Resample it first."
        )
    known = class_names(prediction, card) if card.classes and is_segmentation(prediction, card) else {}
    unknown = [v for v in np.unique(labels.data).tolist() if v < 0 or (known and v not in known)]
    if unknown:
        names = ", ".join(f"{i} {name.name}" for i, name in known.items()) or "whole numbers from 0"
        raise BadInput(f"labels among {names} in {case.label.name}", f"{unknown[:20]}", "Renumber them.")
    return labels


def _label_names(labels: Volume, prediction: Prediction, card: Card) -> dict[int, Name]:
    """As the model's classes are called, where it segments."""
    found = {int(v): Name(f"label {int(v)}") for v in np.unique(labels.data) if v}
    return found | (class_names(prediction, card) if is_segmentation(prediction, card) else {})


def case_rows(case: Case, prediction: Prediction, targets: Target | None, card: Card, wanted: Sequence[str]) -> list[Row]:
    """One row per class: its score, how much of it the model sees, and how well that agrees with the label.

    Of a regression one row per output, whichever of them are explained: they cost nothing more, and a comparison of left
    and right needs both.
    """
    segmentation = is_segmentation(prediction, card)
    if card.task == "regression" and not segmentation:
        targets = Outputs() if card.output is None else Select(card.output, Outputs())
    scores = _scores(targets, prediction, card) if targets is not None else {}
    if not segmentation:
        return [{"target": name, "score": score, "reason": "no segmentation"} for name, score in scores.items()]
    predicted = prediction.labels(card.output, card.regions)
    label = label_of(case, prediction, card)
    rows = []
    for value, name in zip(*_named(prediction, card, wanted), strict=True):
        seen = predicted.data[0] == value
        found = Agreement(reason="no label")
        if label is not None:
            found = agreement(seen, label.data[0] == value, predicted.grid.spacing)
        rows.append(
            {
                "target": name,
                "score": scores.get(name, math.nan),
                "voxels_predicted": int(seen.sum()),
                "volume_mm3_predicted": float(seen.sum() * predicted.grid.voxel_mm3),
                "dice": found.dice,
                "iou": found.iou,
                "hd95_mm": found.hd95_mm,
                "reason": found.reason,
            }
        )
    return rows


def _scores(targets: Target, prediction: Prediction, card: Card) -> dict[str, float]:
    fixed = targets.fix(prediction.output)
    return dict(zip(fixed.names(card.classes), fixed(prediction.output).detach()[:, 0].tolist(), strict=True))


def _named(prediction: Prediction, card: Card, wanted: Sequence[str]) -> tuple[list[int], tuple[str, ...]]:
    """Values and names of the classes that are asked for: all but the background, where none is.

    Of overlapping regions what later ones leave of each, as the segmentation has it.
    """
    if card.regions:
        labels = {value: name for value, name in card.label_names().items() if value}
        return list(labels), tuple(labels.values())
    values = [card.index(name) for name in wanted] or list(range(1, max(2, output_of(prediction, card).shape[1])))
    return values, Region(*values).names(card.classes)


def cost_rows(explanations: Sequence[Explanation], names: dict[Method, tuple[str, str]]) -> list[Row]:
    """What each explanation cost; methods that shared a pass have its whole cost each, and say how many they were."""
    keys = ("seconds", "shared_by_methods", "peak_memory_mib")
    return [
        {"method": names[e.method][0], "layer": names[e.method][1]} | {key: e.provenance.get(key) for key in keys}
        for e in explanations
    ]
