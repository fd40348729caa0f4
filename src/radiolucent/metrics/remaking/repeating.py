"""Is it the same map the next time: by another seed of the method, by another training of the model?"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import torch

from radiolucent.metrics.finding import Finding
from radiolucent.metrics.remaking.maps import Remade, average, changes, judged
from radiolucent.metrics.remaking.similarity import SIMILARITIES, similarities
from radiolucent.settings import among, at_least


@dataclass(frozen=True)
class Repeatability:
    """Mean relative change of the map between runs of the method with other seeds.

        RP = mean_k |R(x; seed_k) - R(x)| / |R(x)|        Frobenius norms, `runs` seeds, Student's interval

    Lower is better; 0 for a method without chance. As a relative change it is measured in the same unit as sensitivity
    to noise, of which it is a part: what is sampled too thinly moves without any change of the image. It sees the
    method's own chance only, not the model's: a model that draws random numbers has the same in each run.
    """

    runs: int = 3

    name = "repeatability"
    category = "robustness"
    higher_is_better = False

    def __post_init__(self) -> None:
        at_least(self, runs=1)

    def __call__(self, maps: Remade) -> list[Finding]:
        rows = torch.stack([changes(maps.relevance, maps.again(maps.x, run=run)) for run in range(1, self.runs + 1)])
        return judged(maps, rows, average, lambda own: "" if own.isfinite().all() else "a map of another run is NaN or infinite")


@dataclass(frozen=True)
class Reproducibility:
    """How alike the maps of models are that were trained alike, from other seeds.

        RD = mean_{m < n} sim(|R(x; f_m)|, |R(x; f_n)|)        over the model itself and all others

    `similarity` is spearman or ssim, over absolute values, since scales differ between models. Higher is better. Two
    models may say the same for different reasons, which is then no fault of the method; a method that does not look
    at the model (an edge detector) reproduces itself perfectly. No interval: pairs of few models are not independent.
    """

    similarity: str = "spearman"

    name = "reproducibility"
    category = "robustness"
    higher_is_better = True

    def __post_init__(self) -> None:
        among(self, similarity=SIMILARITIES)

    def __call__(self, maps: Remade) -> list[Finding]:
        others = maps.once("others", maps.others) if maps.others else ()
        if not others:
            return [Finding(reason="there is no other trained model to compare with")] * len(maps.relevance)
        pairs = combinations([maps.relevance, *others], 2)
        alike = torch.stack([similarities(self.similarity, a, b, absolute=True) for a, b in pairs])
        reason = "the map of a model is not finite, or of another grid"
        return judged(maps, alike, lambda own: Finding(float(own.mean())), lambda own: "" if own.isfinite().all() else reason)
