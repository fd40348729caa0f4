"""Stability: is it the same map when a little noise is added, and the method draws other random numbers? And agreement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from radiolucent.explanation.examining import reseeded
from radiolucent.geometry import Array
from radiolucent.metrics.remaking.maps import average
from radiolucent.protocols import Method
from radiolucent.trust.card import Verdict, interval, not_tested, number
from radiolucent.trust.scene import spearman
from radiolucent.trust.standards import Standards

UNASKED = (
    "what the check may cost was spent before, on drawing random weights again for maps that seem to stay the same (see sanity), "
    "or by a method that took longer than at first. --check full asks all."
)
"""Why there is no noisy image of a map."""


def change(first: Array, other: Array) -> float:
    """|R(x + e) - R(x)| / |R(x)|, Frobenius norms on the scan's grid."""
    first = first.astype(np.float64)
    return float(np.linalg.norm(other - first) / np.linalg.norm(first))


def stability(noisy: Sequence[float | str], method: Method, standards: Standards) -> Verdict:
    """The verdict on one map, from its change for each noisy image (and another seed), or reasons why there is none."""
    values = [each for each in noisy if not isinstance(each, str)]
    if len(values) < len(noisy) or not values:
        return not_tested("stability", next((each for each in noisy if isinstance(each, str)), UNASKED))
    found = average(torch.tensor(values, dtype=torch.float64))
    numbers = (number("relative change under noise", found),)
    seeds = " and other random numbers of the method" if reseeded(method, 1) != method else ""
    how = f"by {found.value:.2f} of its size{interval(found)} under noise of {standards.noise:.0%} of the image's range{seeds}"
    if found.value >= standards.change:
        return Verdict("stability", "fails", f"The map changes {how}: two unrelated maps differ by 1.41.", numbers)
    return Verdict("stability", "passes", f"The map changes {how}.", numbers)


def agreement(ranks: Array, others: Mapping[str, Array]) -> Verdict:
    """How like the other methods' maps of this target are, from the ranks of |R| (see `Scene.sizes`); it never fails."""
    if not others:
        return not_tested("agreement", "there is no other method to compare with.")
    found = {name: spearman(ranks, other) for name, other in others.items()}
    numbers = tuple(number(f"rank correlation of |R| with {name}", value) for name, value in found.items())
    listed = ", ".join(f"{value:.2f} with {name}" for name, value in sorted(found.items(), key=lambda pair: -pair[1])[:5])
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return Verdict("agreement", "told", f"Rank correlation of the maps' sizes: {listed}{more}.", numbers)
