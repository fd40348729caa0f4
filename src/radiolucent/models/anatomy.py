"""Convolutional networks that say which part of the body a radiograph shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from radiolucent.errors import BadInput

SHALLOW: Mapping[str, Any] = {"channels": (16, 32), "convolutions": 1, "kernel": 5, "norm": False}
"""Arguments of the shallow network: two convolutions."""

DEEPER: Mapping[str, Any] = {"channels": (16, 32, 64, 128), "convolutions": 2, "kernel": 3, "norm": True}
"""Arguments of the deeper network: eight convolutions."""

_CONV: dict[int, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
_NORM: dict[int, type[nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_POOL: dict[int, type[nn.Module]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}


class AnatomyNet(nn.Module):
    """Blocks of convolution, batch norm and ReLU with max pooling between them, a global mean, one linear layer.

        y = W mean_p A[p] + b,     A = the output of the last block

    The shallow and the deeper classifier of Kumar et al., section 2 (`AnatomyNet(4, **SHALLOW)`, `AnatomyNet(4, **DEEPER)`).
    Their sizes stand in a figure only, so these are ours, small enough for a training on two cores. Pooling is the first
    thing in each block but the first: so "blocks.0", "blocks.1", ... end in a ReLU, and the last of them is the last
    convolutional layer, on which response maps and CAMs look. Takes images of any size that the pooling leaves a cell of.

    Args:
        outputs: number of classes.
        channels: features of each block.
        convolutions: convolutions in each block.
        kernel: size of each convolution, an odd number; its padding keeps the grid.
        norm: batch normalisation before each ReLU.
        dropout: share of features dropped before the linear layer, in training.
        in_channels: channels of the image.
        axes: 2 for images, 3 for volumes.

    Raises:
        BadInput: sizes that cannot be, or an image of other channels or too small.
    """

    def __init__(
        self,
        outputs: int,
        *,
        channels: Sequence[int] = (16, 32, 64, 128),
        convolutions: int = 2,
        kernel: int = 3,
        norm: bool = True,
        dropout: float = 0.0,
        in_channels: int = 1,
        axes: int = 2,
    ) -> None:
        super().__init__()
        counts = (outputs, convolutions, kernel, in_channels, *channels)
        if not channels or min(counts) < 1 or kernel % 2 == 0 or not 0 <= dropout < 1 or axes not in _CONV:
            got = f"{counts} with dropout {dropout} and {axes} axes"
            raise BadInput("whole numbers above 0, an odd kernel, dropout from 0 to below 1, 2 or 3 axes", got, "Correct them.")
        self.in_channels, self.axes = in_channels, axes
        self.blocks = nn.Sequential()
        for number, (a, b) in enumerate(pairwise((in_channels, *channels))):
            layers: list[nn.Module] = [_POOL[axes](2)] if number else []
            for i in range(convolutions):
                layers.append(_CONV[axes](b if i else a, b, kernel, padding=kernel // 2))
                layers += [_NORM[axes](b)] if norm else []
                layers.append(nn.ReLU())
            self.blocks.append(nn.Sequential(*layers))
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(channels[-1], outputs)
        for layer in self.blocks.modules():
            if isinstance(layer, nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        least = 2 ** (len(self.blocks) - 1)
        if x.ndim != self.axes + 2 or x.shape[1] != self.in_channels or min(x.shape[2:]) < least:
            expected = f"images (b, {self.in_channels}, *grid) with {self.axes} axes of {least} or more"
            raise BadInput(expected, f"shape {tuple(x.shape)}", "Check the card's channels and size.")
        return self.head(self.drop(self.blocks(x).flatten(2).mean(2)))
