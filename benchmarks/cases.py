"""What is explained in `attribution.py`: three networks, each with an input and a target."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

import radiolucent as rl
from radiolucent.protocols import Target


@dataclass(frozen=True)
class Case:
    """One model with one input and what is explained about it."""

    name: str
    model: nn.Module
    x: Tensor
    layer: str
    """Where the CAM family looks."""
    last: str
    """The last layer with a grid that is not the output (the same one in a classifier)."""
    layers: tuple[str, ...]
    """Several layers, the shallowest first."""
    one: Target
    ten: Target
    label: int
    mask: Tensor | None = None
    """(b, *grid): the voxels of `label`, for segmentation."""

    def about(self, label: int) -> Case:
        """The same with another label to explain."""
        if self.mask is None:
            return replace(self, label=label, one=rl.Logits(label))
        with torch.no_grad():
            output = self.model(self.x)
        return replace(self, label=label, one=rl.Region(label).fix(output), mask=output.argmax(1) == label)

    def own(self) -> Case:
        """The same with modules of its own."""
        shared = {id(t): t for t in (*self.model.parameters(), *self.model.buffers())}
        return replace(self, model=copy.deepcopy(self.model, shared))

    @property
    def module(self) -> nn.Module:
        return self.model.get_submodule(self.layer)

    def classifier(self) -> tuple[nn.Module, int, str]:
        """For peers that know classes only: a module with output (b, classes), the class, the layer's name in it."""
        if self.mask is None:
            return self.model, self.label, self.layer
        return RegionScore(self.model, self.one), 0, f"model.{self.layer}"


class RegionScore(nn.Module):
    """A segmentation network and its target as a classifier of one class."""

    def __init__(self, model: nn.Module, target: Target) -> None:
        super().__init__()
        self.model, self.target = model, target

    def forward(self, x: Tensor) -> Tensor:
        return self.target(self.model(x)).T


def make_case(name: str, quick: bool, stem_stride: int) -> Case:
    """`resnet3d`, `unet3d` or `resnet2d`: MONAI networks of random weights, in eval mode."""
    from monai.networks import nets  # after torchvision's operators are declared, which it looks for

    torch.manual_seed(0)
    if name == "unet3d":
        size = 32 if quick else 96
        wide, strides = (16, 32, 64, 128), (2, 2, 2)
        model = nets.UNet(3, 1, 11, channels=wide, strides=strides, num_res_units=1, norm="instance", act="relu").eval()
        x = torch.rand(1, 1, size, size, size)
        inner = "model" + ".1.submodule" * 3
        layers = ("model.0", "model.1.submodule.0", "model.1.submodule.1.submodule.0", inner)
        with torch.no_grad():
            output = model(x)
        one, ten = rl.Region(1).fix(output), rl.Region(*range(1, 11)).fix(output)
        return Case(name, model, x, inner, "model.2.1.conv", layers, one, ten, 1, output.argmax(1) == 1)
    dims = {"resnet3d": 3, "resnet2d": 2}[name]
    size = ((64 if quick else 224),) * 2 if dims == 2 else ((48 if quick else 96),) * 3
    batch, channels = ((2 if quick else 8), 3) if dims == 2 else (1, 1)
    model = nets.resnet18(spatial_dims=dims, n_input_channels=channels, num_classes=10, conv1_t_stride=stem_stride).eval()
    x = torch.rand(batch, channels, *size)
    with torch.no_grad():
        label = int(model(x).sum(0).argmax())
    layers = tuple(f"layer{i}" for i in range(1, 5))
    return Case(name, model, x, "layer4", "layer4", layers, rl.Logits(label), rl.Logits(*range(10)), label)
