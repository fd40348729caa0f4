"""The model that predicts in windows, and its backward pass, which predicts them again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from radiolucent.errors import BadInput
from radiolucent.geometry import upsample
from radiolucent.hooks import InParts, Moment, Sharing, mixes_items
from radiolucent.tiling.layout import Layout, Piece, Where, all_of, per_axis, rolling

BLENDS = ("constant", "gaussian", "nnunet")
PADDINGS = ("constant", "reflect", "replicate", "circular")


class Tiled(InParts):
    """A segmentation model that is run on overlapping windows, whose outputs are blended.

        f(x)[v] = sum_w g_w[v] f_w(x[w])[v] / sum_w g_w[v]

    with g_w = 1 (blend="constant"), or a Gaussian of sigma = window / 8 in the middle of the window, nowhere below
    1/1000 ("gaussian"). Same windows and same result as MONAI's sliding_window_inference.

    Args:
        model: gives (b, c, *window) for (b, channels, *window), or a dict, tuple or list of such tensors.
        window: voxels, one number for all axes or one for each.
        overlap: share of a window that lies in the next one, for all axes or for each.
        blend: "constant", "gaussian", or "nnunet": windows in equal steps, a Gaussian around voxel window // 2 without
            that bound, as nnU-Net has them.
        padding: how an image that is smaller than the window is filled up: constant (with `value`), reflect, replicate
            or circular.
        batch: windows in one forward pass.

    The result is differentiable. The backward pass predicts those windows again, one after the other, whose output has
    a gradient: its memory is that of one window's graph and of tensors of the image's size. It does so under the
    function modes, autocast settings and random numbers of the forward pass.

    It shares the model's parts, names, mode and weights; its layers are those of the model on one window.
    """

    settings: dict[str, Any]
    batch: int

    def __init__(
        self,
        model: nn.Module,
        window: int | Sequence[int],
        overlap: float | Sequence[float] = 0.25,
        blend: str = "constant",
        padding: str = "constant",
        value: float = 0.0,
        batch: int = 1,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise BadInput("a PyTorch model to run in windows", type(model).__name__, "Give the nn.Module itself.")
        if not all(isinstance(w, int) and not isinstance(w, bool) and w >= 1 for w in all_of(window)):
            raise BadInput("a window of whole numbers >= 1", repr(window), "For example 96, or (96, 96, 64).")
        if not all(isinstance(o, (int, float)) and 0 <= o < 1 for o in all_of(overlap)):
            raise BadInput("an overlap from 0 to below 1", repr(overlap), "0.25 and 0.5 are usual.")
        for name, chosen, known in (("blend", blend, BLENDS), ("padding", padding, PADDINGS)):
            if chosen not in known:
                raise BadInput(f"{name} among {', '.join(known)}", repr(chosen), "Choose one of them.")
        if not isinstance(batch, int) or batch < 1:
            raise BadInput("batch >= 1 windows", repr(batch), "1 needs the least memory.")
        settings = {"window": window, "overlap": overlap, "blend": blend, "padding": padding, "value": value, "batch": batch}
        if isinstance(model, torch.jit.ScriptModule):
            model = nn.Sequential(model)  # it keeps its own parts where they cannot be shared
        super().__init__(model, settings=settings, batch=batch)

    def around(self, wrap: Callable[[nn.Module], nn.Module]) -> Tiled:
        """The same windows on what `wrap` makes of the model."""
        return Tiled(wrap(self._guest), **self.settings)

    def is_whole(self, shape: Sequence[int]) -> bool:
        return tuple(shape[2:]) == per_axis("window", self.settings["window"], shape[2:])

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.settings.items())

    def pieces(self, x: Tensor) -> Iterator[Piece]:
        """The windows of images (b, channels, *grid), the last axis fastest."""
        return Layout(self.settings, x).pieces()

    def bands(self, x: Tensor) -> Iterator[Piece]:
        """The windows that start together along the first axis as one piece, a band across the image."""
        return Layout(self.settings, x).bands()

    def on_window(self, x: Tensor) -> OnWindow:
        """The model as it sees one piece of the images x."""
        return OnWindow(self._guest, Layout(self.settings, x), self.settings)

    def first_part(self, x: Tensor) -> Tensor:
        return self.on_window(x).padded(next(self.pieces(x)).of(x))

    def groups(self, pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
        """As many at a time as go into one forward pass."""
        pieces, size = iter(pieces), 1 if mixes_items(self) else self.batch
        while group := list(islice(pieces, size)):
            yield group

    def slabs(self, x: Tensor) -> Iterator[tuple[Where, Any]]:
        """The output, slab by slab along the first axis with its place: never more at a time than one window's height."""
        forms: list[Any] = []

        def output(band: Piece) -> list[Tensor]:
            leaves, form = pytree.tree_flatten(self(band.of(x)))
            forms.append(form)
            return [leaf * band.weights for leaf in leaves]

        for where, leaves in rolling(self.bands(x), output):
            yield where, pytree.tree_unflatten(leaves, forms[-1])

    def forward(self, x: Tensor) -> Any:
        if self.is_whole(x.shape):
            return self._guest(x)
        weights = [p for p in self.parameters() if p.requires_grad]
        if not torch.is_grad_enabled() or not (x.requires_grad or weights):
            leaves, form = self._blended(x)
        else:
            made: list[Any] = []
            leaves, form = _Recomputed.apply(self, made, x, *weights), made[0]
        return pytree.tree_unflatten(list(leaves), form)

    def _blended(self, x: Tensor, moments: list[Moment] | None = None) -> tuple[list[Tensor], Any]:
        """The leaves of the output, and how they make it up; a note in `moments` on what each group ran under."""
        part = self.on_window(x)
        total: list[Tensor] = []
        for group in self.groups(self.pieces(x)):
            if moments is not None:
                moments.append(Moment(x))
            leaves, form = part.leaves(torch.cat([piece.of(x) for piece in group]))
            if not total:
                total = [_wide(leaf).new_zeros(len(x), leaf.shape[1], *x.shape[2:]) for leaf in leaves]
            for whole, leaf in zip(total, leaves, strict=True):
                for piece, found in zip(group, leaf.unflatten(0, (len(group), len(x))), strict=True):
                    piece.of(whole).add_(found * piece.weights)
        return [t.to(torch.promote_types(leaf.dtype, x.dtype)) for t, leaf in zip(total, leaves, strict=True)], form


def untiled(model: nn.Module) -> nn.Module:
    """The model on one window, of one that is tiled."""
    return model._guest if isinstance(model, Tiled) else model


class OnWindow(Sharing):
    """A model on one window: takes a piece of an image after `padded`, and gives its output for the piece alone."""

    _layout: Layout
    _settings: dict[str, Any]

    def __init__(self, model: nn.Module, layout: Layout, settings: dict[str, Any]) -> None:
        super().__init__(model, _layout=layout, _settings=settings)

    def padded(self, x: Tensor) -> Tensor:
        """A piece of an image, filled up to the window where the image is smaller."""
        if not any(self._layout.pads):
            return x.clone()  # some models overwrite their input
        mode, value = self._settings["padding"], self._settings["value"]
        try:
            return F.pad(x, self._layout.pads, mode, value if mode == "constant" else None)
        except RuntimeError as error:
            expected, got = f"an image that padding={mode!r} can fill up to the window", str(error).split("\n")[0]
            raise BadInput(expected, got, 'Choose a smaller window, or padding="constant".') from None

    def unpadded(self, gradient: Tensor, piece: Tensor) -> Tensor:
        """The gradient at a piece of an image, from that at what `padded` made of it."""
        if not any(self._layout.pads):
            return gradient
        with torch.enable_grad():
            start = torch.zeros_like(piece, dtype=gradient.dtype).requires_grad_()
            return torch.autograd.grad(self.padded(start), start, gradient)[0]

    def placed(self, relevance: Tensor) -> Tensor:
        """A map of the window (b, c, *cells), interpolated, on the piece of the image."""
        return upsample(relevance[None], self._layout.window)[0][self._layout.crop]

    def forward(self, x: Tensor) -> Any:
        def cropped(leaf: Any) -> Tensor:
            if not isinstance(leaf, Tensor) or leaf.shape[2:] != x.shape[2:] or len(leaf) != len(x) or not leaf.is_floating_point():
                got = f"{leaf.dtype} of shape {tuple(leaf.shape)}" if isinstance(leaf, Tensor) else type(leaf).__name__
                expected = f"an output of logits (batch, classes, *window) = ({len(x)}, c, {', '.join(map(str, x.shape[2:]))})"
                raise BadInput(expected, got, "Windows are blended voxel by voxel: let the model give such tensors only.")
            return leaf[self._layout.crop]

        return pytree.tree_map(cropped, self._guest(x))

    def leaves(self, x: Tensor) -> tuple[list[Tensor], Any]:
        """The tensors of the output for pieces of images, and how they make it up."""
        return pytree.tree_flatten(self(self.padded(x)))


class _Recomputed(torch.autograd.Function):
    """The blended output of all windows, of which nothing but the image is kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, tiled: Tiled, made: list[Any], x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.tiled, ctx.moments = tiled, []
        ctx.save_for_backward(x, *weights)
        ctx.set_materialize_grads(False)
        leaves, form = tiled._blended(x, ctx.moments)
        made.append(form)
        return tuple(leaves)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        tiled, (x, *weights) = ctx.tiled, ctx.saved_tensors
        part = tiled.on_window(x)
        total = torch.zeros_like(x) if ctx.needs_input_grad[2] else None
        sums = [torch.zeros_like(weight) for weight in weights]
        for group, moment in zip(tiled.groups(tiled.pieces(x)), ctx.moments, strict=True):
            arriving = [None if g is None else torch.cat([p.of(g) * p.weights for p in group]) for g in gradients]
            if not any(g is not None and g.any() for g in arriving):
                continue
            windows = torch.cat([piece.of(x) for piece in group]).requires_grad_(total is not None)
            at_windows, *at_weights = _gradients(part, moment, windows, weights, arriving)
            for whole, gradient in zip(sums, at_weights, strict=True):
                if gradient is not None:
                    whole += gradient
            if total is not None and at_windows is not None:
                for piece, gradient in zip(group, at_windows.unflatten(0, (len(group), len(x))), strict=True):
                    piece.of(total).add_(gradient)
        return None, None, total, *sums


def _gradients(
    part: OnWindow, moment: Moment, windows: Tensor, weights: list[Tensor], arriving: list[Tensor | None]
) -> list[Tensor | None]:
    """The gradients at windows and weights, from those that arrive at the output's leaves. The graph ends with this call."""
    with moment.again(), torch.enable_grad():
        leaves, _ = part.leaves(windows)
    ends = [(leaf, g.to(leaf.dtype)) for leaf, g in zip(leaves, arriving, strict=True) if g is not None and leaf.requires_grad]
    starts = [windows, *weights] if windows.requires_grad else weights
    found = torch.autograd.grad([leaf for leaf, _ in ends], starts, [g for _, g in ends], allow_unused=True)
    return [*found] if windows.requires_grad else [None, *found]


def _wide(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
