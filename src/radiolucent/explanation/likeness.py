"""How alike several models' explanations of one scan are: those of other seeds, or of other networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch

from radiolucent.errors import BadInput
from radiolucent.explanation.result import Explanation
from radiolucent.methods import SliceAttention, title, titles
from radiolucent.slicing import alike
from radiolucent.statistics import overlap, spearman

_NONE: dict[str, Any] = {f"slices_{name}": float("nan") for name in ("spearman", "overlap", "same_top")} | {
    "top_slice": "",
    "beside_top_slice": "",
    "beside_weight_there": float("nan"),
}


def likeness(models: Mapping[str, Sequence[Explanation]]) -> list[dict[str, Any]]:
    """One row for each pair of models, method and target: what their maps of one scan have in common.

    spearman: rank correlation of R (channels added up) over the voxels where one of the two maps is not 0.
    overlap: share of |R| that is in the same voxels with the same sign, 1 for equal maps up to scale.
    slices_...: the same of the slices' weights, where both weigh the same slices; `same_top` is 1 where both have the
        highest on one slice, `beside_weight_there` the weight that the second model gives to the first one's top slice.

    Maps of one method are compared; where the second model has none of it, each of its maps.
    """
    rows = []
    for (model, first), (beside, second) in combinations(models.items(), 2):
        for one in first:
            for other in partners(one, second):
                own = {"model": model, "method": title(one.method), "beside": beside, "beside_method": title(other.method)}
                both = [target for target in one.targets if target in other.targets]
                rows += [{"target": target} | own | _maps(one, other, target) | _weights(one, other, target) for target in both]
    return rows


def partners(one: Explanation, others: Sequence[Explanation]) -> list[Explanation]:
    """Those of the same method and layer; else of the same method; else all."""
    for same in (title, lambda m: titles(m)[0], lambda m: ""):
        if found := [other for other in others if same(other.method) == same(one.method)]:
            return found
    return []


def _maps(one: Explanation, other: Explanation, target: str) -> dict[str, float]:
    first, second = (e.relevance[e.targets.index(target)] for e in (one, other))
    if first.grid != second.grid:
        raise BadInput(f"explanations of one scan, on {first.grid}", f"{second.grid}", "Explain the same file.")
    a, b = first.data.sum(0), second.data.sum(0)
    there = (a != 0) | (b != 0)
    return {"spearman": spearman(a[there], b[there]), "overlap": overlap(a, b)}


def slices_of(explanation: Explanation, target: str) -> Mapping[str, Mapping[str, Any]]:
    """A target's slices with their weights, by axis, of slice-attention; of other methods none."""
    if not isinstance(explanation.method, SliceAttention):
        return {}
    details = explanation.provenance.get("details") or [{}] * len(explanation.targets)
    slices: Mapping[str, Mapping[str, Any]] = details[explanation.targets.index(target)].get("slices", {})
    return slices


def _weights(one: Explanation, other: Explanation, target: str) -> dict[str, Any]:
    first, second = slices_of(one, target), slices_of(other, target)
    if not first or list(first) != list(second) or not all(_same_places(first[axis], second[axis]) for axis in first):
        return _NONE
    names = [f"{axis} {s}" for axis, own in first.items() for s in range(len(own["weight"]))]
    a, b = (torch.tensor([w for own in slices.values() for w in own["weight"]], dtype=torch.float64) for slices in (first, second))
    tops = {"top_slice": names[int(a.argmax())], "beside_top_slice": names[int(b.argmax())]}
    return {f"slices_{name}": value for name, value in alike(a, b).items()} | tops | {"beside_weight_there": float(b[a.argmax()])}


def _same_places(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    here, there = (np.array(own["centre_mm"]) for own in (a, b))
    return here.shape == there.shape and np.allclose(here, there, atol=1e-3)
