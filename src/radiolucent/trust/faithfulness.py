"""Faithfulness: does hiding what the map marks cost more than hiding what it would mark elsewhere, or what edges mark?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from radiolucent.geometry import Array
from radiolucent.metrics.faithfulness.findings import correlation, drops, fisher
from radiolucent.metrics.faithfulness.units import Units
from radiolucent.metrics.finding import Finding, Undefined
from radiolucent.trust.card import Verdict, chance, interval, not_tested, number, two
from radiolucent.trust.standards import Standards

RESAMPLES = 4000
"""Of the bootstrap over subsets; the smallest p is one over it."""


@dataclass(frozen=True, eq=False)
class Hidden:
    """What was hidden, which subset of the cubes (n, units) as 0 and 1, and the scores (1 + n, t): of the image first."""

    units: Units
    lattice: tuple[int, ...]
    members: Array
    scores: Tensor
    edges: Array

    @cached_property
    def spectra(self) -> NDArray[Any]:
        """Of each subset on the lattice, for all maps: what `_elsewhere` multiplies with."""
        return np.fft.rfftn(self.members.reshape(-1, *self.lattice), axes=self.axes)

    @property
    def axes(self) -> tuple[int, ...]:
        """Of the lattice, behind that of the subsets."""
        return tuple(range(1, 1 + len(self.lattice)))

    def lost(self, target: int) -> Array:
        """By how much the target's score dropped, (n,); Undefined where nothing moves."""
        return drops(self.scores[:, target]).numpy()


@dataclass(frozen=True)
class Compared:
    """A map's correlation of hidden relevance with lost score, its mean elsewhere, that of edges, and what chance gives."""

    found: Finding
    elsewhere: float
    p_elsewhere: float
    edges: float
    p_edges: float
    n: int


def compared(relevance: Tensor, hidden: Hidden, target: int) -> Compared:
    """One map (c, *grid) on the model's grid.

        F = corr_s ( sum_{p in s} R[p],  S(x) - S(x with s hidden) )

    against the same of (1) the map in every other place: shifted by whole cubes, around the edges, and mirrored, which
    leaves its smoothness and sparseness as they are: p = (1 + #{F_elsewhere >= F}) / (1 + #elsewhere); (2) an edge
    detector, by drawing the subsets again with replacement: p = share of draws in which F <= F_edges.
    None of it asks the model anything.
    """
    if not relevance.isfinite().all():
        raise Undefined("the map is NaN or infinite in places")
    lost = hidden.lost(target)
    sums = hidden.units.sums(relevance).numpy().astype(np.float64)
    own = hidden.members @ sums
    F = correlation(torch.from_numpy(own), torch.from_numpy(lost))
    others = _correlations(_elsewhere(sums, hidden), lost)
    edges = hidden.members @ hidden.edges
    n = len(lost)
    better = _weighted(own, lost, _resampled(n)) - _weighted(edges, lost, _resampled(n))
    beaten = float((1 + (better <= 1e-12).sum()) / (1 + RESAMPLES))
    chances = float((1 + (others >= F - 1e-12).sum()) / (1 + len(others)))
    return Compared(Finding(F, *fisher(F, n)), float(others.mean()), chances, _correlations(edges[None], lost)[0], beaten, n)


def holm(p: Sequence[float]) -> list[float]:
    """p corrected for the number of tests (Holm, 1979); NaN is none of them."""
    known = sorted((value, i) for i, value in enumerate(p) if value == value)
    out, reached = list(p), 0.0
    for rank, (value, i) in enumerate(known):
        reached = max(reached, min(1.0, value * (len(known) - rank)))
        out[i] = reached
    return out


def faithfulness(found: Compared | str, p_elsewhere: float, p_edges: float, standards: Standards) -> Verdict:
    """The verdict, with p corrected over the targets; or the reason why there is none."""
    if isinstance(found, str):
        return not_tested("faithfulness", found)
    numbers = (
        number("correlation of hidden relevance with lost score", found.found, p_elsewhere),
        number("the same map elsewhere, mean", found.elsewhere),
        number("an edge map", found.edges, p_edges),
    )
    value = f"correlation {two(found.found.value)}{interval(found.found)} over {found.n} hidden subsets"
    elsewhere = f"elsewhere {two(found.elsewhere)}, {chance(p_elsewhere)}"
    edges = f"{two(found.edges)}, {chance(p_edges)}"
    if p_elsewhere >= standards.alpha:
        said = f"Hiding what the map marks was not shown to cost more than hiding any other place: {value}; {elsewhere}."
        return Verdict("faithfulness", "fails", said, numbers)
    if p_edges >= standards.alpha:
        said = f"The map foretells what hiding costs ({value}; {elsewhere}), but not shown better than an edge map does ({edges})."
        return Verdict("faithfulness", "fails", said, numbers)
    said = f"Hiding what the map marks costs more than hiding other places ({value}; {elsewhere}) or edges ({edges})."
    return Verdict("faithfulness", "passes", said, numbers)


def _elsewhere(sums: Array, hidden: Hidden) -> Array:
    """What each subset hides of the lattice of sums in all other places it can have, (places, subsets).

    Shifted by k around the edges and mirrored, as circular correlations with the subsets m_s:

        H_s(k) = sum_u m_s[u] R[u - k] = F^-1 ( F(m_s) conj F(R) )
    """
    lattice, axes = hidden.lattice, range(len(hidden.lattice))
    sums = (sums - sums.mean()).reshape(lattice)  # subsets of one size hide the same of a constant
    places = []
    for bits in range(2 ** len(lattice)):
        mirror = np.flip(sums, tuple(a for a in axes if bits >> a & 1))
        places.append(np.fft.irfftn(hidden.spectra * np.fft.rfftn(mirror).conj(), lattice, hidden.axes))
    return np.stack(places, 1).reshape(len(hidden.members), -1).T[1:]  # the first is the map itself


@lru_cache(maxsize=1)  # all maps of a case have the same subsets
def _resampled(n: int) -> Array:
    """How often each of n is drawn, (RESAMPLES, n)."""
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), RESAMPLES).astype(np.float64)


def _correlations(rows: Array, lost: Array) -> Array:
    """Pearson's of each row (k, n) with lost (n,); 0 of a row that does not vary."""
    rows, lost = rows - rows.mean(1, keepdims=True), lost - lost.mean()
    size = np.linalg.norm(rows, axis=1) * np.linalg.norm(lost)
    return np.divide(rows @ lost, size, out=np.zeros(len(rows)), where=size > 1e-12 * np.abs(rows).max(initial=0))


def _weighted(a: Array, b: Array, weights: Array) -> Array:
    """Pearson's of a and b (n,) for each row of weights (k, n)."""
    weights = weights / weights.sum(1, keepdims=True)
    a, b = (a - a.mean()) / max(a.std(), 1e-300), (b - b.mean()) / max(b.std(), 1e-300)
    means = weights @ a, weights @ b
    covariance = weights @ (a * b) - means[0] * means[1]
    variances = (weights @ a**2 - means[0] ** 2) * (weights @ b**2 - means[1] ** 2)
    return np.divide(covariance, np.sqrt(np.maximum(variances, 0)), out=np.zeros(len(weights)), where=variances > 1e-12)


def together(standards: Standards, grid: Sequence[int]) -> tuple[int, ...]:
    """How many cubes there are along each axis."""
    return tuple(min(n, standards.cubes) for n in grid)


def chosen(count: int, drawn: Sequence[Tensor]) -> Array:
    """Subsets as rows of 0 and 1, (n, units)."""
    rows = torch.zeros(len(drawn), count, dtype=torch.float64)
    for row, members in zip(rows, drawn, strict=True):
        row[members.long()] = 1
    return rows.numpy()
