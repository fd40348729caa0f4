"""zennit's and captum's layer-wise relevance propagation, as their documentation has it, for attribution.py."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

Run = Callable[[Tensor], Tensor]


def zennit_epsilon(model: nn.Module, target: int) -> Run:
    """The epsilon rule everywhere, batch norm merged; the hooks are put in once, as for all contestants."""
    sys.modules.setdefault("zennit.torchvision", ModuleType("zennit.torchvision"))  # does not import beside the CPU torch
    from zennit import canonizers, composites, layer, rules, types

    def sums(name: str, module: nn.Module) -> dict[str, Any] | None:
        """MONAI's residual block with its sum as a module, as zennit wants it."""
        if type(module).__name__ != "ResNetBlock":
            return None

        def forward(self: Any, x: Tensor) -> Tensor:
            out = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
            shortcut = x if self.downsample is None else self.downsample(x)
            return self.act(self.sum(torch.stack([out, shortcut], -1)))

        return {"forward": forward.__get__(module), "sum": layer.Sum()}

    canon = [canonizers.SequentialMergeBatchNorm(), canonizers.AttributeCanonizer(sums)]
    rule = rules.Epsilon(1e-6)
    layer_map = [*composites.layer_map_base(1e-6), (types.Convolution, rule), (nn.Linear, rule)]
    model = copy.deepcopy(model)  # merging changes the weights
    composites.LayerMapComposite(layer_map, canonizers=canon).register(model)

    def run(x: Tensor) -> Tensor:
        point = x.clone().requires_grad_()
        output = model(point)
        one = torch.zeros_like(output)
        one[:, target] = output[:, target].detach()
        return torch.autograd.grad(output, point, one)[0]

    return run
