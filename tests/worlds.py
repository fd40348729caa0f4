"""Small worlds in which the right answer is known, and networks with every awkward habit."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

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


def segmenter(axes: int, x: Tensor, classes: int = 3) -> Segmenter:
    """A Segmenter that gives each class some voxels of x, with batch norm statistics of its own."""
    net = Segmenter(axes, classes).eval()
    with torch.no_grad():
        net.norm.running_mean.uniform_(-0.2, 0.2)
        net.norm.running_var.uniform_(0.5, 2.0)
        net.norm.bias.uniform_(-0.2, 0.2)
        net.head.weight.mul_(3)
        net.head.bias -= net(x).movedim(1, 0).flatten(1).median(1).values
        assert all((net(x).argmax(1) == c).flatten(1).any(1).all() for c in range(classes))
    return net


class ByHand:
    """A ConvNet taken apart: the value A after each of its steps, and S as a function of A, without any hook."""

    def __init__(self, net: ConvNet) -> None:
        self.net = net
        relu = torch.relu
        self.steps = {
            "conv1": net.conv1,
            "relu1": relu,
            "pool": net.pool,
            "conv2": net.conv2,
            "relu2": relu,
        }

    def split(self, x: Tensor, place: str, output: int) -> tuple[Tensor, Tensor]:
        """(A, dS/dA) at the place for each batch item."""
        names = list(self.steps)
        with torch.no_grad():
            for name in names[: names.index(place) + 1]:
                x = self.steps[name](x)
        A = x.requires_grad_()
        x = A.clone()
        for name in names[names.index(place) + 1 :]:
            x = self.steps[name](x)
        S = self.net.head(x.flatten(2).mean(-1))[:, output]
        return A.detach(), torch.autograd.grad(S.sum(), A)[0]


class Bright(nn.Module):
    """f_0 = sum of relu(x - threshold), f_1 = -f_0: relevant is every voxel above the threshold, and nothing else."""

    def __init__(self, axes: int, channels: int = 1, threshold: float = 0.5) -> None:
        super().__init__()
        self.above = convolution(axes)(channels, 1, 1)
        nn.init.ones_(self.above.weight)
        nn.init.constant_(self.above.bias, -threshold)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        score = self.act(self.above(x)).flatten(1).sum(1)
        return torch.stack([score, -score], 1)


class Spy(nn.Module):
    """The identity times a weight of 1; notes of which of the two a gradient was wanted."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.wanted: list[tuple[bool, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        return _Spy.apply(x, self.weight, self.wanted)


class _Spy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, wanted):
        wanted.append(ctx.needs_input_grad[:2])
        return x * weight

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None, None


class Breaks(nn.Module):
    """Raises in the explained pass only, since a plain look passes: where = "forward", "backward" or "again" (its second call).

    `raised` says whether it did.
    """

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        self.calls = 0
        self.raised = False

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if (self.where == "forward" and torch.is_grad_enabled()) or (self.where == "again" and self.calls == 2):
            self.raised = True
            raise RuntimeError("the model broke")
        return _BreaksBackward.apply(x, self) if self.where == "backward" else x.clone()


class _BreaksBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, owner):
        ctx.owner = owner
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.owner.raised = True
        raise RuntimeError("the model broke")


class Mean(nn.Module):
    """Global average."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(-1)


def classifier(axes: int, outputs: int = 4) -> nn.Sequential:
    """Batch norm and dropout too, whose train mode shows: layers "0" to "8"."""
    conv, norm = convolution(axes), {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[axes]
    pool = {2: nn.MaxPool2d, 3: nn.MaxPool3d}[axes](2)
    first = [conv(1, 6, 3, padding=1), norm(6), nn.ReLU(inplace=True), nn.Dropout(0.5), pool]
    return nn.Sequential(*first, conv(6, 8, 3, padding=1), nn.ReLU(), Mean(), nn.Linear(8, outputs))


class Spread(nn.Module):
    """A classifier's scores at every voxel, brighter where the image is: a segmentation that sees slices only."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)[:, :, None, None, None] * (1 + x)


STYLES = ("explicit", "scaled dot product", "multihead", "encoder layer")


class Attention(nn.Module):
    """Self-attention of two heads, written in one of three ways."""

    def __init__(self, width: int, style: str) -> None:
        super().__init__()
        self.style = style
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.drop = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "multihead":
            weights = self.qkv.weight, self.qkv.bias, None, None, False, 0.0, self.out.weight, self.out.bias
            x = x.transpose(0, 1)
            return F.multi_head_attention_forward(x, x, x, x.shape[2], 2, *weights, need_weights=False)[0].transpose(0, 1)
        q, k, v = self.qkv(x).unflatten(2, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        if self.style == "explicit":
            y = self.drop((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Norm - attention - norm - perceptron, with residual connections."""

    def __init__(self, width: int, style: str) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = Attention(width, style)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """A small ViT with patches of two voxels: a classifier, or with `segments` an output (b, outputs, *grid)."""

    def __init__(
        self, axes: int, outputs: int = 4, *, style: str = "explicit", class_token: bool = True, segments: bool = False
    ) -> None:
        super().__init__()
        width = 8
        self.patches = convolution(axes)(1, width, 2, stride=2)
        self.token = nn.Parameter(torch.randn(1, 1, width)) if class_token and not segments else None
        if style == "encoder layer":
            self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(width, 2, 16, batch_first=True) for _ in range(2))
        else:
            self.blocks = nn.ModuleList(Block(width, style) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)
        self.segments = segments
        with torch.no_grad():  # attention that tells tokens apart
            for name, weight in self.named_parameters():
                weight.mul_(4 if "qkv" in name or "in_proj" in name or "patches" in name else 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.patches(x)
        cells = h.shape[2:]
        h = h.flatten(2).transpose(1, 2)
        if self.token is not None:
            h = torch.cat([self.token.expand(len(h), -1, -1), h], 1)
        for block in self.blocks:
            h = block(h)
        h = self.norm(h)
        if self.segments:
            h = self.head(h).transpose(1, 2).unflatten(2, cells)
            return F.interpolate(h, scale_factor=2)
        return self.head(h.mean(1) if self.token is None else h[:, 0])


def relative(found: Tensor, truth: Tensor) -> float:
    """The largest difference, relative to the largest true value (which must not be 0)."""
    assert found.shape == truth.shape, (found.shape, truth.shape)
    assert truth.abs().max() > 0
    return float((found - truth).abs().max() / truth.abs().max())


@contextmanager
def edited(net: nn.Module, layer: str, edit: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While inside, the layer gives edit(output); `name#1` is its second run only."""
    name, _, wanted = layer.partition("#")
    runs = itertools.count()

    def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return edit(output) if wanted in ("", str(next(runs))) else output

    handle = net.get_submodule(name).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
