"""Shapley values from pairs of coalitions: which pairs to ask for, and the weighted least squares that reads the answers.

With players 1..d, a coalition z in {0, 1}^d and its complement 1 - z are asked together (Covert & Lee, AISTATS 2021,
section 4.2). Only their difference tells something: with s = 2z - 1 and y = v(z) - v(1 - z), KernelSHAP (Lundberg &
Lee, NeurIPS 2017, eq. 8) is the fit of y by sum_r s_r phi_r over the Shapley kernel, with sum_r phi_r = v(1) - v(0).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from math import comb

import torch
from torch import Tensor

from radiolucent.errors import BadInput

GOLDEN = 0.6180339887498949
RIDGES = (1e-8, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
"""Shares of the kernel's own curvature; the first is none, but for players that the pairs cannot tell apart."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Signs s (n, d) of the coalitions to ask, one of each pair, in the order in which to ask.

    The first `listed` of them are all the pairs of their sizes, with the kernel's `weight` for each; the others
    are drawn from it, and stand for the rest of the weight together.
    """

    signs: Tensor
    weight: Tensor
    listed: int

    @property
    def all(self) -> bool:
        """Is this every pair that there is?"""
        return self.listed == len(self.signs)


def pairs(d: int, most: int, seed: int) -> Pairs:
    """At most `most` evaluations, those of v(0) and v(1) included: all 2^d coalitions, where they are no more.

    A size whose pairs are no more than its share of the budget is listed whole, as it is without chance then (in
    the order 1, 2, ...; small and large coalitions weigh most). Sizes of the drawn ones follow the golden ratio,
    so that at any length they are nearly as frequent as the kernel wants, and none is drawn twice if avoidable.
    """
    sizes = range(1, d // 2 + 1)
    kernel = [(1 if 2 * k == d else 2) / (k * (d - k)) for k in sizes]  # times comb(d, k) coalitions, as often each
    kernel = [share / sum(kernel) for share in kernel]
    there = [comb(d, k) // (2 if 2 * k == d else 1) for k in sizes]
    budget = (most - 2) // 2
    everything = 2**d <= most
    if not everything and budget < 2:
        raise BadInput("at least 6 samples, or 2 to the power of the regions", str(most), "100 or more are usual.")
    rows: list[list[int]] = []
    weight: list[float] = []
    first = 0
    for k, share, count in zip(sizes, kernel, there, strict=True):
        left = budget - len(rows)
        if not everything and (count > left - 2 or count > left * share / sum(kernel[first:])):
            break
        members = combinations(range(d), k) if 2 * k < d else ((0, *rest) for rest in combinations(range(1, d), k - 1))
        rows += [[1 if r in inside else -1 for r in range(d)] for inside in map(set, members)]
        weight += [share / count] * count
        first += 1
    listed = torch.tensor(rows, dtype=torch.int8).reshape(len(rows), d)
    if first == len(kernel):
        return Pairs(listed, torch.tensor(weight, dtype=torch.float64), len(rows))
    drawn = torch.stack(list(_drawn(d, budget - len(rows), list(sizes)[first:], kernel[first:], seed)))
    return Pairs(torch.cat([listed, drawn]), torch.tensor(weight, dtype=torch.float64), len(rows))


def _drawn(d: int, count: int, sizes: list[int], kernel: list[float], seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    start = torch.rand((), generator=generator, dtype=torch.float64)
    places = (start + GOLDEN * torch.arange(count, dtype=torch.float64)) % 1
    until = torch.tensor(kernel, dtype=torch.float64).cumsum(0)
    seen: set[bytes] = set()
    for which in torch.searchsorted(until / until[-1], places).clamp(max=len(sizes) - 1).tolist():
        for _ in range(20):
            s = torch.full((d,), -1, dtype=torch.int8)
            s[torch.randperm(d, generator=generator)[: sizes[which]]] = 1
            if s.numpy().tobytes() not in seen:
                break
        seen |= {s.numpy().tobytes(), (-s).numpy().tobytes()}
        yield s


def shapley(asked: Pairs, y: Tensor, whole: Tensor) -> tuple[Tensor, Tensor]:
    """Values phi (d, t) and their standard errors from y = v(z) - v(1 - z) (n, t) of the first n pairs, whole = v(1) - v(0).

    phi = whole / d + psi, sum_r psi_r = 0, and over the kernel E[s' s'^T] = c (1 - 1 1^T / d), c = 2 / (1 + 1/2 + ...
    + 1/(d-1)), with s' = s - mean(s), y' = y - mean(s) whole. So, exactly, psi = E[s' y'] / c: the value where all
    pairs are there. From a sample that is a noisy answer, so a fit f to it goes first, and the same formula for
    what it leaves over:  psi = f + E[s' (y' - s' f)] / c, without bias whatever the fit is, if it has not seen the pair.
    f is the weighted least squares without the pair (in closed form), with as much of a ridge as predicts the left out
    pairs best; for many pairs the whole is the least squares itself. Its spread gives the standard error.
    """
    n, d = len(y), asked.signs.shape[1]
    if d < 2:
        return whole.expand(d, -1).clone(), torch.zeros(d, len(whole), dtype=y.dtype)
    s = asked.signs[:n].to(y.dtype)
    mean = s.mean(1, keepdim=True)
    c = 2 / sum(1 / k for k in range(1, d))
    drawn = n - asked.listed
    rest = 1 - asked.weight.sum()
    weight = torch.cat([asked.weight, (rest / max(drawn, 1)).expand(drawn)]).sqrt()[:, None].to(y.dtype)
    X, Y = weight * (s - mean), weight * (y - mean * whole)  # rows weigh what they stand for, so that E is a sum
    if not drawn:
        return whole / d + X.T @ Y / c, torch.zeros(d, len(whole), dtype=y.dtype)
    L = asked.listed
    f, missed = _left_out(X, Y, L, c)
    left = X[:L].T @ (Y[:L] - X[:L] @ f) + X[L:].T @ missed
    spread = (X[L:] ** 2).T @ missed**2 - (X[L:].T @ missed) ** 2 / drawn
    error = (spread.clamp(min=0) * drawn / max(drawn - 1, 1)).sqrt() / c
    return whole / d + f + left / c, error


def _left_out(X: Tensor, Y: Tensor, listed: int, c: float) -> tuple[Tensor, Tensor]:
    """Mean of the fits (d, t) that each leave one drawn pair out, and by how much each missed it (drawn, t).

    For a ridge l and hat matrix H: missed = (Y - H Y) / (1 - h), and the fit without i is f - (X^T X + l)^-1 X_i missed_i.
    """
    U, sigma, Vt = torch.linalg.svd(X, full_matrices=False)
    kept = sigma > 1e-9 * sigma[0]
    U, sigma, Vt = U[:, kept], sigma[kept], Vt[kept]
    UY, drawn = U.T @ Y, len(X) - listed
    best = torch.full((Y.shape[1],), torch.inf, dtype=Y.dtype)
    f, missed = X.new_zeros(X.shape[1], Y.shape[1]), X.new_zeros(drawn, Y.shape[1])
    for ridge in RIDGES:
        curvature = (sigma**2 + ridge * c)[:, None]
        H = sigma[:, None] ** 2 / curvature
        now = ((Y - U @ (H * UY)) / (1 - U**2 @ H))[listed:]
        fit = Vt.T @ ((sigma[:, None] * UY - Vt @ (X[listed:].T @ now) / drawn) / curvature)
        better = (now**2).sum(0) < best
        best = torch.where(better, (now**2).sum(0), best)
        f, missed = torch.where(better, fit, f), torch.where(better, now, missed)
    return f, missed
