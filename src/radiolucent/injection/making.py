"""The maps of one batch, and what could not be made and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from radiolucent.errors import BadInput, Nothing
from radiolucent.hooks import look
from radiolucent.injection.choice import Each
from radiolucent.injection.maps import Key, Maps
from radiolucent.methods import shared_pass, unique_titles
from radiolucent.methods.gradient import plain
from radiolucent.protocols import FirstOrder, Method, Target
from radiolucent.targets import Deciding, Predicted, own_labels


def make_maps(model: nn.Module, x: Tensor, choose: Callable[[Any], Target], methods: Sequence[Method]) -> Maps:
    """All maps of x (b, c, *grid), in eval mode; the first-order methods share one forward pass.

    Raises Nothing if there is no map at all; other errors only for what no image can mend.
    """
    x = plain(x)
    decide = Deciding(lambda output: choose(output).fix(output))
    names = unique_titles(methods)
    first = [m for m in methods if isinstance(m, FirstOrder)]
    if not first:
        decide(look(model, x)[0])
    made: dict[str, Tensor | BadInput] = {}
    shared = iter(shared_pass(model, x, decide, first))
    for name, method in zip(names, methods, strict=True):
        made[name] = next(shared) if isinstance(method, FirstOrder) else _alone(method, model, x, decide)
    failed = [m for m in made.values() if isinstance(m, BadInput)]
    if len(failed) == len(made):
        raise failed[0]
    assert decide.scores is not None
    scores, target = decide.scores, decide.target
    failures: dict[Key, str] = {(name, None, None): str(m) for name, m in made.items() if isinstance(m, BadInput)}
    relevance = {name: maps for name, maps in made.items() if isinstance(maps, Tensor)}
    if isinstance(target, Each):
        _leave_out(target, relevance, scores, failures)
    for name, maps in relevance.items():
        flat = maps.flatten(2)
        for t, i in ((~flat.isfinite().all(2)) | ~flat.any(2)).nonzero().tolist():
            if ("", t, i) not in failures:
                failures[name, t, i] = "zero everywhere" if flat[t, i].isfinite().all() else "NaN or infinite in places"
    empty = sum(len(x) * len(scores) if t is None else len(relevance) if not name else 1 for name, t, _ in failures)
    if empty >= len(made) * len(scores) * len(x):
        raise Nothing("at least one map", "; ".join(dict.fromkeys(failures.values())), "Choose another method, layer or target.")
    each = target.classes if isinstance(target, Predicted) else ()
    items = tuple(tuple(f"logit {k}" for k in each) or (name,) * len(x) for name in target.names())
    labels = target.labels if isinstance(target, Each) else own_labels(target)
    by_name = dict(zip(names, methods, strict=True))
    return Maps(relevance, by_name, target.names(), items, scores, tuple(x.shape[2:]), failures, labels)


def _alone(method: Method, model: nn.Module, x: Tensor, targets: Target) -> Tensor | BadInput:
    try:
        return method(model, x, targets)
    except BadInput as error:  # one method must not take the others along
        return error


def _leave_out(target: Each, relevance: dict[str, Tensor], scores: Tensor, failures: dict[Key, str]) -> None:
    """NaN where an item has no such target."""
    for t, row in enumerate(target.fixed):
        for i, reason in enumerate(row):
            if isinstance(reason, Nothing):
                failures["", t, i] = str(reason)
                scores[t, i] = torch.nan
                for maps in relevance.values():
                    maps[t, i] = torch.nan
