"""Does attention tell the truth? What slices do to the score, beside the weight that they have.

All of it is about one volume x (1, c, i, j, k) and a model that pools slices (SliceModel). A slice is left out where
the pooling does not see it. With gated attention its weight then goes to the others, in proportion to theirs; with
attention pooling the query, the mean of the slices, is that of the others too, so that all weights are made anew.
Weights are (slices,), the heads' mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from radiolucent import baselines
from radiolucent.errors import BadInput
from radiolucent.geometry import Array
from radiolucent.hooks import evaluating
from radiolucent.protocols import Sliced, Target
from radiolucent.slicing.places import AXES
from radiolucent.statistics import overlap, spearman

NOT = "no"
"""In the place of a baseline: slices are not covered, which costs most of all that is asked here."""

POINTS = 20
"""Of a curve at most."""

ROWS = 64
"""Sets of slices that are pooled at once."""


def left_out(model: nn.Module, features: Tensor, targets: Target) -> Tensor:
    """S - S without the slice, for each target and slice: (t, slices). `features` (1, slices, width) are the model's."""
    n = features.shape[1]
    return _scores(model, features, targets, torch.ones(1, n)) - _scores(model, features, targets, 1 - torch.eye(n))


def deletion(model: nn.Module, features: Tensor, targets: Target, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Scores as slices are left out, those of the highest weight first: numbers of slices (points,), scores (t, points)."""
    kept = _ordered(weights)
    return kept.logical_not().sum(1), _scores(model, features, targets, kept)


def insertion(model: nn.Module, features: Tensor, targets: Target, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Scores of the slices of the highest weight alone, from one of them to all: numbers of slices, scores (t, points)."""
    kept = _ordered(-weights).flip(0)
    return kept.sum(1), _scores(model, features, targets, kept)


def covered(model: nn.Module, x: Tensor, targets: Target, baseline: str = "minimum") -> Tensor:
    """S - S(x with the slice covered), for each target and slice (t, slices): occlusion, which the slices of all axes see.

    Of each slice's pass only the slices that it changes are encoded: one of its own axis, and those of the other axes. For
    three axes of equal length it is 2/3 of a pass each, with one axis one pass for all. `baseline` as in Occlusion.
    """
    part = _sliced(model)
    cover, drops = baselines.baseline(baseline, x), []
    with evaluating(model), torch.no_grad():
        before = part.features(x)
        S = targets(part.from_features(before))
        for axis in part.axes:
            for s in range(x.shape[AXES.index(axis) + 2]):
                where = (slice(None),) * (AXES.index(axis) + 2) + (s,)
                changed = x.clone()
                changed[where] = cover[where]
                differs = (changed != x)[0].any(0)
                seen = torch.cat([differs.movedim(AXES.index(a), 0).flatten(1).any(1) for a in part.axes])[None]
                after = torch.where(seen[..., None], part.features(changed, seen), before) if seen.any() else before
                drops.append(S - targets(part.from_features(after)))
    return torch.cat(drops, 1)


def agreement(weights: Tensor, drops: Tensor) -> float:
    """Spearman's correlation of the weights with |drop of the score| (slices,); NaN where one of the two is constant."""
    return spearman(_array(weights), _array(drops.abs()))


def empty(x: Tensor, weights: Tensor, axes: Sequence[str], tolerance: float = 0.0) -> tuple[float, float]:
    """(share of the weight, share of the slices) that is on slices in which no channel varies by more than `tolerance`."""
    flat = []
    for axis in axes:
        slices = x[0].movedim(AXES.index(axis) + 1, 0).flatten(2)
        flat.append(((slices.amax(2) - slices.amin(2)) <= tolerance).all(1))
    found = torch.cat(flat)
    return float(weights[found].sum() / weights.sum()), float(found.double().mean())


def alike(a: Tensor, b: Tensor) -> dict[str, float]:
    """How alike two models' weights (slices,) of the same slices are.

    spearman: of the weights. overlap: sum of the smaller of the two weights, 1 for equal ones. same_top: 1 where the
    highest weight is on the same slice, else 0.
    """
    one, other = _array(a), _array(b)
    return {
        "spearman": spearman(one, other),
        "overlap": overlap(one, other),
        "same_top": float(one.argmax() == other.argmax()),
    }


def repeatability(weights: Sequence[Tensor]) -> dict[str, float]:
    """How alike the weights (slices,) of models from several seeds are: means of `alike` over all pairs."""
    if len(weights) < 2 or len({len(w) for w in weights}) > 1:
        got = f"{len(weights)} of lengths {sorted({len(w) for w in weights})}"
        raise BadInput("weights of two models or more, for the same slices", got, "One vector for each seed.")
    pairs = [alike(a, b) for a, b in combinations(weights, 2)]
    return {name: float(np.mean([pair[name] for pair in pairs])) for name in pairs[0]}


def truth(
    model: nn.Module, x: Tensor, features: Tensor, targets: Target, weights: Tensor, *, cover: str = NOT, orders: int = 10
) -> list[dict[str, Any]]:
    """For each target the numbers that belong beside a picture of the weights.

    deletion, insertion: the mean score along the curve, and that of `orders` random orders ("_at_random"), in units of
        the score; where weights tell the truth, deletion is far below and insertion far above the random one, for a
        score that the slices speak for.
    agreement: `agreement` of weights and `left_out`.
    occlusion: `agreement` of weights and `covered`, with `cover` as the baseline; not there for "no".
    empty_weight, empty_slices: `empty`.
    slices_in_effect: 1 / sum of squared weights: as many slices of equal weight would be as spread out.
    drops: what `left_out` and `covered` gave, a number for each slice.
    """
    generator = torch.Generator().manual_seed(0)
    random = [torch.rand(len(weights), generator=generator).to(weights) for _ in range(orders)]
    curves = {}
    for name, curve in (("deletion", deletion), ("insertion", insertion)):
        curves[name] = curve(model, features, targets, weights)[1].mean(1)
        curves[f"{name}_at_random"] = torch.stack([curve(model, features, targets, r)[1].mean(1) for r in random]).mean(0)
    drops = {"left_out": left_out(model, features, targets)}
    if cover != NOT:
        drops["covered"] = covered(model, x, targets, cover)
    on_empty, of_slices = empty(x, weights, _sliced(model).axes)
    same = {
        "empty_weight": on_empty,
        "empty_slices": of_slices,
        "slices_in_effect": float(1 / (weights / weights.sum()).square().sum()),
    }
    rows = []
    for t in range(len(drops["left_out"])):
        known = zip(("agreement", "occlusion"), drops.values(), strict=False)
        borne_out = {name: agreement(weights, values[t]) for name, values in known}
        own = {"drops": {name: values[t].tolist() for name, values in drops.items()}}
        rows.append({name: float(values[t]) for name, values in curves.items()} | borne_out | same | own)
    return rows


def _ordered(weights: Tensor) -> Tensor:
    """(points, slices) of bool: which are left when none, some, ... and all but one of the highest weights have gone."""
    n = len(weights)
    gone = torch.linspace(0, n - 1, min(n, POINTS), device=weights.device).round()
    rank = weights.argsort(descending=True, stable=True).argsort()
    return rank[None] >= gone[:, None]


def _scores(model: nn.Module, features: Tensor, targets: Target, kept: Tensor) -> Tensor:
    """Scores (t, sets) of the sets of slices (sets, slices) alone."""
    part = _sliced(model)
    rows = []
    with evaluating(model), torch.no_grad():
        for masks in kept.to(features.device).bool().split(ROWS):
            output = part.from_features(features.expand(len(masks), -1, -1), masks)
            rows += [targets(output[i : i + 1]) for i in range(len(masks))]
    return torch.cat(rows, 1)


def _array(values: Tensor) -> Array:
    return values.detach().double().cpu().numpy()


def _sliced(model: nn.Module) -> Sliced:
    if not isinstance(model, Sliced):
        do = "Give the SliceModel itself, without what is around it."
        raise BadInput("a model that pools slices (radiolucent.models.SliceModel)", type(model).__name__, do)
    return model
