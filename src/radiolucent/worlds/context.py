"""A structure that is labelled only where a cue elsewhere in the head is present: a segmentation that needs context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from radiolucent.errors import BadInput
from radiolucent.worlds.heads import Head
from radiolucent.worlds.planting import Case, Planted, Span, ball, begin, check_span, decided, distance, place


@dataclass(frozen=True)
class Context:
    """A bright ball in every head, and in half of the heads a dark one elsewhere; with both, the bright one is labelled.

        image = head + c B1 - k d B2,     y[p] = k [B1[p] >= 1/2],     k ~ Bernoulli(1/2)
        B1 = B(q1, r1),     B2 = B(q2, r2),     |q1 - q2| >= apart

    B as in `Lesion`. The bright ball, the structure, looks the same whether it is labelled or not: only the cue tells. The cue
    is darker than air, so that the darkest voxel tells whether it is there: one as dark as the hollows that a head has anyway
    is found too late by a small network, which is told of it only by way of the structure. Truth: both balls, where the cue
    is there; else nothing is labelled, and there is nothing to explain. Share of a map's mass on the cue: whether it shows
    the context at all.
    """

    radius: Span = (1.75, 3.0)
    contrast: Span = (0.5, 0.8)
    cue_radius: Span = (1.75, 3.0)
    cue_contrast: Span = (0.9, 1.2)
    apart: float = 8.0

    name = "context"
    task = "segmentation"
    classes = ("background", "structure")
    parts = ("structure", "cue")
    cause = ("structure", "cue")

    def __post_init__(self) -> None:
        check_span(self, radius=1, contrast=0.01, cue_radius=1, cue_contrast=0.01)
        least = self.radius[1] + self.cue_radius[1] + 2
        if not least <= self.apart < float("inf"):
            raise BadInput(
                f"structure and cue {least:g} voxels apart or more, so that they do not touch", f"{self.apart}", "Raise it."
            )

    def case(self, heads: Sequence[Head], seed: int, do: Mapping[str, bool] | None = None) -> Case:
        head, draw = begin(heads, seed)
        r1, c = draw.uniform(*self.radius), draw.uniform(*self.contrast)
        r2, d = draw.uniform(*self.cue_radius), draw.uniform(*self.cue_contrast)
        q1 = place(head.depth > r1 + 0.5, draw, "a structure")
        q2 = place((head.depth > r2 + 0.5) & (distance(head.size, q1) >= self.apart), draw, "a cue")
        z = decided({"structure": True, "cue": bool(draw.random() < 0.5)}, do)
        shape = ball(head.size, q1, r1)
        planted = Planted.into(head, {"structure": c * shape, "cue": -d * ball(head.size, q2, r2)}, z)
        labelled = z["structure"] and z["cue"]
        y = (shape >= 0.5).astype(np.int64) * labelled
        truth = planted.truth(*self.cause) & labelled
        return Case(planted.image, y, self.classes[1] if labelled else "", planted.masks, truth, head.grid)

    def fair(self) -> Context:
        return self
