"""A convolutional network that reads measurements (volumes in mm3, thicknesses) off an image."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from radiolucent.errors import BadInput

_CONV: dict[int, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
_NORM: dict[int, type[nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_POOL: dict[int, type[nn.Module]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}


class Morphometry(nn.Module):
    """Blocks of convolution, ReLU and max-pooling, then fully connected layers: one output per measurement.

        y[k] = mean[k] + spread[k] g[k](x)

    The regressor that SMOCAM explains (Konate et al., section 2.1), after Rebsamen et al. 2020: three blocks
    and three fully connected layers. g is trained on standardised measurements; `mean` and `spread` (those of the
    training data) are buffers, so that x (b, c, *size) gives measurements (b, k) in their own units, and MSE on g is
    the mean of ((y - truth) / spread)^2. The layers with a grid are "blocks.0", "blocks.1", ...

    Args:
        outputs: number of measurements.
        size: grid of the input, 2 or 3 axes; the fully connected layers are made for it, and no other is taken.
        in_channels: channels of the input.
        channels: features of each block.
        pool: factor of each block's max-pooling, one for all or one each.
        convolutions: convolutions with ReLU in each block, one number for all or one each.
        hidden: widths of the fully connected layers before the last.
        norm: batch normalisation before each ReLU of a block; the papers name none.
        dropout: share of features dropped before each hidden fully connected layer, in training.

    Raises:
        BadInput: sizes that do not fit each other, or an input of another size.
    """

    mean: Tensor
    spread: Tensor

    def __init__(
        self,
        outputs: int,
        size: Sequence[int],
        *,
        in_channels: int = 1,
        channels: Sequence[int] = (16, 32, 64),
        pool: int | Sequence[int] = 2,
        convolutions: int | Sequence[int] = 1,
        hidden: Sequence[int] = (128, 64),
        norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        factors, depths = _each(pool, "pool", len(channels)), _each(convolutions, "convolutions", len(channels))
        cells = _cells(tuple(size), factors)
        counts = (outputs, in_channels, *depths, *channels, *hidden)
        if min(counts) < 1 or not channels or not 0 <= dropout < 1:
            raise BadInput("whole numbers above 0, and dropout from 0 to below 1", f"{counts}, dropout {dropout}", "Correct them.")
        self.size, self.in_channels = tuple(size), in_channels
        widths = [in_channels, *channels]
        self.blocks = nn.Sequential(
            *(_block(len(size), a, b, n, f, norm) for (a, b), n, f in zip(pairwise(widths), depths, factors, strict=True))
        )
        widths = [channels[-1] * cells, *hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for a, b in pairwise(widths):
            layers += [nn.Dropout(dropout), nn.Linear(a, b), nn.ReLU()]
        last = nn.Linear(widths[-1], outputs)
        self.head = nn.Sequential(*layers, last)
        self.register_buffer("mean", torch.zeros(outputs))
        self.register_buffer("spread", torch.ones(outputs))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Conv3d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        nn.init.xavier_normal_(last.weight)

    def standardise(self, truths: Tensor) -> None:
        """Take the mean and the spread (standard deviation, n - 1) of each output from training values (n, outputs)."""
        mean, spread = mean_and_spread(truths, len(self.mean))
        self.mean.copy_(mean)
        self.spread.copy_(spread)

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != (self.in_channels, *self.size):
            do = "Give it the size that it was trained on: `size` in the card's preprocessing."
            raise BadInput(f"an input (b, {self.in_channels}, {', '.join(map(str, self.size))})", f"{tuple(x.shape)}", do)
        return self.mean + self.spread * self.head(self.blocks(x))


def _each(given: int | Sequence[int], name: str, blocks: int) -> list[int]:
    """A number for every block."""
    each = [given] * blocks if isinstance(given, int) else list(given)
    if len(each) != blocks:
        raise BadInput(f"`{name}`: one number, or one for each of {blocks} blocks", f"{each}", "Correct it.")
    return each


def mean_and_spread(truths: Tensor, outputs: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (n - 1) of each output's training values (n, outputs), in double precision."""
    spread = truths.double().std(0) if len(truths) > 1 else truths.new_zeros(truths.shape[1:])
    if truths.shape[1:] != (outputs,) or not bool((torch.isfinite(spread) & (spread > 0)).all()):
        flat = (~(spread > 0)).nonzero().flatten().tolist()
        got = f"shape {tuple(truths.shape)}, without a spread: outputs {flat}"
        raise BadInput(f"finite values (n, {outputs}) that vary in every output", got, "Leave constant outputs out.")
    return truths.double().mean(0), spread


def _cells(size: tuple[int, ...], factors: list[int]) -> int:
    """How many cells are left of the grid after all pooling."""
    if len(size) not in (2, 3) or min(factors, default=0) < 1:
        raise BadInput("a size of 2 or 3 axes and pooling factors of 1 or more", f"{size} and {factors}", "Correct them.")
    cells = 1
    for n in size:
        left = n
        for factor in factors:
            left //= factor
        if left < 1:
            raise BadInput(f"a size that can be pooled by {factors}", f"{size}", "Take fewer blocks, or smaller factors.")
        cells *= left
    return cells


def _block(axes: int, a: int, b: int, convolutions: int, factor: int, norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number in range(convolutions):
        layers.append(_CONV[axes](a if number == 0 else b, b, 3, padding=1))
        layers += [_NORM[axes](b)] if norm else []
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, _POOL[axes](factor))
