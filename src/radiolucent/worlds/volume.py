"""A structure of known volume in a real scan: the volume is the output of a regression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from radiolucent.errors import BadInput
from radiolucent.geometry import Array
from radiolucent.worlds.heads import Head
from radiolucent.worlds.planting import Case, Planted, Span, begin, check_span, decided, place


@dataclass(frozen=True)
class StructureVolume:
    """A bright ellipsoid in every head; how large it is, is asked for.

        image = head + c E(q, r),     y = sum_p E[p],     E[p] = clip(1/2 + (1 - |(p - q) / r|) min r, 0, 1)

    E has half axes r = (r1, r2, r3), each drawn evenly from `radius` (voxels), and a soft surface. y is in voxels of the
    image, not in ml: the heads' voxels differ by some percent, which no image shows. The contrast c is the same in all cases,
    so that brightness says nothing of the volume. Truth: the voxels {p: E[p] > 0}. `do={"structure": False}` gives y = 0.
    """

    radius: Span = (1.25, 3.5)
    contrast: float = 0.6

    name = "volume"
    task = "regression"
    classes = ("voxels",)
    parts = ("structure",)
    cause = ("structure",)

    def __post_init__(self) -> None:
        check_span(self, radius=1)
        if not 0 < self.contrast < float("inf"):
            raise BadInput("a contrast above 0", f"{self.contrast}", "Correct it.")

    def case(self, heads: Sequence[Head], seed: int, do: Mapping[str, bool] | None = None) -> Case:
        head, draw = begin(heads, seed)
        r = draw.uniform(*self.radius, 3)
        q = place(head.depth > r.max() * (1 + 0.5 / r.min()), draw, "a structure")
        z = decided({"structure": True}, do)
        share = ellipsoid(head.size, q, r)
        planted = Planted.into(head, {"structure": self.contrast * share}, z)
        y = float(share.sum()) if z["structure"] else 0.0
        return Case(planted.image, y, f"{y:.2f}", planted.masks, planted.truth(*self.cause), head.grid)

    def fair(self) -> StructureVolume:
        return self


def ellipsoid(size: int, centre: Array, half: Array) -> Array:
    """1 inside, 0 outside, and a share near the surface (*size)."""
    axes = [(np.arange(size) - c) / h for c, h in zip(centre, half, strict=True)]
    reach = np.sqrt(axes[0][:, None, None] ** 2 + axes[1][None, :, None] ** 2 + axes[2][None, None, :] ** 2)
    return np.clip(0.5 + (1 - reach) * half.min(), 0, 1)
