"""How much a trust card asks, and from where on a map passes."""

from __future__ import annotations

from dataclasses import dataclass

from radiolucent.baselines import BASELINES
from radiolucent.errors import BadInput
from radiolucent.settings import among, at_least


@dataclass(frozen=True)
class Standards:
    """The limits of a trust card, and what it may cost.

    alpha: of each test, after Holm's correction over the targets of a map; 0.05 by convention.
    top: share of the layers with weights, from the output on, that sanity makes random. A map that explains the output
        must change with them. Rules that follow the image's edges change only when the layers near the image are random
        too, which is what they are found by; with the last layer alone random, few channels leave much to chance.
    similar: rank correlation (its size, mean over the draws) from which a map counts as the same. With three draws, maps
        by gradients and CAMs of small trained networks have 0.05 to 0.33, guided backpropagation 0.53 to 0.65, an edge
        map 1: the limit lies between.
    draws: how often weights are drawn. With two or more there is an interval; up to `most_draws` where that is cheap, and
        for maps with `doubtful` or more, so that none fails by one draw: of 50 draws on five small trained networks one left
        guided backpropagation below 0.25 and none Integrated Gradients above it, but 7 of 100 brought CAMs above 0.45.
    models: networks with shuffled weights that the network's answers are compared with.
    cubes, subset, subsets, baseline: what faithfulness hides, how much of it, how often at least (`most_subsets`: at most),
        and by what. With 24 subsets a correlation must be about 0.35 to be told from chance. A blur makes nothing that is
        not around: on the planted lesion 8 of 8 maps of Integrated Gradients pass, and with the image's mean 3, whose cubes
        are lesions of their own in darker places; random maps and edges fail with either (docs/worlds.md).
    noise: uniform, as a share of the image's range; 0.05 has a standard deviation of 3 %, that of a good clinical scan.
    noisy: how many noisy copies. change: relative change of the map from which it counts as unstable; 1 is a correlation of
        one half between two maps of equal size, and two unrelated maps have 1.4.
    times, spare: all together cost at most `times` the evaluations of the maps, or, of cheap maps, twice these and as many
        images through the network as `spare`, whichever is more. times=0: whatever it costs.
    further: whether to add numbers without a verdict, from maps and copies of their own.
    """

    alpha: float = 0.05
    top: float = 0.5
    similar: float = 0.45
    doubtful: float = 0.25
    draws: int = 1
    most_draws: int = 3
    models: int = 5
    cubes: int = 8
    subset: float = 0.2
    subsets: int = 24
    most_subsets: int = 100
    baseline: str = "blur"
    noise: float = 0.05
    noisy: int = 1
    change: float = 1.0
    times: float = 3.0
    spare: int = 64
    further: bool = False

    def __post_init__(self) -> None:
        at_least(
            self,
            alpha=0,
            top=0,
            similar=0,
            doubtful=0,
            draws=1,
            most_draws=1,
            models=2,
            cubes=2,
            subset=0,
            subsets=4,
            most_subsets=4,
        )
        at_least(self, noise=0, noisy=1, change=0, times=0, spare=0)
        among(self, baseline=BASELINES)
        if not (0 < self.top <= 1 and 0 < self.subset < 1 and 0 < self.alpha < 1):
            got = f"top={self.top}, subset={self.subset}, alpha={self.alpha}"
            raise BadInput("shares between 0 and 1 as top, subset and alpha", got, "Correct them.")


LEVELS = {
    "quick": Standards(),
    "full": Standards(draws=5, most_draws=5, models=19, subsets=300, most_subsets=300, noisy=5, times=0, further=True),
}
"""By the names that `--check` takes, besides "off"."""


def standards(level: str | Standards) -> Standards:
    """Those of a level, or one's own."""
    if isinstance(level, Standards):
        return level
    if level not in LEVELS:
        raise BadInput(f"a level among {', '.join(LEVELS)}, or Standards", repr(level), "Correct it.")
    return LEVELS[level]
