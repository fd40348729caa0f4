"""What a method's maps cost: all targets together, as they were made."""

from __future__ import annotations

import math
from dataclasses import dataclass

from radiolucent.metrics.finding import Finding
from radiolucent.metrics.remaking.maps import Remade, exact


@dataclass(frozen=True)
class Seconds:
    """Wall-clock time for the maps of all targets (Agg2Exp's efficiency).

        T = end - start

    Lower is better. On this machine, with what else ran on it. The first run of a process is slower (libraries load).
    """

    name = "seconds"
    category = "efficiency"
    higher_is_better = False

    def __call__(self, maps: Remade) -> list[Finding]:
        return _cost(maps, None if maps.cost is None else maps.cost.seconds)


@dataclass(frozen=True)
class Evaluations:
    """How many images went through the model, forward and backward, for the maps of all targets.

        N = forward passes + backward passes        a batch of n images is n, a window of a model in windows is 1

    Lower is better, and the same on every machine. A part of the network that runs alone counts as a whole.
    """

    name = "evaluations"
    category = "efficiency"
    higher_is_better = False

    def __call__(self, maps: Remade) -> list[Finding]:
        return _cost(maps, None if maps.cost is None else maps.cost.evaluations)


@dataclass(frozen=True)
class PeakMemory:
    """How far memory rose above what was held when the method began, in MiB.

        M = max_t held(t) - held(start)        resident memory of the process, or PyTorch's on a GPU

    Lower is better. Honest to about 1 MiB, on Linux only; in the first run of a process it includes libraries that load.
    """

    name = "peak-memory"
    category = "efficiency"
    higher_is_better = False

    def __call__(self, maps: Remade) -> list[Finding]:
        return _cost(maps, None if maps.cost is None else maps.cost.peak_mib)


def _cost(maps: Remade, value: float | None) -> list[Finding]:
    """The same for all targets, which were made together."""
    return [exact(math.nan if value is None else float(value), "it was not measured" if value is None else "")] * len(
        maps.relevance
    )
