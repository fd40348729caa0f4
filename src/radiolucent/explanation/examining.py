"""Methods examined on one scan: every map made once, then again as its metrics ask for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from radiolucent.baselines import BASELINES
from radiolucent.errors import BadInput
from radiolucent.explanation.prediction import Prediction
from radiolucent.hooks import Cost, costing, evaluating
from radiolucent.methods import ExpectedGradients, IntegratedGradients, KernelSHAP, at_layers, auto_layer, titles
from radiolucent.methods.kernelshap import Over
from radiolucent.methods.smocam import scaled
from radiolucent.metrics.faithfulness import label_of
from radiolucent.metrics.remaking import REMAKING, Measured, Remade, RemadeMetric, scores_of
from radiolucent.parcellation import Parcellation
from radiolucent.protocols import Method, Target
from radiolucent.targets import own_labels


def examine(
    prediction: Prediction,
    methods: Sequence[Method],
    targets: Target,
    metrics: Sequence[RemadeMetric | str] = tuple(REMAKING),
    *,
    classes: Sequence[str] = (),
    others: Sequence[nn.Module] = (),
    parcellation: Parcellation | None = None,
    spread: Sequence[float] = (),
) -> list[dict[str, Any]]:
    """A row for each method, target and metric.

    Args:
        prediction: what `predict` gave for the scan.
        methods: those to examine; the controls (radiolucent.metrics.RandomMap, EdgeMap) are methods, too.
        targets: all are examined together.
        metrics: instances or names; default: all of REMAKING.
        classes: names of the classes, for the targets' names.
        others: models that were trained as this one was, from other seeds, for "reproducibility".
        parcellation: for methods over its regions. spread: the card's, for SMOCAM.

    Returns:
        rows with method, layer, target, metric, category, value, low and high (the 95 % interval), evaluations and
        seconds (of the metric, for all targets together; what an earlier metric made already is not counted again) and
        reason ("" or why the value is NaN). Models and metrics that fail give NaN with the reason, not an error.
    """
    chosen = [_metric(metric) for metric in metrics]
    fixed = targets.fix(prediction.output)
    names = fixed.names(classes)
    rows: list[dict[str, Any]] = []
    for method in at_layers(methods, prediction.layers, lambda: _auto(prediction, fixed)):
        maps: Remade | Exception
        try:
            maps = remade(prediction, method, targets, others=others, parcellation=parcellation, spread=spread)
        except Exception as error:  # a guest may raise anything
            maps = error
        rows += examined(method, maps, names, chosen, others)
    return rows


def examined(
    method: Method,
    maps: Remade | Exception,
    names: Sequence[str],
    metrics: Sequence[RemadeMetric],
    others: Sequence[nn.Module] = (),
) -> list[dict[str, Any]]:
    """`examine`'s rows of one method, whose maps there are, or the error instead of them."""
    rows = []
    name, _, layer = titles(method)
    for metric in metrics:
        found, cost = _measured(metric, maps, others, len(names))
        spent = {"evaluations": _evaluations(cost), "seconds": round(cost.seconds, 4)}
        for target, value in zip(names, found, strict=True):
            where = {"method": name, "layer": layer, "target": target, "metric": label_of(metric), "category": metric.category}
            ends = {"value": value.value, "low": value.low, "high": value.high}
            rows.append(where | ends | spent | {"reason": value.reason})
    return rows


def remade(
    prediction: Prediction,
    method: Method,
    targets: Target,
    *,
    others: Sequence[nn.Module] = (),
    parcellation: Parcellation | None = None,
    spread: Sequence[float] = (),
) -> Remade:
    """The maps of one method, with what they cost and the ways to make them again."""
    model, x = prediction.model, prediction.x
    fixed = targets.fix(prediction.output)
    method = at_layers([method], prediction.layers, lambda: _auto(prediction, fixed))[0]
    ready = scaled(prediction._over(method, parcellation), fixed, spread)
    again = _Again(model, ready, targets, fixed)
    with costing(model, x.device, memory=True) as cost:
        relevance = again(x)
    return Remade(
        relevance,
        x,
        model,
        again,
        scores_of(model, fixed),
        cost,
        _complete_to(ready),
        (lambda: [again(x, model=other) for other in others]) if others else None,
    )


@dataclass(frozen=True, eq=False)
class _Again:
    """See radiolucent.metrics.remaking.maps.Again."""

    model: nn.Module
    method: Method
    targets: Target
    fixed: Target

    def __call__(self, x: Tensor, *, model: nn.Module | None = None, run: int = 0, moved: bool = False) -> Tensor:
        guest, targets = self.model if model is None else model, self.fixed
        if moved and own_labels(targets):  # a predicted mask moves with the image; a class stays what it is
            with evaluating(guest), torch.no_grad():
                targets = self.targets.fix(guest(x.clone()))
        return reseeded(self.method, run)(guest, x, targets)


def reseeded(method: Any, run: int) -> Any:
    """The method with each seed inside it raised by `run`."""
    changed: dict[str, Any] = {}
    for name in getattr(method, "__dataclass_fields__", {}) if run else ():
        value = getattr(method, name)
        if name == "seed":
            changed[name] = value + run
        elif hasattr(value, "__dataclass_fields__"):
            changed[name] = reseeded(value, run)
    return replace(method, **changed) if changed else method


def _complete_to(method: Method) -> str:
    """The baseline from which the method shares out the score, where it promises to."""
    if isinstance(method, Over):
        return method.method.baseline
    if isinstance(method, (IntegratedGradients, KernelSHAP)):
        return method.baseline
    return method.references if isinstance(method, ExpectedGradients) and method.references in BASELINES else ""


def _metric(metric: RemadeMetric | str) -> RemadeMetric:
    if isinstance(metric, str) and metric in REMAKING:
        return REMAKING[metric]()
    if isinstance(metric, (str, type)) or not callable(metric):
        raise BadInput(f"metrics among {', '.join(REMAKING)}, or instances of them", repr(metric), "Correct it.")
    return metric


def _auto(prediction: Prediction, fixed: Target) -> str:
    return auto_layer(prediction.model, prediction.x, fixed, prediction.output, prediction.layers)


def _measured(
    metric: RemadeMetric, maps: Remade | Exception, others: Sequence[nn.Module], count: int
) -> tuple[Sequence[Measured], Cost]:
    """The metric's values, or NaN with the reason why there are none, and what it cost."""
    if isinstance(maps, Exception):
        return [Measured(reason=_words(maps))] * count, Cost(0.0, 0, 0)
    with costing([maps.model, *others], maps.x.device) as cost:
        try:
            found: Sequence[Measured] = metric(maps)
        except Exception as error:  # a guest may raise anything, also only on a changed image
            found = [Measured(reason=_words(error))] * count
    return found, cost


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, BadInput) else f"{type(error).__name__}: {str(error)[:300]}"


def _evaluations(cost: Cost) -> float:
    return math.nan if cost.forwards is None else cost.forwards + (cost.backwards or 0)
