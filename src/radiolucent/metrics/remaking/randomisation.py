"""Does the map know the model? It must change when the weights are random, or when another class is asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import entr
from torch import Tensor

from radiolucent.hooks import groups, randomised, weighted
from radiolucent.metrics.finding import Finding
from radiolucent.metrics.remaking.maps import Remade, average, exact, judged
from radiolucent.metrics.remaking.similarity import SIMILARITIES, similarities
from radiolucent.settings import ANY_SEED, among, at_least, yes_or_no

ORDERS = ("cascading", "bottom-up", "independent")


@dataclass(frozen=True)
class ParameterRandomisation:
    """Is the map still the same when the weights are random (Adebayo et al., NeurIPS 2018, section 3)?

        PR = mean_k |sim(R(x; f), R(x; f_k))|,   f_k = the model whose layers of groups 1 to k are random

    The layers with weights, from the output on in the order in which they ran ("cascading"), from the image on
    ("bottom-up", which Hedström et al., 2024, find fairer: it keeps no trained part near the image) or each group alone
    ("independent"), in `steps` groups of equal size (0: layer by layer, as in the paper; 1: all at once). `similarity` is
    spearman or ssim; `draws` times with other random weights, whose interval it is. `curve` has each step.
    One that changes neither scores nor maps is left out: its layers are not used (a head for training, another task's).

    Lower is better, about 0 for a map that depends on what was learned; 1 is a map that does not look at the weights.
    The size of the similarity counts, since a random last layer may turn all signs and leave the picture as it was. With
    `absolute`, maps lose their signs first, as pictures of them often do: what is multiplied with the image (input x
    gradient) then keeps its shape with any weights. Guided backpropagation changes little until the layers near the
    image are random. Bias: zero is reached on average only, and small networks with few channels stay above it.
    """

    order: str = "cascading"
    steps: int = 5
    similarity: str = "spearman"
    absolute: bool = False
    draws: int = 1
    seed: int = 0

    name = "parameter-randomisation"
    category = "randomisation"
    higher_is_better = False

    def __post_init__(self) -> None:
        at_least(self, steps=0, draws=1, seed=ANY_SEED)
        among(self, order=ORDERS, similarity=SIMILARITIES)
        yes_or_no(self, "absolute")

    def __call__(self, maps: Remade) -> list[Finding]:
        draws = [[row.abs() for row in self._similarities(maps, draw) if row is not None] for draw in range(self.draws)]
        nothing = torch.full((len(maps.relevance),), math.nan, dtype=torch.float64)
        means = torch.stack([torch.stack(rows).mean(0) if rows else nothing for rows in draws])  # (draws, t)
        return judged(maps, means, average, lambda own: _weightless(maps) or _unlike(own))

    def curve(self, maps: Remade) -> list[tuple[list[str], list[float]]]:
        """Each step: the layers that became random at it, and each target's similarity, with its sign; NaN if left out."""
        nothing = [math.nan] * len(maps.relevance)
        rows = [nothing if row is None else row.tolist() for row in self._similarities(maps, 0)]
        return list(zip(self._groups(maps), rows, strict=True))

    def _groups(self, maps: Remade) -> list[list[str]]:
        names = _layers(maps)
        return groups(names if self.order == "bottom-up" else names[::-1], self.steps)

    def _similarities(self, maps: Remade, draw: int) -> list[Tensor | None]:
        """For each step that of each target (t), or None where the step changed nothing."""
        steps = self._groups(maps)
        rows: list[Tensor | None] = []
        for k, group in enumerate(steps):
            layers = group if self.order == "independent" else [name for part in steps[: k + 1] for name in part]
            again = _randomised_map(maps, layers, self.seed + draw)
            rows.append(None if again is None else similarities(self.similarity, maps.relevance, again, self.absolute))
        return rows


@dataclass(frozen=True)
class ComplexityRise:
    """Does the map become more complex when all weights are random (eMPRT: Hedström et al., arXiv 2401.06465)?

        CR = (H(R(x; f')) - H(R(x; f))) / H(R(x; f)),   H = entropy of a map's histogram, f' = the model with random weights

    with `bins` of equal width from each map's smallest to its largest value, `draws` times with other random weights,
    whose interval it is. Needs one map of one random model, and no similarity, whose value depends on what is compared.

    Higher is better, above 0: what was learned made the map simpler. One outlier stretches the bins and hides the rest,
    so that of two maps the one with heavier tails looks simpler. A map without learned weights in it has 0. Quantus
    chooses the number of bins by rules in which it counts axes instead of values; here it is the same for all maps.
    """

    bins: int = 100
    draws: int = 1
    seed: int = 0

    name = "complexity-rise"
    category = "randomisation"
    higher_is_better = True

    def __post_init__(self) -> None:
        at_least(self, bins=2, draws=1, seed=ANY_SEED)

    def __call__(self, maps: Remade) -> list[Finding]:
        layers = _layers(maps)
        trained = self._entropies(maps.relevance)
        draws = [_randomised_map(maps, layers, self.seed + draw) for draw in range(self.draws)]
        nothing = torch.full_like(trained, math.nan)
        rises = torch.stack([nothing if again is None else (self._entropies(again) - trained) / trained for again in draws])
        return judged(maps, rises, average, lambda own: _weightless(maps) or _unlike(own))

    def _entropies(self, relevance: Tensor) -> Tensor:
        return torch.tensor([self._entropy(row) for row in relevance], dtype=torch.float64)

    def _entropy(self, relevance: Tensor) -> float:
        """0 of a map that is the same everywhere."""
        values = relevance.detach().double().cpu().numpy().ravel()
        if not np.isfinite(values).all():
            return math.nan
        share = np.histogram(values, self.bins)[0] / values.size
        return float(entr(share).sum())


@dataclass(frozen=True)
class TargetRandomisation:
    """Is the map of another target the same (random logit test: Sixt et al., ICML 2020; class sensitivity)?

        TR_i = mean_{j != i} sim(R_i(x), R_j(x))        over the targets that were explained together

    Lower is better: different questions have different answers. It costs nothing beyond the maps, and needs two targets.
    With the sign (or without it, `absolute`), since two classes that exclude each other may rightly have one map with
    opposite signs. Targets that depend on the same place (two structures' volumes, a class and a rarer one of its kind)
    have like maps for good reason: compare methods, not cases. A random map that differs from target to target is best.
    """

    similarity: str = "spearman"
    absolute: bool = False

    name = "target-randomisation"
    category = "randomisation"
    higher_is_better = False

    def __post_init__(self) -> None:
        among(self, similarity=SIMILARITIES)
        yes_or_no(self, "absolute")

    def __call__(self, maps: Remade) -> list[Finding]:
        R = maps.relevance
        found = []
        for t in range(len(R)):
            others = [j for j in range(len(R)) if j != t and not maps.unfit[j]]
            alike = similarities(self.similarity, R[[t] * len(others)], R[others], self.absolute) if others else torch.zeros(0)
            reason = maps.unfit[t] or ("" if others else "there is no other target to compare with")
            found.append(exact(float(alike.mean()) if not reason else math.nan, reason or _unlike(alike)))
        return found


def _randomised_map(maps: Remade, layers: Sequence[str], seed: int) -> Tensor | None:
    """The maps by the model in which these layers are random; where all are, made once for all metrics.

    None where neither scores nor maps changed: the layers are not used, or something holds on to the trained weights, so
    that a verdict about the method would be one about the copy.
    """

    def make() -> Tensor | None:
        other = randomised(maps.model, layers, seed)
        again = maps.again(maps.x, model=other)
        if torch.equal(again, maps.relevance) and torch.equal(maps.score(maps.x, other), maps.score(maps.x)):
            return None
        return again

    return maps.once(("random", seed), make) if len(layers) == len(_layers(maps)) else make()


def _layers(maps: Remade) -> list[str]:
    """Those with weights, in the order in which they ran."""
    return maps.once("layers", lambda: weighted(maps.model, maps.x))


def _weightless(maps: Remade) -> str:
    return "" if _layers(maps) else "the model has no weights to make random"


def _unlike(alike: Tensor) -> str:
    """Why there is no similarity, or ""."""
    return "" if alike.isfinite().all() else "a map to compare with is too small, not finite, or made with the trained weights"
