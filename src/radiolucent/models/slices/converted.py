"""A 2D network's weights in 3D convolutions: what slices and pooling are compared with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from radiolucent.errors import BadInput
from radiolucent.models.slices.encoders import build_encoder, extractor
from radiolucent.models.slices.heads import head
from radiolucent.models.slices.model import check_settings, frozen_in_eval


class VolumeModel(nn.Module):
    """A 2D network whose convolutions are taken to 3D, with a head: x (b, channels, i, j, k) gives (b, outputs).

    kind:
        "3d": the kernel k x k is repeated k times along the new axis and divided by k (Carreira & Zisserman, CVPR 2017);
            with random weights it is not what a 3D ResNet starts as, for the k layers of a kernel are equal and
            small: train MONAI's `resnet18(spatial_dims=3)` to compare with that.
        "acs": a third of the kernels lies in each of the three planes (Yang et al., JBHI 2021); no new weights.
        "2.5d": all kernels lie in the plane of the last two axes.

    Strides, pooling and padding of all axes are those of the 2D network. `encoder`, `features` (b, width) and
    `from_features` are as in SliceModel, and so are the other arguments; `size` (i, j, k) resizes volumes. EfficientNet-Lite
    leaves out branches in training in a way made for 2D: encoder_arguments={"drop_connect_rate": 0.0} trains it.

    Raises:
        BadInput: a network with parts that have no 3D counterpart.
    """

    def __init__(
        self,
        encoder: nn.Module | str,
        kind: str = "3d",
        *,
        outputs: int = 2,
        task: str = "classification",
        channels: int = 1,
        stem: str = "repeat",
        size: Sequence[int] | None = None,
        keep_head: bool = False,
        encoder_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_settings(("i",), channels, stem, None, (0,))
        if size is not None and (len(size) != 3 or min(size) < 1):
            raise BadInput("a size (i, j, k) of volumes", repr(size), "Three whole numbers above 0, or none.")
        network = build_encoder(encoder, encoder_arguments) if isinstance(encoder, str) else encoder
        plane, self.encoder_channels, self.encoder_width = extractor(network, channels, stem, None, keep_head)
        self.channels, self.size = channels, None if size is None else tuple(size)
        self.encoder = convert(plane, kind)
        self.head = head(task, self.encoder_width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.from_features(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """The encoder's features (b, width)."""
        if x.ndim != 5 or x.shape[1] != self.channels:
            raise BadInput(f"volumes (b, {self.channels}, i, j, k)", f"shape {tuple(x.shape)}", "Check axes and channels.")
        if self.size is not None and self.size != tuple(x.shape[2:]):
            x = F.interpolate(x, self.size, mode="trilinear", align_corners=False)
        features = self.encoder(x if x.shape[1] == self.encoder_channels else x.expand(-1, self.encoder_channels, -1, -1, -1))
        return features if features.ndim == 2 else features.flatten(2).mean(-1)

    def from_features(self, features: Tensor) -> Tensor:
        """The outputs (b, outputs) from what `features` gave."""
        return self.head(features)

    def train(self, mode: bool = True) -> Self:
        """As for any module, but a frozen encoder stays in eval mode."""
        super().train(mode)
        return frozen_in_eval(self)


class Inflated(nn.Conv3d):
    """A 2D convolution whose kernel is repeated along the new axis: on a scan that does not vary along it, the same."""

    def __init__(self, flat: nn.Conv2d) -> None:
        k, s, d = _square(flat)
        settings: dict[str, Any] = {"stride": s, "dilation": d, "groups": flat.groups, "bias": flat.bias is not None}
        super().__init__(flat.in_channels, flat.out_channels, k, **settings)
        self.pads = _pads(flat)
        self.weight = nn.Parameter(lifted(flat.weight.detach(), k))
        self.bias = flat.bias

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, self.pads * 3))


class InPlanes(nn.Module):
    """A 2D convolution whose kernels lie in planes of the volume: those of output c across the axis that c is given."""

    def __init__(self, flat: nn.Conv2d, across: Sequence[int]) -> None:
        super().__init__()
        self.k, self.stride, self.dilation = _square(flat)
        self.groups, self.pads = flat.groups, _pads(flat)
        self.weight, self.bias = flat.weight, flat.bias
        self.across = tuple(across)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, self.pads * 3)
        reach = self.dilation * (self.k - 1)
        # With groups each plane has its own, so that a group's inputs and outputs stay together.
        units = self.groups if self.groups > 1 else len(self.weight)
        ends = [round(units * n / len(self.across)) for n in range(len(self.across) + 1)]
        made = []
        for axis, start, end in zip(self.across, ends, ends[1:], strict=False):
            if start == end:
                continue
            # Across the plane only the kernel's middle is left: the cells that it would meet there.
            seen = x.narrow(axis + 2, reach // 2, x.shape[axis + 2] - reach)
            out, ins = len(self.weight) // units, self.weight.shape[1]
            groups = end - start if self.groups > 1 else 1
            seen = seen[:, start * ins : end * ins] if self.groups > 1 else seen
            which = slice(start * out, end * out)
            bias = None if self.bias is None else self.bias[which]
            made.append(F.conv3d(seen, self.weight[which].unsqueeze(axis + 2), bias, self.stride, 0, self.dilation, groups))
        return torch.cat(made, 1)


def lifted(weight: Tensor, depth: int) -> Tensor:
    """Weights (o, c, k, k) repeated along a new first axis of the kernel, so that their sum stays."""
    return weight.unsqueeze(2).repeat(1, 1, depth, 1, 1) / depth


KINDS: dict[str, Callable[[nn.Conv2d], nn.Module]] = {
    "3d": Inflated,
    "acs": lambda flat: InPlanes(flat, (0, 1, 2)),
    "2.5d": lambda flat: InPlanes(flat, (0,)),
}


def convert(network: nn.Module, kind: str) -> nn.Module:
    """A copy of a 2D network as a 3D one, under the same names."""
    if kind not in KINDS:
        raise BadInput(f"a kind among {', '.join(KINDS)}", repr(kind), "Choose one of them.")
    network = copy.deepcopy(network)
    made: dict[nn.Module, nn.Module] = {}  # a part under several names stays one
    for name, module in list(network.named_modules(remove_duplicate=False)):
        if name and name in dict(network.named_modules(remove_duplicate=False)):  # not inside one that was replaced
            if module not in made:
                made[module] = _counterpart(module, kind, name)
            if made[module] is not module:
                network.set_submodule(name, made[module])
    return network


def _counterpart(module: nn.Module, kind: str, name: str) -> nn.Module:
    if isinstance(module, nn.Conv2d):
        return KINDS[kind](module)
    if isinstance(module, nn.BatchNorm2d | nn.InstanceNorm2d):
        wider = nn.BatchNorm3d if isinstance(module, nn.BatchNorm2d) else nn.InstanceNorm3d
        norm: Any = wider(module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats)  # type: ignore[arg-type]
        norm.load_state_dict(module.state_dict())
        return norm.train(module.training)
    if isinstance(module, nn.MaxPool2d):
        size, stride, pads, dilation = map(_third, (module.kernel_size, module.stride, module.padding, module.dilation))
        return nn.MaxPool3d(size, stride, pads, dilation, ceil_mode=module.ceil_mode)
    if isinstance(module, nn.AvgPool2d):
        size, stride, pads = map(_third, (module.kernel_size, module.stride, module.padding))
        return nn.AvgPool3d(size, stride, pads, ceil_mode=module.ceil_mode, count_include_pad=module.count_include_pad)
    if isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
        wider_pool = nn.AdaptiveAvgPool3d if isinstance(module, nn.AdaptiveAvgPool2d) else nn.AdaptiveMaxPool3d
        return wider_pool(_third(module.output_size))
    if isinstance(module, nn.Dropout2d):
        return nn.Dropout3d(module.p, module.inplace)
    if isinstance(module, nn.ConstantPad2d):  # and zero padding
        return nn.ConstantPad3d((*module.padding, *module.padding[2:]), module.value)
    if "2d" in type(module).__name__.lower():
        got = f"{type(module).__name__} at {name!r}"
        raise BadInput("a 2D network of convolutions, batch norms, pooling and dropout", got, "Write its 3D form by hand.")
    return module


def _third(size: Any) -> Any:
    """A setting of two axes for three, the first of which is as the second."""
    return (size[0], *size) if isinstance(size, Sequence) else size


def _square(conv: nn.Conv2d) -> tuple[int, int, int]:
    """Kernel, stride and dilation, which must be the same along both axes."""
    settings = (conv.kernel_size, conv.stride, conv.dilation)
    if any(a != b for a, b in settings) or conv.padding_mode != "zeros":
        raise BadInput("square kernels, strides and zeros as padding", f"{conv}", "Choose another network.")
    return conv.kernel_size[0], conv.stride[0], conv.dilation[0]


def _pads(conv: nn.Conv2d) -> tuple[int, int]:
    """Zeros before and after along each axis; EfficientNets with TensorFlow's padding keep them in a module of their own."""
    inner = getattr(conv, "static_padding", None)
    own = conv.padding
    if own == "same":
        total = conv.dilation[0] * (conv.kernel_size[0] - 1)
        return total // 2, total - total // 2
    pads = (own[1], own[1], own[0], own[0]) if isinstance(own, tuple) else (0, 0, 0, 0)
    if isinstance(inner, nn.ConstantPad2d):
        pads = tuple(a + b for a, b in zip(pads, inner.padding, strict=True))  # type: ignore[assignment]
    if pads[:2] != pads[2:]:
        raise BadInput("the same padding along both axes", f"{pads}", "Choose another network.")
    return int(pads[0]), int(pads[1])
