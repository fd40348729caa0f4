"""Sanity: is the map another one when the weights are random, and has the network learnt anything that shows here?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor, nn

from radiolucent.hooks import evaluating, randomised, weighted
from radiolucent.metrics.faithfulness import Asked
from radiolucent.metrics.faithfulness.changed import Changed, Drawn, Gone, Unchanged
from radiolucent.metrics.finding import Finding, Undefined
from radiolucent.metrics.remaking.maps import average
from radiolucent.protocols import Target
from radiolucent.trust.card import Verdict, chance, interval, not_tested, number
from radiolucent.trust.standards import Standards


@dataclass(frozen=True)
class Learnt:
    """Whether the network's answers on this image are others than those of shuffled networks: p, or why it is not known."""

    p: float = math.nan
    reason: str = ""


def top_layers(model: nn.Module, x: Tensor, share: float) -> list[str]:
    """The names of that share of the layers with weights, at least one, that ran last."""
    names = weighted(model, x)
    if not names:
        raise Undefined("the model has no weights to make random")
    return names[-math.ceil(share * len(names)) :]


def copies(standards: Standards, count: int) -> list[Changed]:
    """What learnt networks are asked about: the image, nothing, and the image with half of its cubes hidden, twice."""
    drawn = [Drawn("cubes", standards.cubes, standards.baseline, max(1, count // 2), 0, n) for n in range(2)]
    return [Unchanged(), Gone(standards.baseline), *drawn]


def learnt(model: nn.Module, x: Tensor, fixed: Target, changed: Sequence[Changed], own: Tensor, standards: Standards) -> Learnt:
    """Is the spread of the scores over changed images larger than that of networks with shuffled weights?

        T = mean_t log sd_j S_t(x_j),   t-test of the network's own T as one more draw beside those of K shuffled ones

    The weights of a network that has learnt nothing are as likely in any other order, so that its own T is such a draw.
    `own` are its scores (copies, t).
    """
    spreads = []
    for seed in range(standards.models):
        other = randomised(model, None, seed, shuffled=True)
        with evaluating(other), torch.no_grad():
            asked = Asked(other, x, fixed)
            asked.ask(changed)
        spreads.append(_spread(torch.stack([asked.said[c] for c in changed])))
    mine, theirs = _spread(own), np.array(spreads)
    if not np.isfinite([mine, *theirs]).all():
        return Learnt(reason="some scores are the same whatever the image")
    if np.ptp([mine, *theirs]) < 1e-6:
        return Learnt(reason="shuffling the weights changes nothing")
    k = len(theirs)
    t = (mine - theirs.mean()) / (theirs.std(ddof=1) * math.sqrt(1 + 1 / k))
    return Learnt(float(student.sf(t, k - 1)))


def _spread(scores: Tensor) -> float:
    with np.errstate(divide="ignore"):
        return float(np.log(scores.double().numpy().std(0, ddof=1)).mean())


def sanity(randoms: Sequence[float | str], known: Learnt, standards: Standards) -> Verdict:
    """The verdict on one map, from its similarities to maps by models with random weights, or reasons why there are none."""
    values = [each for each in randoms if not isinstance(each, str)]
    numbers = [number("the network against shuffled ones", Finding(reason=known.reason), known.p)]
    if known.p >= standards.alpha:
        said = (
            f"What the network says of this image is no different from what it says with its weights shuffled ({chance(known.p)}): "
            "it has learnt nothing that a map of it could show."
        )
        return Verdict("sanity", "fails", said, tuple(numbers))
    if not values:
        return not_tested("sanity", next((each for each in randoms if isinstance(each, str)), "no random weights"), numbers)
    found = average(torch.tensor(values, dtype=torch.float64))
    found = replace(found, low=max(found.low, 0.0), high=min(found.high, 1.0))
    numbers.insert(0, number("similarity to the map with random weights", found))
    draws = "one draw" if len(values) == 1 else f"{len(values)} draws"
    value = f"rank correlation {found.value:.2f}{interval(found)} in {draws}"
    part = f"the last layers ({standards.top:.0%} of them)" if standards.top < 1 else "all layers"
    if found.value >= standards.similar:
        said = f"The map stays the same when {part} get random weights: {value}. It does not show what they have learnt."
        return Verdict("sanity", "fails", said, tuple(numbers))
    shows = f" The network differs from ones with shuffled weights ({chance(known.p)})." if known.p == known.p else ""
    open_ = f" Whether the network has learnt anything was not tested: {known.reason}." if known.reason else ""
    return Verdict("sanity", "passes", f"The map changes when {part} get random weights: {value}.{shows}{open_}", tuple(numbers))
