"""Targets of segmentations whose regions overlap: each channel is a yes or no of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from torch import Tensor

from radiolucent.errors import BadInput, Nothing
from radiolucent.targets.parts import called, check_range, segmentation, whole
from radiolucent.targets.region import WeightedSums, means


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Overlapping:
    """A region as one number, where each channel has a sigmoid of its own (nnU-Net's region-based training, BraTS).

        S_c = sum_v w_c[v] f_c(x)[v],     output f (b, regions, *grid), the logits before the sigmoid

    reduce="sum": w_c[v] = 1 where the unperturbed model says yes, f_c > 0, whatever the other channels say;
    "mean": the same divided by the number of those voxels;
    "probability": w_c[v] = sigmoid(f)_c[v] of the unperturbed model, at every voxel.

    As with Region, the weights are fixed before the explanation starts and do not move with the perturbed input.
    """

    channels: tuple[int, ...]
    reduce: Literal["sum", "mean", "probability"]
    weights: tuple[Tensor, ...]

    def __init__(
        self, *channels: int, reduce: Literal["sum", "mean", "probability"] = "sum", weights: tuple[Tensor, ...] = ()
    ) -> None:
        if not channels:
            raise BadInput("at least one channel", "none", "For example Overlapping(0) or Overlapping(0, 2).")
        if reduce not in ("sum", "mean", "probability"):
            raise BadInput('reduce "sum", "mean" or "probability"', repr(reduce), "Choose one of them.")
        object.__setattr__(self, "channels", whole(channels, "Overlapping"))
        object.__setattr__(self, "reduce", reduce)
        object.__setattr__(self, "weights", weights)

    def __repr__(self) -> str:
        reduce = "" if self.reduce == "sum" else f", reduce={self.reduce!r}"
        return f"Overlapping({', '.join(map(str, self.channels))}{reduce})"

    def _logits(self, output: Any) -> Tensor:
        logits = segmentation(output, repr(self))
        check_range(self.channels, logits.shape[1], repr(self))
        return logits

    def __call__(self, output: Any) -> Tensor:
        logits = self._logits(output)
        if not self.weights:
            raise BadInput(
                "regions whose voxels are fixed before the explanation starts",
                f"{self!r}, which has none yet",
                "Call `targets = targets.fix(model(x))` first; explain() does.",
            )
        return WeightedSums.apply(logits, self.channels, list(self.weights))

    def names(self, classes: Sequence[str] = ()) -> tuple[str, ...]:
        return tuple(called(i, classes, "region") for i in self.channels)

    def fix(self, output: Any) -> Self:
        """Decide the weights from the unperturbed `output`; a region without a voxel is an error."""
        logits = self._logits(output).detach()
        chosen = [logits[:, c] for c in self.channels]
        if self.reduce == "probability":
            return type(self)(*self.channels, reduce=self.reduce, weights=tuple(f.sigmoid() for f in chosen))
        inside = [f > 0 for f in chosen]
        empty = [c for c, w in zip(self.channels, inside, strict=True) if not w.flatten(1).any(1).all()]
        if empty:
            raise Nothing(
                "at least one voxel in each target region",
                f"none for region {', '.join(map(str, empty))}",
                "The model predicts no such voxel here: leave the region out.",
            )
        return type(self)(*self.channels, reduce=self.reduce, weights=tuple(means(inside) if self.reduce == "mean" else inside))

    def adds_up(self, grid: Sequence[int]) -> bool:
        """Whether the weights are fixed, on this grid: S is then a sum over voxels, and over windows."""
        return bool(self.weights) and tuple(self.weights[0].shape[1:]) == tuple(grid)

    def within(self, where: tuple[slice, ...], factor: Tensor) -> tuple[Self, tuple[int, ...]]:
        """S on the part `where` of the grid with weights w_c * factor, and the numbers of the regions with weight there."""
        index: tuple[Any, ...] = (..., *where)
        cut = tuple(w[index] * factor for w in self.weights)
        return type(self)(*self.channels, reduce=self.reduce, weights=cut), tuple(t for t, w in enumerate(cut) if w.any())
