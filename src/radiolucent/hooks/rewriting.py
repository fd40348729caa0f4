"""Changing a rule of the backward pass wherever a network uses a function, in whatever form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_aten = torch.ops.aten  # what exported graphs are made of
_RELUS_6 = {F.relu6, _aten.relu6.default}
_HARDTANHS = {F.hardtanh, F.hardtanh_, _aten.hardtanh.default, _aten.hardtanh_.default}
_RELUS_IN_PLACE = {torch.relu_, Tensor.relu_, _aten.relu_.default, F.hardtanh_, _aten.hardtanh_.default}
_RELUS = {F.relu, torch.relu, Tensor.relu, torch.relu_, Tensor.relu_, _aten.relu.default, _aten.relu_.default}


class rewriting(TorchFunctionMode):  # noqa: N801  # a context manager, named like the others here
    """While inside, every ReLU and ReLU6 runs as `rule(x, ceiling)`, whatever form it is written in.

    Modules, functions, tensor methods and exported graphs, in place or not; F.hardtanh from 0 too, as
    nn.ReLU6 is one. `rule` is a differentiable function of the input and its upper limit (inf for ReLU);
    `count` says how many were met.
    """

    def __init__(self, rule: Callable[[Tensor, float], Tensor]) -> None:
        super().__init__()
        self.rule = rule
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        relu = _as_relu(func, args, kwargs)
        if relu is None:
            return func(*args, **kwargs)
        self.count += 1
        x, ceiling, in_place = relu
        result = self.rule(x, ceiling)
        return x.copy_(result) if in_place else result


def _as_relu(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Tensor, float, bool] | None:
    """(input, upper limit, in place?) if the call is a ReLU in any form."""
    if func not in _RELUS | _RELUS_6 | _HARDTANHS:
        return None
    order = ("input", "min_val", "max_val", "inplace") if func in _HARDTANHS else ("input", "inplace")
    bound = dict(zip(order, args, strict=False)) | dict(kwargs)
    if func in _HARDTANHS and bound.get("min_val", -1.0) != 0:
        return None
    limit = bound.get("max_val", 1.0) if func in _HARDTANHS else 6.0 if func in _RELUS_6 else float("inf")
    in_place = func in _RELUS_IN_PLACE or bound.get("inplace", False)
    return bound["input"] if "input" in bound else bound["self"], float(limit), in_place
