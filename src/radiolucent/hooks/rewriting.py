"""Changing what a function does, or its backward pass, wherever a network uses it, in whatever form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from inspect import signature, unwrap
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from radiolucent.hooks.layers import tensors_in

# By the names that a Call has.
_MOVING = """
    clone lazy_clone contiguous detach data to float double half bfloat16 type type_as requires_grad as_subclass copy alias identity
    lift_fresh_copy view view_as reshape reshape_as flatten unflatten ravel squeeze unsqueeze permute transpose adjoint swapaxes
    swapdims movedim moveaxis t T mT H mH expand expand_as broadcast_to broadcast_tensors repeat tile repeat_interleave cat concat
    concatenate stack hstack vstack dstack chunk split tensor_split hsplit vsplit unbind select narrow getitem setitem index
    index_select take take_along_dim gather flip fliplr flipud roll rot90 pad constant_pad_nd pixel_shuffle pixel_unshuffle
    channel_shuffle fold unfold im2col col2im diagonal
"""
_POOLING = """
    mean avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    interpolate upsample upsample_nearest upsample_bilinear upsample_nearest1d upsample_nearest2d upsample_nearest3d
    upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d
"""
MOVING = frozenset(_MOVING.split())
"""Functions that give the values that they got, in other places."""
POOLING = frozenset(_POOLING.split())
"""Functions that give means, or the largest, of the values that they got."""


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a torch function.

    `name` is the same for a module, a function, a tensor method, their in-place forms and the operation of
    an exported graph: nn.ReLU, F.relu, torch.relu, Tensor.relu_ and aten.relu.default are all "relu".
    """

    function: Any
    args: Sequence[Any]
    kwargs: Mapping[str, Any]

    @cached_property
    def name(self) -> str:
        name = _written(self.function)
        # A property (x.T) arrives as the call of its getter.
        return (self.function.__self__.__name__ if name == "__get__" else name).strip("_")

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """What was given, by name; the first is always "input"."""
        return dict(zip(_parameters(self.function, self.name), self.args, strict=False)) | dict(self.kwargs)

    @property
    def in_place(self) -> bool:
        name = _written(self.function)
        return (name.endswith("_") and not name.endswith("__")) or bool(self.arguments.get("inplace", False))

    def tensors(self) -> list[Tensor]:
        """All tensors that were given, in lists and tuples too."""
        return list(tensors_in([self.args, self.kwargs]))

    def as_written(self) -> Any:
        return self.function(*self.args, **self.kwargs)

    def run(self, **changes: Any) -> Any:
        """The result with some arguments changed; nothing is overwritten, also if it was written in place."""
        if self.in_place:
            changes["input"] = changes.get("input", self.arguments["input"]).clone()
        names = _parameters(self.function, self.name)[: len(self.args)]
        args = [changes.pop(name, value) for name, value in zip(names, self.args, strict=True)]
        return self.function(*args, **{**self.kwargs, **changes})


Rule = Callable[[Call], Any]
"""Gives a call's result, out of place; or None to let it run as written."""


class rewriting(TorchFunctionMode):  # noqa: N801  # a context manager, named like the others here
    """While inside, each call of a function that `rules` names gives what its rule says.

    Modules, functions, tensor methods and exported graphs are seen alike; the result of an in-place form is
    written where it belongs. All other calls run through `otherwise`, where that is given. `met` counts the
    calls that a rule answered, by name. Of nested functions only the outermost is seen.
    """

    def __init__(self, rules: Mapping[str, Rule], otherwise: Callable[[Call], Any] = Call.as_written) -> None:
        super().__init__()
        self.rules = rules
        self.otherwise = otherwise
        self.met: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        call = Call(func, args, kwargs or {})
        if call.name not in self.rules:
            return self.otherwise(call)
        result = self.rules[call.name](call)
        if result is None:
            return call.as_written()
        self.met[call.name] += 1
        return call.arguments["input"].copy_(result) if call.in_place else result


def relus(rule: Callable[[Tensor, float], Tensor]) -> dict[str, Rule]:
    """The rules by which every ReLU and ReLU6 runs as `rule(x, ceiling)`; the ceiling of a ReLU is inf.

    F.hardtanh from 0 is one of them, as nn.ReLU6 is made of it; another hardtanh runs as written.
    """

    def hardtanh(call: Call) -> Tensor | None:
        given = call.arguments
        return rule(given["input"], float(given.get("max_val", 1.0))) if given.get("min_val", -1.0) == 0 else None

    return {
        "relu": lambda call: rule(call.arguments["input"], float("inf")),
        "relu6": lambda call: rule(call.arguments["input"], 6.0),
        "hardtanh": hardtanh,
    }


def _written(function: Any) -> str:
    """The function's own name; another library's operation keeps its library's name."""
    if isinstance(function, torch._ops.OpOverload):
        return function._schema.name.removeprefix("aten::")
    return getattr(function, "__name__", "")


@lru_cache(maxsize=512)
def _parameters(function: Any, name: str) -> tuple[str, ...]:
    """The names of the parameters, in order; none for what is no operation but a property (x.shape)."""
    function = unwrap(function)
    if isinstance(function, FunctionType):
        return tuple(signature(function).parameters)
    if not isinstance(function, torch._ops.OpOverload):  # a built-in one has no signature, its operation has
        packet = getattr(torch.ops.aten, name, None)
        if packet is None:
            return ()
        function = getattr(packet, packet.overloads()[0])
    return tuple("input" if a.name == "self" else a.name for a in function._schema.arguments)
