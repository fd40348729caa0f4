"""Methods examined on one scan: every map made once, then judged as it is, and made again as its metrics ask for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from radiolucent.baselines import BASELINES
from radiolucent.errors import BadInput
from radiolucent.explanation.checking import faithful
from radiolucent.explanation.judged import ASKED, asking, is_check, row
from radiolucent.explanation.kinds import check_kinds
from radiolucent.explanation.prediction import Prediction
from radiolucent.hooks import Cost, costing, evaluating
from radiolucent.methods import ExpectedGradients, IntegratedGradients, KernelSHAP, at_layers, auto_layer
from radiolucent.methods.kernelshap import Over
from radiolucent.methods.smocam import scaled
from radiolucent.metrics.faithfulness import Check
from radiolucent.metrics.finding import Finding
from radiolucent.metrics.remaking import Remade, RemadeMetric, scores_of
from radiolucent.parcellation import Parcellation
from radiolucent.protocols import Method, Target
from radiolucent.targets import own_labels


def examine(
    prediction: Prediction,
    methods: Sequence[Method],
    targets: Target,
    metrics: Sequence[RemadeMetric | Check | str] = tuple(ASKED),
    *,
    classes: Sequence[str] = (),
    others: Sequence[nn.Module] = (),
    parcellation: Parcellation | None = None,
    spread: Sequence[float] = (),
) -> list[dict[str, Any]]:
    """A row for each method, target and metric: those that make maps again method by method, then the checks of all maps.

    Args:
        prediction: what `predict` gave for the scan.
        methods: those to examine; the controls (radiolucent.methods.RandomMap, EdgeMap) are methods, too.
        targets: all are examined together.
        metrics: instances or text, "deletion(over=voxels)"; default: all of FAITHFULNESS and REMAKING.
        classes: names of the classes, for the targets' names.
        others: models that were trained as this one was, from other seeds, for "reproducibility".
        parcellation: for methods and checks over its regions. spread: the card's, for SMOCAM.

    Returns:
        rows with the columns of `check`; evaluations and seconds of a metric that makes maps again are for all targets
        together, without what an earlier one made already. Methods, models and metrics that fail give NaN with the
        reason, not an error.
    """
    check_kinds(methods, targets)
    if isinstance(others, nn.Module):
        raise BadInput("a list of other models", type(others).__name__, "Give [model].")
    chosen = asking(metrics)
    checks = [metric for metric in chosen if is_check(metric)]
    remaking = [metric for metric in chosen if not is_check(metric)]
    fixed = targets.fix(prediction.output)
    names = fixed.names(classes)
    rows: list[dict[str, Any]] = []
    made: dict[Method, Tensor] = {}
    for method in at_layers(methods, prediction.layers, lambda: _auto(prediction, fixed)):
        maps: Remade | Exception
        try:
            maps = remade(prediction, method, targets, others=others, parcellation=parcellation, spread=spread)
        except Exception as error:  # a guest may raise anything
            maps = error
        rows += examined(method, maps, names, remaking, others)
        if isinstance(maps, Remade):
            made[method] = maps.relevance
        else:
            rows += _failed(method, maps, names, checks)
    return rows + (checked(prediction, made, targets, checks, classes, parcellation) if made and checks else [])


def checked(
    prediction: Prediction,
    made: Mapping[Method, Tensor],
    targets: Target,
    checks: Sequence[Check],
    classes: Sequence[str],
    parcellation: Parcellation | None,
) -> list[dict[str, Any]]:
    """`faithful`'s rows. Where all checks together fail, each is asked alone, so that one does not take the others along."""
    try:
        return faithful(prediction, made, targets, checks, classes=classes, parcellation=parcellation)
    except Exception as error:  # a guest may raise anything, also only on a changed image
        names = targets.fix(prediction.output).names(classes)
        if len(checks) == 1:
            return [each for method in made for each in _failed(method, error, names, checks)]
        return [each for c in checks for each in checked(prediction, made, targets, [c], classes, parcellation)]


def examined(
    method: Method,
    maps: Remade | Exception,
    names: Sequence[str],
    metrics: Sequence[RemadeMetric],
    others: Sequence[nn.Module] = (),
) -> list[dict[str, Any]]:
    """`examine`'s rows of one method, whose maps there are, or the error instead of them."""
    if isinstance(maps, Exception):
        return _failed(method, maps, names, metrics)
    rows = []
    for metric in metrics:
        found, cost = _measured(metric, maps, others)
        spent = math.nan if cost.evaluations is None else cost.evaluations, round(cost.seconds, 4)
        rows += [row(method, target, metric, value, *spent) for target, value in zip(names, found, strict=True)]
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


def _auto(prediction: Prediction, fixed: Target) -> str:
    return auto_layer(prediction.model, prediction.x, fixed, prediction.output, prediction.layers)


def _measured(metric: RemadeMetric, maps: Remade, others: Sequence[nn.Module]) -> tuple[Sequence[Finding], Cost]:
    """The metric's values, or NaN with the reason why there are none, and what it cost."""
    with costing([maps.model, *others], maps.x.device) as cost:
        try:
            found: Sequence[Finding] = metric(maps)
        except Exception as error:  # a guest may raise anything, also only on a changed image
            found = [Finding(reason=_words(error))] * len(maps.relevance)
    return found, cost


def _failed(
    method: Method, error: Exception, names: Sequence[str], metrics: Sequence[RemadeMetric | Check]
) -> list[dict[str, Any]]:
    """Rows without a value, of a method or metrics that ended in an error."""
    nothing = Finding(reason=_words(error))
    return [row(method, target, metric, nothing, 0, 0.0) for metric in metrics for target in names]


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, BadInput) else f"{type(error).__name__}: {str(error)[:300]}"
