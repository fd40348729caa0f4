"""Maps of several methods on the model's own grid: what can share a pass does, and one that fails takes no other along."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from radiolucent import provenance
from radiolucent.errors import BadInput, InputWarning
from radiolucent.hooks import costing
from radiolucent.methods import shared_pass
from radiolucent.methods.masking import MaskMethod, Told, masks
from radiolucent.protocols import Detailed, FirstOrder, Method, Target
from radiolucent.targets import Deciding


def sharing(methods: Mapping[int, Method]) -> list[list[int]]:
    """The numbers of the methods, in groups whose maps are made in one go."""
    kinds = {i: next((kind for kind in (FirstOrder, MaskMethod) if isinstance(m, kind)), None) for i, m in methods.items()}
    groups = [[i for i, own in kinds.items() if own is kind] for kind in (FirstOrder, MaskMethod)]
    return [group for group in groups if group] + [[i] for i, own in kinds.items() if own is None]


def made_together(
    model: nn.Module, x: Tensor, methods: Mapping[int, Method], targets: Target, plain: Tensor, catch: bool
) -> Iterator[tuple[int, Tensor | BadInput, dict[str, Any]]]:
    """Each method's number, its map (or the reason why there is none) and its cost; `plain` are the targets' scores."""
    groups = sharing(methods)
    for group in groups:
        maps, cost = _run(model, x, [methods[i] for i in group], targets, plain, catch)
        if len(group) > 1 and all(isinstance(m, BadInput) for m in maps):  # one may take the others along
            groups.extend([i] for i in group)
            continue
        for i, made in zip(group, maps, strict=True):
            if isinstance(made, BadInput):
                yield i, made, cost
            else:
                yield i, made[0], cost | ({"details": made[1]} if made[1] else {})


def _run(
    model: nn.Module, x: Tensor, group: list[Method], targets: Target, plain: Tensor, catch: bool
) -> tuple[list[Told | BadInput], dict[str, Any]]:
    """A group's maps with details, or the reasons why there is none, and what they cost together."""
    made: list[Told | BadInput]
    with costing(model, x.device) as cost:
        try:
            made = _maps(model, x, group, targets, plain)
        except Exception as error:  # also what a guest or the memory may raise
            if not catch:
                raise
            reason = f"{type(error).__name__}: {error}"
            made = [error if isinstance(error, BadInput) else BadInput(f"a map from {m}", reason, "Mend the model.") for m in group]
    spent = {"seconds": round(cost.seconds, 4), "forwards": cost.forwards, "backwards": cost.backwards}
    return made, spent | {"shared_by_methods": len(group), "peak_memory_mib": provenance.peak_memory(x)}


def _maps(model: nn.Module, x: Tensor, group: list[Method], targets: Target, plain: Tensor) -> list[Told | BadInput]:
    if isinstance(group[0], FirstOrder):
        met = Deciding.decided(targets)
        maps = shared_pass(model, x, met, [m for m in group if isinstance(m, FirstOrder)])
        _compare(met.scores, plain)
        return [m if isinstance(m, BadInput) else (m, ()) for m in maps]
    if isinstance(group[0], MaskMethod):
        return list(masks(model, x, targets, [m for m in group if isinstance(m, MaskMethod)]))
    one = (model, x, targets)
    return [group[0].detailed(*one) if isinstance(group[0], Detailed) else (group[0](*one), ())]


def _compare(scores: Tensor | None, plain: Tensor) -> None:
    """Warn where the pass that made the maps did not say what the plain one said."""
    if scores is not None and (scores - plain).abs().max() > 1e-2 * plain.abs().max():
        said = f"scores {plain[:, 0].tolist()}, and {scores[:, 0].tolist()} when the maps were made"
        warnings.warn(f"the model does not repeat itself: {said}", InputWarning, stacklevel=8)
