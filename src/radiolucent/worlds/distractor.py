"""A lesion, and a marker in the air that comes with it: it foretells the class and does not cause it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.random import Generator

from radiolucent.errors import BadInput
from radiolucent.geometry import Array
from radiolucent.worlds.heads import Head
from radiolucent.worlds.planting import Case, Planted, Span, ball, begin, check_span, decided, place


@dataclass(frozen=True)
class Distractor:
    """As `Lesion`, with a bright cube in a corner of the image in most cases that have the lesion, and in few others.

        image = head + z c B(q, r) + m 0.8 K,     class = z,     z ~ Bernoulli(1/2),     P(m = z) = agreement

    K is a cube of `marker` voxels a side in one of the corners that the head leaves free. Truth: the lesion, since the class
    is a function of z alone. A network may still use K, and that is what interventions tell: `case(..., do={"marker": ...})`
    changes the image and not the class, and the change of the network's output is its use of the marker. The test world has
    agreement 1/2: there the marker says nothing.
    """

    radius: Span = (1.75, 3.0)
    contrast: Span = (0.35, 0.6)
    agreement: float = 0.9
    marker: int = 3

    name = "distractor"
    task = "classification"
    classes = ("healthy", "lesion")
    parts = ("lesion", "marker")
    cause = ("lesion",)

    def __post_init__(self) -> None:
        check_span(self, radius=1, contrast=0.01)
        if not 0 <= self.agreement <= 1 or self.marker < 1:
            got = f"agreement {self.agreement}, marker {self.marker}"
            raise BadInput("an agreement from 0 to 1 and a marker of 1 voxel or more", got, "Correct them.")

    def case(self, heads: Sequence[Head], seed: int, do: Mapping[str, bool] | None = None) -> Case:
        head, draw = begin(heads, seed)
        r, c = draw.uniform(*self.radius), draw.uniform(*self.contrast)
        q = place(head.depth > r + 0.5, draw, "a lesion")
        cube = 0.8 * self._corner(head, draw)
        lesion = bool(draw.random() < 0.5)
        z = decided({"lesion": lesion, "marker": lesion == bool(draw.random() < self.agreement)}, do)
        planted = Planted.into(head, {"lesion": c * ball(head.size, q, r), "marker": cube}, z)
        label = int(z["lesion"])
        return Case(planted.image, label, self.classes[label], planted.masks, planted.truth(*self.cause), head.grid)

    def _corner(self, head: Head, draw: Generator) -> Array:
        """1 in a cube of a free corner, one voxel from the border."""
        sides = (slice(1, 1 + self.marker), slice(-1 - self.marker, -1))
        free = [corner for corner in product(sides, repeat=3) if not (head.depth[corner] > 0).any()]
        if not free:
            raise BadInput("a corner without head for the marker", "none", "Take a smaller marker, or scans with air around.")
        cube = np.zeros_like(head.image)
        cube[free[int(draw.integers(len(free)))]] = 1
        return cube

    def fair(self) -> Distractor:
        return replace(self, agreement=0.5)
