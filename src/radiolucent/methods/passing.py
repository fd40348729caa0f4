"""Which functions layer-wise relevance propagation runs as they are written, which as gates, and which it refuses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from radiolucent.errors import BadInput
from radiolucent.hooks import MOVING, POOLING, Call, tensors_in

# f(a x) = a f(x) for a > 0: the plain gradient hands on all relevance, each input by its contribution.
_ADDING = "add sub rsub subtract neg negative sum nansum nanmean cumsum"
_CHOOSING = """
    relu max_unpool1d max_unpool2d max_unpool3d max min amax amin maximum minimum abs absolute sort topk where masked_fill
    tril triu dropout dropout1d dropout2d dropout3d feature_dropout alpha_dropout feature_alpha_dropout
"""
_PASS = MOVING | POOLING | frozenset(f"{_ADDING} {_CHOOSING}".split())
# Linear where one factor only depends on the image; for the last group that has to be the first.
_PRODUCTS = frozenset({"mul", "multiply", "matmul", "mm", "bmm", "mv", "dot", "inner", "outer", "einsum", "tensordot", "addmm"})
_QUOTIENTS = frozenset({"div", "divide", "true_divide", "grid_sample"})
GATES = ("sigmoid", "hardsigmoid", "softmax")


class Passing:
    """The functions that need no rule of their own, and the gates.

    A gate, and all that is computed from gates only, is a constant: where it multiplies a signal, the signal
    has all the relevance (Arras et al., WASSA 2017). A gate that is used otherwise is refused.
    """

    def __init__(self) -> None:
        self._gates: Any = WeakTensorKeyDictionary()
        self._seen: Any = WeakTensorKeyDictionary()

    def seen(self, result: Any) -> Any:
        """Note what a function gave that was seen."""
        self._seen.update((t, True) for t in tensors_in(result))
        return result

    def check_origin(self, given: Any, where: str) -> None:
        """Refuse what was computed out of sight: its backward pass would be the plain gradient, without a word."""
        if any(t.requires_grad and t not in self._seen for t in tensors_in(given)):
            raise BadInput(
                "a network whose functions can be seen",
                f"{where} that comes from elsewhere (TorchScript, or an autograd function of the model's own)",
                "Use the original model, or a method that follows any network: IntegratedGradients, SmoothGrad, a CAM.",
            )

    def gate(self, call: Call) -> Tensor:
        gate = call.run().detach()
        self._gates[gate] = call
        return gate

    def as_written(self, call: Call) -> Any:
        """The call's result, if its plain gradient is its rule; else an error that names the function."""
        given = call.tensors()
        gates = [self._gates[t] for t in given if t in self._gates]
        result = call.as_written()
        numbers = [t for t in tensors_in(result) if t.is_floating_point()]
        if torch.is_grad_enabled():  # else it may be inside an autograd function of the model's own
            constant = [t for t in numbers if not t.requires_grad]
            numbers = [t for t in numbers if t.requires_grad]
            self._gates.update((t, gates[0]) for t in constant if gates)
        factors = [t for t in given if t.requires_grad]
        if not numbers or not factors:
            return result
        if gates and call.name not in _PRODUCTS | _QUOTIENTS:
            raise no_rule(gates[0], f"whose result goes into {call.name}")
        if call.name in _PASS:
            return result
        is_first = bool(call.args) and factors[0] is call.args[0]
        if len(factors) == 1 and (call.name in _PRODUCTS or (call.name in _QUOTIENTS and is_first)):
            return result
        raise no_rule(call)

    def check_output(self, output: Any) -> None:
        """Refuse a network that ends in a gate: a softmax or sigmoid."""
        self.check_origin(output, "an output")
        last = [self._gates[t] for t in tensors_in(output) if t in self._gates]
        if last:
            raise no_rule(last[0], "as the last layer", "Explain the logits before it. ")


def no_rule(call: Call, how: str = "", do: str = "") -> BadInput:
    """The error for a function that LRP cannot follow."""
    return BadInput(
        "a network of functions that LRP has a rule for (convolutions, dense layers, norms, pooling, sums, activations, gates)",
        f"{call.name} {how}".strip(),
        f"{do}Choose a method that follows any network: IntegratedGradients, SmoothGrad, a CAM.",
    )
