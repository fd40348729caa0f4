"""One scan's explanations together with the way to make them all again, on the scan's own grid."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import nn

from radiolucent.errors import InputWarning
from radiolucent.explanation import Explanation, Prediction
from radiolucent.explanation.examining import reseeded
from radiolucent.geometry import Array
from radiolucent.parcellation import Parcellation
from radiolucent.protocols import Method, Target
from radiolucent.scoring import watched
from radiolucent.targets import only

COMPARED = 2**15
"""Voxels that a rank correlation is over: of more, as many that chance chose, once for all."""

Values = Mapping[tuple[int, str], float | str]
"""By an explanation's number and a target: a number, or the reason why there is none."""


@dataclass(frozen=True, eq=False)
class Scene:
    """What all questions are asked about; see `trust` for the fields."""

    prediction: Prediction
    explanations: Sequence[Explanation]
    targets: Target
    classes: Sequence[str] = ()
    parcellation: Parcellation | None = None
    spread: Sequence[float] = ()

    @cached_property
    def fixed(self) -> Target:
        return self.targets.fix(self.prediction.output)

    @cached_property
    def names(self) -> tuple[str, ...]:
        return self.fixed.names(self.classes)

    @cached_property
    def first(self) -> list[Mapping[str, Array]]:
        """The maps that are judged."""
        return [{t: v.data for t, v in zip(e.targets, e.relevance, strict=True)} for e in self.explanations]

    def again(
        self,
        measure: Callable[[Array, Array], float],
        numbers: Sequence[int],
        names: Collection[str],
        *,
        model: nn.Module | None = None,
        image: Array | None = None,
        run: int = 0,
    ) -> Values:
        """What some explanations' maps of some targets are to those by another model, of a changed image, by another seed.

        All that share a pass do; none of the new maps is kept.
        """
        wanted = {(i, t): self.first[i][t] for i in numbers for t in self.explanations[i].targets if t in names}
        part = only(self.fixed, [t for t, name in enumerate(self.names) if name in names])
        called = part.names(self.classes)
        changed: dict[str, Any] = {} if model is None else {"model": model}
        changed |= {} if image is None else {"image": self.prediction.image.like(image)}
        methods = [reseeded(self.explanations[i].method, run) for i in numbers]
        reasons: dict[Method, str] = {}
        how: dict[str, Any] = {"classes": self.classes, "parcellation": self.parcellation, "spread": self.spread}
        how["failed"] = lambda method, error: reasons.setdefault(method, str(error))
        found: dict[tuple[int, str], float | str] = {}
        with warnings.catch_warnings(), watched(None):
            warnings.simplefilter("ignore", InputWarning)  # the scores are others, as they should be
            for made in replace(self.prediction, **changed).maps(methods, part, **how):
                for t, volume in made.maps.items():
                    key = numbers[made.number], called[t]
                    if key in wanted:
                        found[key] = measure(wanted[key], volume.data)
        why = dict(zip(numbers, methods, strict=True))
        return {key: found.get(key, reasons.get(why[key[0]], "there is no such map")) for key in wanted}

    @cached_property
    def _places(self) -> Array:
        """The voxels of the scan that maps are compared in: those that the model sees."""
        image = self.prediction.image
        seen = image.like(np.ones((1, *image.grid.shape), np.float32)).on(self.prediction.scan.grid).data[0] > 0.5
        places = np.flatnonzero(seen)
        return places if len(places) <= COMPARED else np.random.default_rng(0).choice(places, COMPARED, replace=False)

    def alike(self, one: Array, other: Array) -> float:
        """Spearman's correlation of two maps; 0 where one is the same everywhere."""
        return spearman(ranked(self.seen(one)), ranked(self.seen(other)))

    def sizes(self, target: str) -> dict[int, Array]:
        """The ranks of |R| of each explanation that has a map of the target."""
        return {i: ranked(np.abs(self.seen(maps[target]))) for i, maps in enumerate(self.first) if target in maps}

    def seen(self, one: Array) -> Array:
        """A map's values, channels added up, in the voxels that maps are compared in."""
        return one.sum(0).ravel()[self._places]

    def noisy(self, share: float, seed: int) -> Array:
        """The model's image with uniform noise of that share of its range."""
        image = self.prediction.image.data
        reach = share * float(image.max() - image.min())
        noise = torch.rand(image.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).numpy()
        return (image + reach * (2 * noise - 1)).astype(image.dtype if image.dtype.kind == "f" else np.float32)


def ranked(values: Array) -> Array:
    """The ranks of values, with mean 0 and length 1: the product of two is Spearman's correlation. 0 of what is all the same."""
    ranks = rankdata(values)
    ranks -= ranks.mean()
    length = np.linalg.norm(ranks)
    return ranks / length if length else ranks


def spearman(one: Array, other: Array) -> float:
    """Spearman's, of two that are `ranked`; rounding takes it no farther than 1."""
    return float(np.clip(one @ other, -1, 1))
