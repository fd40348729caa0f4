"""Small worlds in which the right answer is known, and networks with every awkward habit."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def convolution(axes: int) -> type[nn.Module]:
    return {2: nn.Conv2d, 3: nn.Conv3d}[axes]


class Linear(nn.Module):
    """f_k(x) = sum_p w_k[p] x[p]: gradient w_k, input x gradient and IG from zero w_k x."""

    def __init__(self, shape: tuple[int, ...], outputs: int = 3) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, *shape))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.flatten(1).T


class ConvNet(nn.Module):
    """conv - relu - pool - conv - relu - global mean - linear, in a chosen style of ReLU.

    relu: "module", "inplace" (nn.ReLU(inplace=True)), "functional", "functional_inplace", "method" or
    "reused" (one module used twice).
    """

    def __init__(self, axes: int, relu: str = "module", outputs: int = 4, channels: int = 1) -> None:
        super().__init__()
        conv = convolution(axes)
        self.conv1 = conv(channels, 6, 3, padding=1)
        self.conv2 = conv(6, 8, 3, padding=1)
        self.pool = {2: nn.MaxPool2d, 3: nn.MaxPool3d}[axes](2)
        self.act1 = nn.ReLU(inplace=relu == "inplace")
        self.act2 = nn.ReLU(inplace=relu == "inplace")
        self.head = nn.Linear(8, outputs)
        self.style = relu

    def _relu(self, x: Tensor, module: nn.Module) -> Tensor:
        if self.style == "functional":
            return F.relu(x)
        if self.style == "functional_inplace":
            F.relu(x, inplace=True)
            return x
        if self.style == "method":
            return x.relu()
        return (self.act1 if self.style == "reused" else module)(x)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self._relu(self.conv1(x), self.act1))
        x = self._relu(self.conv2(x), self.act2)
        return self.head(x.flatten(2).mean(-1))


RELU_STYLES = ("module", "inplace", "functional", "functional_inplace", "method", "reused")


class Returns(nn.Module):
    """Wraps a network and returns its output inside something else."""

    def __init__(self, network: nn.Module, kind: str) -> None:
        super().__init__()
        self.network = network
        self.kind = kind

    def forward(self, x: Tensor) -> object:
        output = self.network(x)
        return {"dict": {"logits": output, "features": x}, "tuple": (output, x), "list": [output, x]}[self.kind]


class Segmenter(nn.Module):
    """Two convolutions that keep the grid: output (b, classes, *grid), with batch norm and a residual."""

    def __init__(self, axes: int, classes: int = 3) -> None:
        super().__init__()
        conv, norm = convolution(axes), {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[axes]
        self.first = conv(1, 5, 3, padding=1)
        self.norm = norm(5)
        self.act = nn.ReLU(inplace=True)
        self.second = conv(5, 5, 3, padding=1)
        self.head = conv(5, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.first(x)))
        x = self.act(self.second(x) + x)
        return self.head(x)


def image(axes: int, batch: int = 2, size: int = 12, channels: int = 1, seed: int = 1) -> Tensor:
    """Random images, not cubic, so that swapped axes show."""
    shape = (size, size + 4, size - 2)[:axes]
    return torch.rand(batch, channels, *shape, generator=torch.Generator().manual_seed(seed))
