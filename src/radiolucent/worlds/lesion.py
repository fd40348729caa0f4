"""A lesion in a real scan: its presence is the class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from radiolucent.worlds.heads import Head
from radiolucent.worlds.planting import Case, Planted, Span, ball, begin, check_span, decided, place


@dataclass(frozen=True)
class Lesion:
    """A bright ball somewhere in half of the heads.

        image = head + z c B(q, r),     class = z,     z ~ Bernoulli(1/2)

    B(q, r) is a ball with a soft surface around voxel q, which is drawn evenly from where all of the ball lies inside the
    head; radius r (voxels) and contrast c (1 is the head's 99th percentile) are drawn evenly from their spans. Truth: the
    voxels {p: B[p] > 0} where z = 1. Skin and fat are about as bright: the brightest voxel alone tells the classes apart with
    an AUROC of 0.89 (IXI, 24 voxels). But the ball has the strongest edges of most heads, so that the edge control finds it.
    """

    radius: Span = (1.75, 3.0)
    contrast: Span = (0.35, 0.6)

    name = "lesion"
    task = "classification"
    classes = ("healthy", "lesion")
    parts = ("lesion",)
    cause = ("lesion",)

    def __post_init__(self) -> None:
        check_span(self, radius=1, contrast=0.01)

    def case(self, heads: Sequence[Head], seed: int, do: Mapping[str, bool] | None = None) -> Case:
        head, draw = begin(heads, seed)
        r, c = draw.uniform(*self.radius), draw.uniform(*self.contrast)
        q = place(head.depth > r + 0.5, draw, "a lesion")
        z = decided({"lesion": bool(draw.random() < 0.5)}, do)
        planted = Planted.into(head, {"lesion": c * ball(head.size, q, r)}, z)
        label = int(z["lesion"])
        return Case(planted.image, label, self.classes[label], planted.masks, planted.truth(*self.cause), head.grid)

    def fair(self) -> Lesion:
        return self
