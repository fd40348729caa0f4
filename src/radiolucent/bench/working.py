"""One case of one model: each method's map and what it is like, then what hiding parts of the image says of all maps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from radiolucent import io
from radiolucent.bench.cases import Item
from radiolucent.bench.recipe import Contender, Recipe
from radiolucent.bench.store import Place, Row
from radiolucent.errors import BadInput
from radiolucent.explanation import Prediction, checked, examined, predict, remade
from radiolucent.methods import Gradient, at_layer, titles
from radiolucent.metrics import FAITHFULNESS, METRICS, label_of, measure
from radiolucent.models import Card
from radiolucent.parcellation import Parcellation
from radiolucent.plan import Plan, is_segmentation, read_scan
from radiolucent.protocols import Method, Target
from radiolucent.study.working import targets_there
from radiolucent.volume import Volume


@dataclass(frozen=True)
class Loaded:
    """A model on its device, and the methods as its card places them."""

    contender: Contender
    network: nn.Module
    card: Card
    methods: tuple[Method, ...]

    @classmethod
    def of(cls, contender: Contender, network: nn.Module, card: Card, recipe: Recipe) -> Loaded:
        return cls(contender, network, card, tuple(at_layer(method, card.layer) for method in recipe.methods))


@dataclass(frozen=True)
class _Begun:
    """A case as all of its methods need it. `truths`: one for each target, None where there is none."""

    prediction: Prediction
    targets: Target
    names: tuple[str, ...]
    truths: tuple[Volume | None, ...]
    parcellation: Parcellation | None


def work(place: Place, item: Item, loaded: Loaded, recipe: Recipe, *, retry: bool, say: Callable[[str], None]) -> None:
    """Do what is left of a case. What fails is noted with its reason, and the rest goes on; only a full disk is raised."""
    place.begin()
    try:
        begun = _begin(item, loaded)
    except Exception as error:  # a case may fail in any way; the others go on
        _raise_if_no_room(error)
        place.fail(reason_of(error))
        return
    _warm_up(begun)
    checks = recipe.checks
    made: dict[int, Tensor] = {}
    for number, method in enumerate(loaded.methods):
        if place.failure(number) and not retry:
            continue
        if place.has_map(number) and (not checks or place.is_checked(number)):
            continue
        relevance = place.relevance(number) if place.has_map(number) else None
        if relevance is None:
            say(f"{place.model}, {place.case}: {recipe.labels[number]}")
            relevance = _one(place, number, method, begun, loaded, recipe)
        if relevance is not None:
            made[number] = relevance
    if made and checks:
        say(f"{place.model}, {place.case}: hiding parts, for {len(made)} maps together")
        rows = _hidden(begun, {loaded.methods[n]: relevance for n, relevance in made.items()}, checks, loaded.card)
        for number in made:
            place.keep_checks(number, rows[loaded.methods[number]])


def _warm_up(begun: _Begun) -> None:
    """What the first pass and the first gradient of a process load is no method's cost."""
    with suppress(Exception):  # a guest may raise anything; its methods will say so
        remade(begun.prediction, Gradient(), begun.targets)


def _begin(item: Item, loaded: Loaded) -> _Begun:
    plan = Plan((), item.targets or loaded.contender.targets, loaded.contender.reduce)
    prediction = predict(loaded.network, read_scan(item.file, loaded.card, plan), loaded.card.preprocessing)
    if item.label and not plan.targets and loaded.card.task == "classification" and not is_segmentation(prediction, loaded.card):
        plan = replace(plan, targets=(item.label.removesuffix(".0"),))
    targets, notes = targets_there(prediction, loaded.card, plan)
    if targets is None:
        raise BadInput(
            f"a target that the model predicts in {item.id}", "; ".join(notes), "Name another one, or leave the case out."
        )
    names = targets.fix(prediction.output).names(loaded.card.classes)
    truths = [_truth(path, prediction.scan) for path in item.truths]
    if len(truths) == 1:
        truths *= len(names)
    elif len(truths) not in (0, len(names)):
        got = f"{len(truths)} for {', '.join(names)}"
        raise BadInput("a truth for each target", got, "The model may predict nothing of one of the targets here.")
    parcellation = None if item.parcellation is None else Parcellation.read(item.parcellation).on(prediction.scan.grid)
    return _Begun(prediction, targets, tuple(names), tuple(truths or [None] * len(names)), parcellation)


def _truth(path: Any, scan: Volume) -> Volume:
    """Where a map should lie: 1 where the mask is anything but 0."""
    mask = io.read_labels(path)
    same = mask.grid == scan.grid or (not (mask.has_world or scan.has_world) and mask.grid.shape == scan.grid.shape)
    if not same:
        do = "Resample it to the scan's voxels (nearest neighbour)."
        raise BadInput(f"a truth on the grid of the scan ({scan.grid})", f"{mask.grid} in {path.name}", do)
    return Volume((mask.data != 0).astype("uint8"), scan.affine, scan.has_world)


def _one(place: Place, number: int, method: Method, begun: _Begun, loaded: Loaded, recipe: Recipe) -> Tensor | None:
    """One method's cell; None where it failed."""
    try:
        card, parcellation = loaded.card, begun.parcellation
        maps = remade(begun.prediction, method, begun.targets, parcellation=parcellation, spread=card.spread)
        asked = [metric for metric in recipe.metrics if metric.name not in FAITHFULNESS | METRICS]
        rows = [_plain(row) for row in examined(method, maps, begun.names, asked)]
        rows += _located(method, maps.relevance, begun, recipe)
        place.keep_map(number, rows, maps.relevance if recipe.checks else None)
        return maps.relevance
    except Exception as error:  # a guest may raise anything
        _raise_if_no_room(error)
        reason = reason_of(error)
        nothing = [_row(metric, target, reason=reason) for metric in recipe.metrics for target in begun.names]
        unfit = recipe.all_methods and isinstance(error, BadInput)
        place.fail_method(number, reason, nothing, unfit=unfit)
        return None


def _located(method: Method, relevance: Tensor, begun: _Begun, recipe: Recipe) -> list[Row]:
    """The map against the truth; the number is exact."""
    metrics = [metric for metric in recipe.metrics if metric.name in METRICS]
    placed = begun.prediction.placed(relevance, method, begun.names) if metrics else []
    rows = []
    for target, volume, truth in zip(begun.names, placed, begun.truths, strict=False):
        if truth is None or isinstance(volume, BadInput):
            reason = "the case has no truth" if truth is None else str(volume)
            rows += [_row(metric, target, reason=reason) for metric in metrics]
            continue
        found = {row["metric"]: row for row in measure(volume, truth, metrics, labels=[1], part=recipe.part)}
        rows += [_row(m, target, found[label_of(m)]["value"], found[label_of(m)]["reason"]) for m in metrics]
    return rows


def _hidden(begun: _Begun, made: Mapping[Method, Tensor], checks: Sequence[Any], card: Card) -> dict[Method, list[Row]]:
    """The checks' rows of each method; every changed copy of the image runs once for all methods, targets and checks."""
    by_title = {titles(method): method for method in made}
    rows: dict[Method, list[Row]] = {method: [] for method in made}
    device = begun.prediction.x.device
    on_device = {method: relevance.to(device) for method, relevance in made.items()}
    found = checked(begun.prediction, on_device, begun.targets, checks, card.classes, begun.parcellation)
    for row in found:
        rows[by_title[row["method"], row["settings"], row["layer"]]].append(_plain(row))
    return rows


def _plain(row: Mapping[str, Any]) -> Row:
    keys = ("target", "metric", "category", "better", "value", "low", "high", "seconds", "evaluations", "layer", "reason")
    return {key: row[key] for key in keys}


def _row(metric: Any, target: str, value: float = math.nan, reason: str = "") -> Row:
    better = "higher" if metric.higher_is_better else "lower"
    about = {"target": target, "metric": label_of(metric), "category": metric.category, "better": better}
    ends = {"value": value, "low": value, "high": value}
    return about | ends | {"seconds": math.nan, "evaluations": math.nan, "layer": "", "reason": reason}


def reason_of(error: Exception) -> str:
    """An error of ours speaks for itself; another one needs its type to be understood."""
    return str(error) if isinstance(error, BadInput) else f"{type(error).__name__}: {str(error)[:300]}"


def _raise_if_no_room(error: Exception) -> None:
    """Every other cell would fail too."""
    if io.no_room(error):
        raise error
