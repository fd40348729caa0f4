"""Where the cells are in a layer's output: channels first, channels last, or tokens in a row."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor, nn

from radiolucent.errors import BadInput

_EXTRA = 9
"""The most tokens in front that are no cells: a class token and eight registers."""

_UNEVEN = 1.5
"""Strides of a channels-last layer differ by no more than this factor, which padding may cause."""

_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)
_LAST = (nn.Linear, nn.LayerNorm)


@dataclass(frozen=True)
class Form:
    """How an output (b, ...) holds (b, c, *cells): what `restore` must move, and nothing else.

    kind: "channels first" (b, c, *cells), "channels last" (b, *cells, c), "tokens" (b, extra + n, c) or
    "tokens last" (b, c, extra + n), where n = the product of the cells, in row-major order.
    in_slices: b holds slices too, the first axis of the cells, and the rest is about the others.
    """

    kind: str
    cells: tuple[int, ...]
    extra: int = 0
    in_slices: bool = False

    def restore(self, values: Tensor) -> Tensor:
        """The output, or its gradient, as (b, c, *cells); class and register tokens are left out."""
        if self.in_slices:
            slices = Form(self.kind, self.cells[1:], self.extra).restore(values)
            return slices.unflatten(0, (-1, self.cells[0])).transpose(1, 2)
        if self.kind == "channels first":
            return values
        if self.kind == "channels last":
            return values.movedim(-1, 1)
        values = values.transpose(1, 2) if self.kind == "tokens" else values
        return values[:, :, self.extra :].unflatten(2, self.cells)

    def weighted(self, values: Tensor, mask: Tensor) -> Tensor:
        """The output with each cell times its number in the mask (b, 1, *cells); class and register tokens stay as they are."""
        mask = mask.to(values.dtype)
        if self.kind == "channels first":
            return values * mask
        if self.kind == "channels last":
            return values * mask.movedim(1, -1)
        mask = torch.nn.functional.pad(mask.flatten(2), (self.extra, 0), value=1.0)
        return values * (mask.transpose(1, 2) if self.kind == "tokens" else mask)


def form_of(model: nn.Module, name: str, output: Tensor, image: Sequence[int]) -> Form | None:
    """The form of a layer's output for an image (b, c, *grid); None where it has no cells of this image.

    Shapes that can be read in two ways are decided by what the layer, or the block around it, is made of.
    """
    if len(image) == 5 and output.ndim and _in_slices(model, name):
        if len(output) != image[0] * image[2]:
            return None
        each = _form_of(model, name, output, (len(output), image[1], *image[3:]))
        return each and Form(each.kind, (image[2], *each.cells), each.extra, in_slices=True)
    return _form_of(model, name, output, image)


def _in_slices(model: nn.Module, name: str) -> bool:
    """Whether a module around the layer says that it folds the slices of a volume into the batch."""
    parts = name.partition("#")[0].split(".") if name else []
    around = (model.get_submodule(".".join(parts[:depth])) for depth in range(len(parts)))
    return any(getattr(module, "folds_slices", False) is True for module in around)


def _form_of(model: nn.Module, name: str, output: Tensor, image: Sequence[int]) -> Form | None:
    if output.ndim < len(image) == 5 and nn.Conv2d in (kinds := {type(m) for m in model.modules()}) and nn.Conv3d not in kinds:
        return None  # 2.5D: the rows are slices
    is_turned = output.ndim > 3 and output.stride(1) == 1 < output.shape[1]  # a view with the channels moved to the front
    last = None if is_turned or output.ndim != len(image) else _channels_last(model, name)
    found = form(output.shape, image, channels_last=last)
    if name and last and found and found.kind == "channels first" and output.ndim == 4 and output.shape[2] == output.shape[3]:
        layer = model.get_submodule(name.partition("#")[0])
        if not any(True for _ in layer.parameters()):
            return None  # in a block of tokens this is no grid but an attention matrix (b, heads, queries, keys)
    return found


def form(shape: Sequence[int], image: Sequence[int], channels_last: bool | None = None) -> Form | None:
    """The form that a shape has for an image of shape (b, c, *grid), or None.

    Channels-first wins where it fits. Channels-last needs strides that are equal, or nearly. Tokens must
    cover the grid in patches: equal along all axes, or else as nearly equal as their number allows.
    `channels_last` says what the layer is known to be, where its shape leaves it open.
    """
    grid = tuple(image[2:])
    if len(shape) < 3 or shape[0] != image[0]:
        return None
    if len(shape) == len(image):
        first, last = tuple(shape[2:]), tuple(shape[1:-1])
        fits_last = len(grid) > 1 and all(c <= g for c, g in zip(last, grid, strict=True)) and _unevenness(last, grid) <= _UNEVEN
        better = _unevenness(last, grid) < _unevenness(first, grid) * (1 - 1e-9)
        same = math.isclose(_unevenness(last, grid), _unevenness(first, grid))
        is_last = fits_last and channels_last is not False and (better or (same and channels_last is True))
        cells, kind = (last, "channels last") if is_last else (first, "channels first")
        return Form(kind, cells) if math.prod(cells) > 1 else None
    return _tokens(tuple(shape), grid) if len(shape) == 3 and len(grid) > 1 else None


@lru_cache(maxsize=256)  # all layers of a transformer have the same few shapes
def _tokens(shape: tuple[int, ...], grid: tuple[int, ...]) -> Form | None:
    found = []
    for axis, kind in ((1, "tokens"), (2, "tokens last")):
        for rank, cells, extra in _patches(shape[axis], grid):
            found.append((rank, axis, Form(kind, cells, extra)))
    # Before the number of tokens in front, the axis: a width may by chance be a number of patches, too.
    ranked = [((rank[0], axis, *rank[1:]), f) for rank, axis, f in found]
    best = [f for rank, f in ranked if rank == min(r for r, _ in ranked)]
    if len(best) > 1:
        ways = " or ".join(" x ".join(map(str, f.cells)) for f in best)
        raise BadInput(
            f"tokens that cover the grid {grid} in one way only",
            f"shape {tuple(shape)}, which may be {ways} cells",
            "Choose a layer with a grid of its own, for example the convolution that makes the patches.",
        )
    return best[0] if best else None


def _patches(tokens: int, grid: tuple[int, ...]) -> list[tuple[tuple[float, ...], tuple[int, ...], int]]:
    """(rank, cells, tokens in front) of each way to cover the grid with `tokens`; the lowest rank is the best.

    First patches of one size that divide the grid, then unequal ones, then equal ones with a rest at the edge.
    """
    found = []
    sizes = range(1, max(grid) + 1)
    for size in sizes:
        cells = tuple(g // size for g in grid)
        extra = tokens - math.prod(cells)
        divides = all(g % size == 0 for g in grid)
        if math.prod(cells) > 1 and 0 <= extra <= (_EXTRA if divides else 1):
            found.append(((0.0 if divides else 2.0, float(extra), 1.0), cells, extra))
    if not any(rank[0] == 0 for rank, _, _ in found):
        for extra in (0, 1):
            for cells in product(*([c for c in range(1, g + 1) if g % c == 0 and (tokens - extra) % c == 0] for g in grid)):
                uneven = _unevenness(cells, grid)
                if math.prod(cells) == tokens - extra > 1 and uneven <= 4:
                    found.append(((1.0, float(extra), round(uneven, 9)), cells, extra))
    return list({(rank, cells): (rank, cells, extra) for rank, cells, extra in found}.values())


def _unevenness(cells: Sequence[int], grid: Sequence[int]) -> float:
    """The largest stride over the smallest: 1 for cells in the image's aspect."""
    strides = [g / max(c, 1) for c, g in zip(cells, grid, strict=True)]
    return max(strides) / min(strides)


def _channels_last(model: nn.Module, name: str) -> bool | None:
    """Whether the layer is made of layers with the channels last, else the nearest one before it in its block, or around it."""
    name = name.partition("#")[0]
    if not name:
        return None  # the input
    told = _tells(model.get_submodule(name).modules())
    while told is None and name:
        name, _, own = name.rpartition(".")
        block = model.get_submodule(name)
        names = [child for child, _ in block.named_children()]
        for before in reversed(names[: names.index(own)] if own in names else []):
            told = _tells(reversed(list(block.get_submodule(before).modules())))
            if told is not None:
                return told
        told = _tells(block.modules())
    return told


def _tells(modules: Iterable[nn.Module]) -> bool | None:
    """What the first of the modules that tells says: are its channels last?"""
    return next((isinstance(m, _LAST) for m in modules if isinstance(m, (*_FIRST, *_LAST))), None)
