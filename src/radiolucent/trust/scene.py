"""One scan's explanations together with the way to make them all again, on the scan's own grid."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from radiolucent.errors import BadInput, InputWarning
from radiolucent.explanation import Explanation, Prediction
from radiolucent.explanation.examining import reseeded
from radiolucent.geometry import Array
from radiolucent.parcellation import Parcellation
from radiolucent.protocols import Method, Target
from radiolucent.scoring import watched
from radiolucent.statistics import spearman

COMPARED = 2**15
"""Voxels that a rank correlation is over: of more, as many that chance chose, once for all."""

Values = Mapping[str, float | str]
"""A number for each target of one explanation, or the reason why there is none."""

Made = Mapping[str, Array | str]
"""One method's maps by target, each as an array on the scan's grid, or the reason why there is none."""


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

    def again(self, *, model: Any = None, image: Array | None = None, run: int = 0) -> list[Made]:
        """All maps made again as they were: by another model, of a changed image, by another seed of the method."""
        changed: dict[str, Any] = {} if model is None else {"model": model}
        if image is not None:
            changed["image"] = self.prediction.image.like(image)
        methods = [reseeded(e.method, run) for e in self.explanations]
        reasons: dict[Method, str] = {}

        def failed(method: Method, error: BadInput) -> None:
            reasons[method] = str(error)

        with warnings.catch_warnings(), watched(None):
            warnings.simplefilter("ignore", InputWarning)  # the scores are others, as they should be
            how: dict[str, Any] = {"classes": self.classes, "parcellation": self.parcellation, "spread": self.spread}
            made = replace(self.prediction, **changed).explain(methods, self.targets, failed=failed, **how)
        maps: dict[Method, dict[str, Array]] = {
            e.method: {t: v.data for t, v in zip(e.targets, e.relevance, strict=True)} for e in made
        }
        return [{t: maps.get(m, {}).get(t, reasons.get(m, "there is no such map")) for t in self.names} for m in methods]

    @cached_property
    def _places(self) -> Array:
        """The voxels of the scan that maps are compared in: those that the model sees."""
        image = self.prediction.image
        seen = image.like(np.ones((1, *image.grid.shape), np.float32)).on(self.prediction.scan.grid).data[0] > 0.5
        places = np.flatnonzero(seen)
        return places if len(places) <= COMPARED else np.random.default_rng(0).choice(places, COMPARED, replace=False)

    def alike(self, one: Array, other: Array, *, absolute: bool = False) -> float:
        """Spearman's correlation of two maps, channels added up; 0 where one is the same everywhere."""
        a, b = (each.sum(0).ravel()[self._places] for each in (one, other))
        found = spearman(np.abs(a), np.abs(b)) if absolute else spearman(a, b)
        return 0.0 if np.isnan(found) else found

    def each(self, made: Sequence[Made], measure: Callable[[Array, Array], float]) -> list[Values]:
        """What each map that was made again is to the first one of its method and target, so that maps need not be kept."""
        return [
            {t: own if isinstance(own := again[t], str) else measure(first, own) for t, first in firsts.items()}
            for firsts, again in zip(self.first, made, strict=True)
        ]

    def noisy(self, share: float, seed: int) -> Array:
        """The model's image with uniform noise of that share of its range."""
        image = self.prediction.image.data
        reach = share * float(image.max() - image.min())
        noise = torch.rand(image.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).numpy()
        return (image + reach * (2 * noise - 1)).astype(image.dtype if image.dtype.kind == "f" else np.float32)
