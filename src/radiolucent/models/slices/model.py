"""A 3D classifier or regressor made of a 2D network: the features of all slices, pooled into one vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from radiolucent.errors import BadInput
from radiolucent.models.slices.chunks import in_chunks
from radiolucent.models.slices.encoders import build_encoder, extractor
from radiolucent.models.slices.heads import head
from radiolucent.models.slices.poolings import build_pooling
from radiolucent.slicing import AXES

STEMS = ("repeat", "adapted")


class SliceModel(nn.Module):
    """Slices along several axes through one 2D network, pooled (Ziller et al., "Interpretable 2D vision models for 3D
    medical images", section 2).

        y = head(pooling({encoder(x[slice s]): all slices s of all `axes`}))

    x (b, channels, i, j, k) gives (b, outputs). With attention or gated pooling each slice has a weight; all weights
    of a head sum to 1 over the slices of all axes together. Axes may differ in length. Slices come in the order of
    `axes`, each from 0. "encoder" is the 2D network; through the layer "stack" go the features of all slices (b, slices,
    width), and through "pooling.weights" the weights (b, heads, slices).

    While the encoder is frozen (`model.encoder.requires_grad_(False)`), `train()` leaves it in eval mode, so that
    `features` of an image stay what they are and can be made once: model(x) = model.from_features(model.features(x)).

    Args:
        encoder: a 2D network (of which a copy is made), or the name of one, "monai:resnet18" (see `build_encoder`).
            Its last linear layer is left out, if its output is the network's own.
        pooling: attention, gated, mean, max, lstm, transformer, or a module (features, mask) -> (b, width) with
            an attribute `width`.
        outputs: number of classes, labels or measurements.
        task: classification or multi-label (logits), or regression (measurements, standardised by `head.standardise`).
        axes: the axes of x that slices are cut across.
        channels: of x. A single one goes into all channels of the encoder, as in the paper.
        stem: "adapted" changes the encoder's first convolution to take `channels` instead (for one, its weights are
            added up, which gives the same features for less work).
        size: (h, w) that slices are resized to (bilinear); None takes them as they are.
        width: project features to this width first, by a layer norm and a linear layer; 0 does not.
        chunk: slices at once through the encoder; 0: all of an axis. In training, batch norm sees a chunk.
        checkpoint: in training, make the encoder's activations again in the backward pass instead of keeping them.
        draw: in training, so many slices of each volume, drawn anew at each step, stand for all of them: the work shrinks
            with their number, and none can be relied on. 0: all. `features` are always of all slices.
        keep_head: the encoder's last linear layer belongs to its features.
        encoder_arguments, pooling_arguments: for those that are named.

    Raises:
        BadInput: an encoder that gives no features, channels or sizes that do not fit.
    """

    behind_features = ("pooling", "pooling_arguments", "outputs", "task", "width", "draw")
    """The arguments that `features` do not depend on."""

    def __init__(
        self,
        encoder: nn.Module | str,
        pooling: nn.Module | str = "attention",
        *,
        outputs: int = 2,
        task: str = "classification",
        axes: Sequence[str] = AXES,
        channels: int = 1,
        stem: str = "repeat",
        size: Sequence[int] | None = None,
        width: int = 0,
        chunk: int = 0,
        checkpoint: bool = False,
        draw: int = 0,
        keep_head: bool = False,
        encoder_arguments: Mapping[str, Any] | None = None,
        pooling_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_settings(axes, channels, stem, size, (width, chunk, draw))
        network = build_encoder(encoder, encoder_arguments) if isinstance(encoder, str) else encoder
        self.axes, self.channels = tuple(axes), channels
        self.size = None if size is None else (int(size[0]), int(size[1]))
        self.chunk, self.checkpoint, self.draw = chunk, checkpoint, draw
        self.encoder, self.encoder_channels, self.encoder_width = extractor(network, channels, stem, self.size, keep_head)
        self.stack = nn.Identity()
        self.reduce = nn.Sequential(nn.LayerNorm(self.encoder_width), nn.Linear(self.encoder_width, width)) if width else None
        made = (
            build_pooling(pooling, width or self.encoder_width, dict(pooling_arguments or {}))
            if isinstance(pooling, str)
            else pooling
        )
        self.pooling = made
        self.head = head(task, int(made.width), outputs)  # type: ignore[arg-type]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        mask = self._drawn(x, mask) if self.training and self.draw else mask
        return self._pooled(self.features(x, mask), mask)

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The encoder's features of all slices (b, slices, width); 0 where the mask (b, slices) says padding."""
        if x.ndim != 5 or x.shape[1] != self.channels:
            do = "A 2D image has no slices: explain or train the encoder itself." if x.ndim == 4 else "Check axes and channels."
            raise BadInput(f"volumes (b, {self.channels}, i, j, k)", f"shape {tuple(x.shape)}", do)
        places = [AXES.index(axis) + 2 for axis in self.axes]
        masks = [None] * len(places) if mask is None else self._checked(mask, x).split([x.shape[p] for p in places], 1)
        return torch.cat([self._along(x.movedim(p, 1), m) for p, m in zip(places, masks, strict=True)], 1)

    def from_features(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """The outputs (b, outputs) from what `features` gave."""
        if self.training and self.draw:
            places = self._places(features[..., 0], mask)
            features = features.gather(1, places[..., None].expand(-1, -1, features.shape[-1]))
            mask = None if mask is None else mask.gather(1, places)
        return self._pooled(features, mask)

    def _pooled(self, features: Tensor, mask: Tensor | None) -> Tensor:
        features = self.stack(features)
        return self.head(self.pooling(features if self.reduce is None else self.reduce(features), mask))

    def train(self, mode: bool = True) -> Self:
        """As for any module, but a frozen encoder stays in eval mode: its batch norm must not move either."""
        super().train(mode)
        return frozen_in_eval(self)

    def _along(self, slices: Tensor, mask: Tensor | None) -> Tensor:
        """Features (b, n, width) of slices (b, n, c, h, w); those that are padding are not encoded."""
        again = self.encoder if self.checkpoint and self.training else None
        if mask is None or mask.all():
            return in_chunks(self._encode, slices.flatten(0, 1), self.chunk, again).unflatten(0, slices.shape[:2])
        encoded = (
            in_chunks(self._encode, slices[mask], self.chunk, again) if mask.any() else slices.new_zeros(0, self.encoder_width)
        )
        return encoded.new_zeros(*slices.shape[:2], self.encoder_width).masked_scatter(mask[..., None], encoded)

    def prepare(self, slices: Tensor) -> Tensor:
        """Slices (n, c, h, w) as the encoder takes them: resized, grey in all of its channels; channels last, the faster layout."""
        if self.size is not None and self.size != tuple(slices.shape[2:]):
            slices = F.interpolate(slices, self.size, mode="bilinear", align_corners=False)
        slices = slices if slices.shape[1] == self.encoder_channels else slices.expand(-1, self.encoder_channels, -1, -1)
        return slices.contiguous(memory_format=torch.channels_last)

    def _encode(self, slices: Tensor) -> Tensor:
        features = self.encoder(self.prepare(slices))
        return features if features.ndim == 2 else features.flatten(2).mean(-1)

    def _drawn(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """A mask of the slices that stand for all in this step."""
        slices = x.new_zeros(len(x), sum(x.shape[AXES.index(axis) + 2] for axis in self.axes))
        places = self._places(slices, None if mask is None else self._checked(mask, x))
        drawn = torch.zeros_like(slices, dtype=torch.bool).scatter(1, places, True)
        return drawn if mask is None else drawn & mask

    def _places(self, slices: Tensor, mask: Tensor | None) -> Tensor:
        """`draw` of the slices (b, n) of each volume, in their order; padding only where there are not so many others."""
        rank = torch.rand(slices.shape, device=slices.device)
        if mask is not None:
            rank = rank.masked_fill(~mask, 2.0)
        return rank.argsort(1)[:, : self.draw].sort(1).values

    def _checked(self, mask: Tensor, x: Tensor) -> Tensor:
        count = sum(x.shape[AXES.index(axis) + 2] for axis in self.axes)
        if mask.shape != (len(x), count) or mask.dtype != torch.bool or not bool(mask.any(1).all()):
            got = f"{mask.dtype}, shape {tuple(mask.shape)}"
            do = "slice_mask(sizes, grid, axes) makes one; each volume needs a slice that is there."
            raise BadInput(f"a slice mask of bool, shape {(len(x), count)}, True where a slice is there", got, do)
        return mask


def slice_mask(sizes: Tensor, grid: Sequence[int], axes: Sequence[str] = AXES) -> Tensor:
    """(b, slices), True at those that are there, for volumes of sizes (b, 3) padded at their ends to `grid`."""
    each = [torch.arange(grid[AXES.index(a)], device=sizes.device) < sizes[:, AXES.index(a), None] for a in axes]
    return torch.cat(each, 1)


def check_settings(axes: Sequence[str], channels: int, stem: str, size: Sequence[int] | None, counts: Sequence[int]) -> None:
    """Refuse what no model can be made of."""
    if not axes or isinstance(axes, str) or len(set(axes)) < len(axes) or not set(axes) <= set(AXES):
        raise BadInput(f"axes among {', '.join(AXES)}, each once", repr(axes), 'For example axes=["k"].')
    if stem not in STEMS:
        raise BadInput(f"a stem among {', '.join(STEMS)}", repr(stem), "Choose one of them.")
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise BadInput("a size (h, w) of slices", repr(size), "Two whole numbers above 0, or none.")
    if channels < 1 or min(counts) < 0:
        raise BadInput("channels above 0; width, chunk and draw from 0", f"{channels} and {tuple(counts)}", "Correct them.")


def frozen_in_eval(model: Any) -> Any:
    """The model, its encoder in eval mode if none of its weights is trained."""
    if model.training and not any(p.requires_grad for p in model.encoder.parameters()):
        model.encoder.eval()
    return model
