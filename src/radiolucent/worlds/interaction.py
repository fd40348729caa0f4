"""Two lesions, one in each half of the head: the class is there only with both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from radiolucent.worlds.heads import Head
from radiolucent.worlds.planting import Case, Planted, Span, ball, begin, check_span, decided, place


@dataclass(frozen=True)
class Interaction:
    """A ball in the left half, a ball in the right half, and a class that needs both.

        image = head + a c1 B(q1, r1) + b c2 B(q2, r2),     class = a b
        (a, b) = (1, 1) in one half of the cases, (0, 0), (0, 1) and (1, 0) in a sixth each

    B as in `Lesion`; q1 lies in the grid's left half, q2 in its right one, and the balls stay there. Neither ball tells the
    class: with one alone it is the other class. Truth: both balls, where both are there.
    """

    radius: Span = (1.75, 2.5)
    contrast: Span = (0.35, 0.6)

    name = "interaction"
    task = "classification"
    classes = ("not both", "both")
    parts = ("left-ball", "right-ball")
    cause = parts

    def __post_init__(self) -> None:
        check_span(self, radius=1, contrast=0.01)

    def case(self, heads: Sequence[Head], seed: int, do: Mapping[str, bool] | None = None) -> Case:
        head, draw = begin(heads, seed)
        middle = (head.size - 1) / 2
        x = np.arange(head.size)[:, None, None]
        parts = {}
        for name, half, side in zip(self.parts, ("left", "right"), (middle - x, x - middle), strict=True):
            r, c = draw.uniform(*self.radius), draw.uniform(*self.contrast)
            q = place((head.depth > r + 0.5) & (side > r + 0.5), draw, f"a lesion in the {half} half")
            parts[name] = c * ball(head.size, q, r)
        chance = draw.random()
        a, b = (True, True) if chance < 0.5 else divmod(int((chance - 0.5) * 6), 2)
        z = decided(dict(zip(self.parts, (bool(a), bool(b)), strict=True)), do)
        planted = Planted.into(head, parts, z)
        label = int(all(z.values()))
        truth = planted.truth(*self.cause) & bool(label)
        return Case(planted.image, label, self.classes[label], planted.masks, truth, head.grid)

    def fair(self) -> Interaction:
        return self
