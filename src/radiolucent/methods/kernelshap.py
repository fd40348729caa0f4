"""KernelSHAP: each region's share in the score, by hiding many combinations of regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from radiolucent import baselines, segments
from radiolucent.hooks import evaluating
from radiolucent.methods.coalitions import Pairs, pairs, shapley
from radiolucent.methods.gradient import plain
from radiolucent.protocols import Target
from radiolucent.scoring import VOXELS, in_chunks, scoring, share, tell
from radiolucent.settings import ANY_SEED, among, at_least, per_axis

REGIONS = ("cubes", "semantic", "supervoxels", "parcellation")


@dataclass(frozen=True)
class KernelSHAP:
    """Shapley value of each region, spread over its voxels (Lundberg & Lee, NeurIPS 2017; Covert & Lee, AISTATS 2021).

        R[p] = phi_r / |r|  for p in r,     v(z) = S(x, regions with z_r = 0 replaced by x')
        phi = argmin sum_z k(z) (v(z) - v(0) - z phi)^2,  k(z) = (d-1) / (binom(d, |z|) |z| (d-|z|)),
        sum R = sum phi = S(x) - S(x')  exactly

    `regions`: "cubes" (`cubes` along each axis), "semantic" (what the model predicts, background included),
    "supervoxels" (SLIC, as many as cubes; needs scikit-image) or "parcellation" (a label map of your own, see `over`).
    `samples` is the most forward passes, each of which serves all targets; 2^d or more give the exact values. They stop
    as soon as the largest standard error is below `precision` times the range of the values, for each target. Coalitions
    come in pairs of complements, drawn from `seed` for each batch item alike. `baseline` names x'. Agg2Exp used 8^3 cubes
    with 1000 samples and predicted segments with 200, from zero.

    Signed, on the input's grid, in blocks. Needs no gradient. `values` gives phi with its standard error, which is honest
    from about two pairs for each region on, and too small below; with fewer samples than regions the map is mostly noise.
    It says what is lost when regions vanish for x': where the network has never seen such a hole, its answer to that.
    """

    regions: str = "cubes"
    cubes: int | tuple[int, ...] = 8
    samples: int = 2000
    precision: float = 0.0
    baseline: str = "zero"
    seed: int = 0
    batch: int = 0

    unit = "score"

    def __post_init__(self) -> None:
        at_least(self, cubes=1, samples=2, precision=0, seed=ANY_SEED, batch=0)
        among(self, regions=REGIONS, baseline=baselines.BASELINES)

    def __call__(self, model: nn.Module, x: Tensor, targets: Target) -> Tensor:
        return self.values(model, x, targets).spread()

    def detailed(self, model: nn.Module, x: Tensor, targets: Target) -> tuple[Tensor, Sequence[Mapping[str, Any]]]:
        """The map of one image, and for each target its values by region, with their standard errors."""
        found = self.values(model, x, targets)
        return found.spread(), found.rows()

    def over(self, labels: Tensor) -> Over:
        """This method with your own regions: a label map (b, *grid), (1, *grid) or (*grid) on the model's grid."""
        return Over(self, labels)

    def values(self, model: nn.Module, x: Tensor, targets: Target, labels: Tensor | None = None) -> Shapley:
        """The values of the regions, before they are spread over the voxels."""
        x = plain(x)
        reference = baselines.baseline(self.baseline, x)
        scored = scoring(model, targets)
        with evaluating(model), torch.no_grad():
            names, index = torch.unique(self._labels(model, x, targets, labels), return_inverse=True)
            games = [_Game(self, len(names), i[(item != to).any(0)]) for item, to, i in zip(x, reference, index, strict=True)]

            def ask(first: int, which: range) -> Tensor:
                hidden = torch.stack([torch.stack([g.hidden(first + w) for g in games]) for w in which]).to(x.device)
                where = torch.stack([torch.stack([h[i] for h, i in zip(row, index, strict=True)]) for row in hidden])
                return scored(torch.stack([baselines.hide(x, w[:, None], reference) for w in where]))

            S: list[Tensor] = []
            most, size = 2 + 2 * max(game.last for game in games), share(self.batch, x[:, 0].numel(), VOXELS)
            for until in sorted({n for game in games for n in game.looks}):
                first = len(S)
                tell(first, most)
                for _, scores in in_chunks(2 + 2 * until - first, size, partial(ask, first), told=False):
                    S.extend(scores)
                    tell(len(S), most)
                for item, game in enumerate(games):
                    game.read(torch.stack([s[:, item] for s in S[: 2 + 2 * until]]).double().cpu(), until)
                if all(game.done for game in games):
                    break
        phi, error = (torch.stack([getattr(game, name).T for game in games], 1) for name in ("phi", "error"))
        return Shapley(phi, error, names, index, tuple(game.evaluations for game in games), S[0].dtype)

    def _labels(self, model: nn.Module, x: Tensor, targets: Target, labels: Tensor | None) -> Tensor:
        if labels is not None or self.regions == "parcellation":
            return segments.given(labels, x)
        if self.regions == "semantic":
            return segments.predicted(model, x, targets)
        along = per_axis(self.cubes, x, "cubes")
        return segments.cubes(x, along) if self.regions == "cubes" else segments.supervoxels(x, torch.Size(along).numel())


@dataclass(frozen=True, eq=False)
class Shapley:
    """What KernelSHAP found.

    `phi` and its standard `error` (t, b, d), in double precision, of the regions that are called `names` (d,) in the
    label map, `index` (b, *grid) of each voxel's region among them, and how many `evaluations` each item took. A region
    that the baseline does not change, or that an item does not have, has the value 0 without error.
    """

    phi: Tensor
    error: Tensor
    names: Tensor
    index: Tensor
    evaluations: tuple[int, ...]
    dtype: torch.dtype

    def spread(self) -> Tensor:
        """Relevance (t, b, 1, *grid): each region's value in equal parts over its voxels."""
        maps = []
        for phi, index in zip(self.phi.unbind(1), self.index, strict=True):
            voxels = torch.bincount(index.flatten(), minlength=phi.shape[1]).clamp(min=1).cpu()
            maps.append((phi / voxels).to(index.device, self.dtype)[:, index])
        return torch.stack(maps, 1).unsqueeze(2)

    def rows(self) -> list[dict[str, Any]]:
        """For each target what there is to say about the first item, as plain numbers."""
        same = {"regions": self.names.tolist(), "evaluations": self.evaluations[0]}
        return [same | {"values": p[0].tolist(), "errors": e[0].tolist()} for p, e in zip(self.phi, self.error, strict=True)]


@dataclass(frozen=True, eq=False)
class Over:
    """KernelSHAP over regions that were given."""

    method: KernelSHAP
    labels: Tensor = field(repr=False)

    unit = KernelSHAP.unit

    def __call__(self, model: nn.Module, x: Tensor, targets: Target) -> Tensor:
        return self.values(model, x, targets).spread()

    def detailed(self, model: nn.Module, x: Tensor, targets: Target) -> tuple[Tensor, Sequence[Mapping[str, Any]]]:
        found = self.values(model, x, targets)
        return found.spread(), found.rows()

    def values(self, model: nn.Module, x: Tensor, targets: Target) -> Shapley:
        return self.method.values(model, x, targets, self.labels)


class _Game:
    """One batch item: its players are the regions in which the baseline changes something, `changed` lists such voxels."""

    def __init__(self, method: KernelSHAP, regions: int, changed: Tensor) -> None:
        self.regions = regions
        self.players = changed.unique().cpu()
        self.precision = method.precision
        d = len(self.players)
        self.pairs = pairs(d, method.samples, method.seed) if d > 1 else Pairs(torch.zeros(0, d), torch.zeros(0), 0)
        n = last = len(self.pairs.signs)
        self.looks = [n]  # few of them: each look is another chance to stop too early
        if self.precision > 0 and not self.pairs.all:
            n, self.looks = self.pairs.listed + 32, [last]
            while n < last:
                self.looks.append(n)
                n += n // 4
        self.last, self.done = last, False

    def hidden(self, number: int) -> Tensor:
        """Which regions (1.0) the evaluation hides: of 0 none, of 1 all, then a pair z and 1 - z after the other."""
        hidden = torch.zeros(self.regions)
        i = (number - 2) // 2
        if number == 1:
            hidden[self.players] = 1.0
        elif 0 <= i < self.last:
            hidden[self.players] = (self.pairs.signs[i] == (1 if number % 2 else -1)).float()
        return hidden

    def read(self, S: Tensor, until: int) -> None:
        """Take the scores (evaluations, t) into account, if this is a look of this item's, and it is not done."""
        if self.done or until not in self.looks:
            return
        phi, error = shapley(self.pairs, S[2::2] - S[3::2], S[0] - S[1])
        spans = phi.amax(0) - phi.amin(0) if len(phi) else S[0]
        self.done = until == self.last or bool((error.amax(0) <= self.precision * spans).all())
        self.phi, self.error = S.new_zeros(self.regions, S.shape[1]), S.new_zeros(self.regions, S.shape[1])
        self.phi[self.players], self.error[self.players] = phi, error
        self.evaluations = len(S)
