"""What all worlds share: what a case is, what a world is, and how parts are put into a head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.random import Generator

from radiolucent.errors import BadInput
from radiolucent.geometry import Array, Grid
from radiolucent.worlds.heads import Head

Span = tuple[float, float]
"""From and to: drawn evenly between."""


@dataclass(frozen=True, eq=False)
class Case:
    """One case of a world.

    Args:
        image: (1, *size) float32.
        target: what a network learns: a class number, a value, or a label map (*size) of whole numbers.
        label: the class's name, or the value as text.
        masks: for each part that is there, the voxels that it changed (*size).
        truth: the voxels of the parts that cause the output, all False where nothing does.
        grid: where the image lies.
    """

    image: Array
    target: Any
    label: str
    masks: Mapping[str, Array]
    truth: Array
    grid: Grid


class World(Protocol):
    """A frozen dataclass whose fields say how cases are drawn.

    `parts` are what may be planted, `cause` those of them that the target is a function of.
    """

    name: str
    task: Literal["classification", "regression", "segmentation"]
    classes: tuple[str, ...]
    parts: tuple[str, ...]
    cause: tuple[str, ...]

    def case(self, heads: Sequence[Head], seed: int, do: Mapping[str, bool] | None = None) -> Case:
        """The case of a seed; with `do`, the same draw with some parts there or not, whatever chance had said.

        Raises:
            BadInput: a part that the world does not have, or one that fits nowhere into the head.
        """
        ...

    def fair(self) -> World:
        """The world that the network is tested in: without what correlates but does not cause."""
        ...


@dataclass(frozen=True, eq=False)
class Planted:
    """An image with parts, each with the voxels that it changed."""

    image: Array
    masks: Mapping[str, Array]

    @classmethod
    def into(cls, head: Head, parts: Mapping[str, Array], there: Mapping[str, bool]) -> Planted:
        """`parts` (*size) are added to the head's image where they are `there`; they must not touch each other.

        image = head + sum_k there[k] part[k],     mask[k] = {p: part[k, p] != 0}
        """
        image = head.image + sum(part for name, part in parts.items() if there[name])
        return cls(image[None].astype(np.float32), {name: part != 0 for name, part in parts.items() if there[name]})

    def truth(self, *cause: str) -> Array:
        """The voxels of these parts."""
        empty = np.zeros(self.image.shape[1:], bool)
        return np.logical_or.reduce([empty, *(self.masks[name] for name in cause if name in self.masks)])


def begin(heads: Sequence[Head], seed: int) -> tuple[Head, Generator]:
    """A head of those, varied, and the generator that all else is drawn from."""
    draw = np.random.default_rng(seed)
    return heads[int(draw.integers(len(heads)))].varied(draw), draw


def decided(drawn: Mapping[str, bool], do: Mapping[str, bool] | None) -> dict[str, bool]:
    """What is there: as drawn, but for what is said."""
    unknown = set(do or {}) - set(drawn)
    if unknown:
        raise BadInput(f"parts among {', '.join(drawn)}", ", ".join(sorted(unknown)), "Correct `do`.")
    return {**drawn, **(do or {})}


def place(allowed: Array, draw: Generator, what: str) -> Array:
    """A voxel (3,) of those allowed."""
    found = np.argwhere(allowed)
    if not len(found):
        got = f"none on a grid of {' x '.join(map(str, allowed.shape))}"
        raise BadInput(f"a place for {what} inside the head", got, "Take more voxels (--size), or a smaller radius.")
    return found[int(draw.integers(len(found)))]


def distance(size: int, centre: Array) -> Array:
    """Of each voxel of a cube from a place, in voxels."""
    axes = [np.arange(size) - c for c in centre]
    return np.sqrt(axes[0][:, None, None] ** 2 + axes[1][None, :, None] ** 2 + axes[2][None, None, :] ** 2)


def ball(size: int, centre: Array, radius: float) -> Array:
    """1 inside, 0 outside, and a share on the voxels that the surface cuts (*size)."""
    return np.clip(radius + 0.5 - distance(size, centre), 0, 1)


def check_span(world: Any, **least: float) -> None:
    """Refuse a span that is not two finite numbers, least <= from <= to."""
    for name, low in least.items():
        span = getattr(world, name)
        right = isinstance(span, tuple) and len(span) == 2 and low <= span[0] <= span[1] < float("inf")
        if not right:
            raise BadInput(f"{name} as two numbers, from {low:g} on and ascending", repr(span), "Correct it.")
