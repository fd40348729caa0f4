"""zennit's layer-wise relevance propagation, as its documentation has it: for the tests and the benchmark."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn


def zennit(name: str) -> Any:
    """A name of zennit, whose torchvision part does not import beside the CPU build of torch and is not needed."""
    sys.modules.setdefault("zennit.torchvision", ModuleType("zennit.torchvision"))
    module, _, name = name.rpartition(".")
    return getattr(importlib.import_module(f"zennit.{module}"), name)


def composite(convolutions: Any, dense: Any, stabiliser: float, first: Any = None) -> Any:
    """zennit's rules for convolutions and dense layers, and for the first convolution; batch norm merged."""
    conv = zennit("types.Convolution")
    rules = [*zennit("composites.layer_map_base")(stabiliser), (conv, convolutions), (nn.Linear, dense)]
    canonizers = [zennit("canonizers.SequentialMergeBatchNorm")(), zennit("canonizers.AttributeCanonizer")(_sums)]
    kind = zennit("composites.SpecialFirstLayerMapComposite")
    return kind(rules, [] if first is None else [(conv, first)], canonizers=canonizers)


def relevance(changed: nn.Module, x: Tensor, target: int) -> Tensor:
    """Of a model with a composite's hooks."""
    x = x.clone().requires_grad_()
    output = changed(x)
    one = torch.zeros_like(output)
    one[:, target] = output[:, target].detach()
    return torch.autograd.grad(output, x, one)[0]


def _sums(name: str, module: nn.Module) -> dict[str, Any] | None:
    """MONAI's residual block with its sum as a module, as zennit wants it."""
    if type(module).__name__ != "ResNetBlock":
        return None

    def forward(self: Any, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.act(self.sum(torch.stack([out, shortcut], -1)))

    return {"forward": forward.__get__(module), "sum": zennit("layer.Sum")()}
