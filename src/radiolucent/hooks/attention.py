"""Attention matrices, and the network as a flow in which every operation only averages: what rollout walks through.

Both are tables for `rewriting`: whatever form attention is written in, it is a softmax over keys,
`scaled_dot_product_attention` or `multi_head_attention_forward`. (A running mode keeps PyTorch from taking the
transformers' fast path, which would hide all three.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from radiolucent.errors import BadInput
from radiolucent.hooks.layers import Layer, recording
from radiolucent.hooks.rewriting import MOVING, POOLING, Call, Rule, rewriting
from radiolucent.hooks.taps import apart

# Autograd knows their flow already. Those that change the shape would be left alone in any case.
_FLOWING = MOVING | POOLING | {"grid_sample"}
_PRODUCTS = frozenset(("matmul", "rmatmul", "bmm", "baddbmm", "einsum", "tensordot"))
_CONVOLUTIONS = frozenset(f"conv{way}{axes}d" for way in ("", "_transpose") for axes in (1, 2, 3))


class _Keeping:
    """Keeps each attention matrix (..., queries, keys), ready for gradients with respect to it."""

    def __init__(self, seen: dict[str, tuple[Layer, Any]]) -> None:
        self.matrices: list[Tensor] = []
        self._seen = seen
        self._before: list[Layer] = []

    @property
    def token_layer(self) -> str:
        """What makes the tokens: the first of the layers with the fewest cells that end before the first attention."""
        found = [layer for layer in self._before if layer.is_spatial and layer.runs == 1]
        if not found:
            raise BadInput(
                "a layer with a grid that runs before the first attention",
                "none whose output has one",
                "Name the layer whose output the tokens are: tokens=...",
            )
        return min(found, key=lambda layer: math.prod(layer.cells)).name

    def keep(self, matrix: Tensor) -> Tensor:
        if not self.matrices:
            self._before = [layer for layer, _ in self._seen.values()]
        if not matrix.requires_grad:
            matrix.requires_grad_()
        self.matrices.append(matrix)
        return apart(matrix)  # a later in-place operation must not reach what is kept

    def multihead(self, call: Call) -> tuple[Tensor, Tensor | None]:
        given = call.arguments
        wanted, averaged = given.get("need_weights", True), given.get("average_attn_weights", True)
        query = given["query"]
        if not query.requires_grad:  # the matrix is made inside, where nothing else could start the graph
            query = query.clone().requires_grad_()
        result, weights = call.run(query=query, need_weights=True, average_attn_weights=False)
        self.keep(weights._base)  # what was multiplied with the values; `weights` is a view of it for the caller
        return result, (weights.mean(-3) if averaged else weights) if wanted else None


class _Flow:
    """The network as a flow from its tokens on: each result is a mean of what it is made of.

    Linear layers and convolutions average over channels and window, attention averages with a given matrix,
    whatever works element by element (norms, activations, scaling) passes its input on, and a sum or product of
    several inputs (a residual connection) is their mean. Weights and biases carry nothing. The values are
    meaningless; the vector-Jacobian product takes relevance from the output back to the tokens.
    """

    def __init__(self, matrices: Sequence[Tensor]) -> None:
        self._left = list(matrices)

    def _next(self, fits: Callable[[Tensor], bool]) -> Tensor:
        if not self._left or not fits(self._left[0]):
            raise BadInput(
                "the same attention in each run of the model",
                "another number or shape of attention matrices in the second run",
                "Its path depends on the values of the image; choose another method.",
            )
        return self._left.pop(0)

    def given(self, matrix: Tensor) -> Tensor:
        return self._next(lambda kept: kept.shape == matrix.shape).to(matrix.dtype)

    def multihead(self, call: Call) -> tuple[Tensor, None]:
        given = call.arguments
        query, value, heads = given["query"], given["value"].mean(-1, keepdim=True), given["num_heads"]
        is_batched = query.ndim == 3
        value = value.transpose(0, 1) if is_batched else value
        matrix = self._next(lambda kept: kept.ndim == 3 and len(kept) == heads * (query.shape[1] if is_batched else 1))
        matrix = matrix.unflatten(0, (-1, heads)).mean(1)[..., : value.shape[-2]]  # without keys that the function adds
        result = (matrix @ value).transpose(0, 1) if is_batched else (matrix @ value)[0]
        return result.expand(*query.shape[:-1], given["embed_dim_to_check"]), None

    def other(self, call: Call) -> Any:
        """Any other call than an attention."""
        name, carriers = call.name, [t for t in call.tensors() if t.requires_grad]
        if not carriers or name in _FLOWING or name.endswith("_like") or name.startswith("new_"):
            return call.as_written()
        if name == "linear" or (name == "matmul" and call.args[1].ndim <= 2 and not call.args[1].requires_grad):
            x, weight = call.args[0], call.args[1] if len(call.args) > 1 else call.kwargs["weight"]
            return x.mean(-1, keepdim=True).expand(*x.shape[:-1], weight.shape[0 if name == "linear" else -1])
        if name in _PRODUCTS:  # of an attention matrix with values; of two carriers: logits, which carry nothing
            return call.as_written() if len(carriers) == 1 else call.as_written().detach()
        with torch.no_grad():
            result = call.args[0] if call.in_place else call.as_written()
        if name in _CONVOLUTIONS:
            return _window_mean(call).expand_as(result)
        if not isinstance(result, Tensor) or not result.is_floating_point():
            return result
        if name == "sum":
            return call.as_written() * (result.numel() / carriers[0].numel())
        if any(_broadcast(c.shape, result.shape) != result.shape for c in carriers):
            return call.as_written()
        mean = torch.stack([c.expand_as(result) for c in carriers]).mean(0)
        return call.args[0].copy_(mean) if call.in_place else mean


@contextmanager
def attending(model: nn.Module, x: Tensor) -> Iterator[_Keeping]:
    """Keep all attention matrices of one forward pass, and note what makes the tokens."""
    with recording(model, x.shape) as seen:
        keeping = _Keeping(seen)
        with rewriting(_attentions(keeping.keep, keeping.multihead)):
            yield keeping


def flowing(matrices: Sequence[Tensor]) -> rewriting:
    """Run the network as the flow of rollout, with these attention matrices in the order of the calls."""
    flow = _Flow(matrices)
    return rewriting(_attentions(flow.given, flow.multihead, flow.other), flow.other)


def _attentions(
    matrix: Callable[[Tensor], Tensor], multihead: Rule, otherwise: Callable[[Call], Any] = Call.as_written
) -> dict[str, Rule]:
    """Rules by which each attention matrix (..., queries, keys) A becomes matrix(A), whatever form attention has."""

    def softmax(call: Call) -> Any:
        x, dim = call.arguments["input"], call.arguments.get("dim")
        is_over_keys = x.ndim >= 3 and dim in (-1, x.ndim - 1)
        return matrix(call.as_written()) if is_over_keys else otherwise(call)

    def product(call: Call) -> Tensor:
        weights, value = _scaled_dot_product(*call.args, **call.kwargs)
        return matrix(weights) @ value

    return {"softmax": softmax, "scaled_dot_product_attention": product, "multi_head_attention_forward": multihead}


def _scaled_dot_product(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Tensor, Tensor]:
    """The matrix and the values of PyTorch's function, by its documented formula."""
    if enable_gqa:
        key, value = (t.repeat_interleave(query.shape[-3] // t.shape[-3], -3) for t in (key, value))
    logits = query @ key.mT * (scale if scale is not None else query.shape[-1] ** -0.5)
    if is_causal:
        attn_mask = torch.ones_like(logits[(0,) * (logits.ndim - 2)], dtype=torch.bool).tril()
    if attn_mask is not None:
        logits = logits.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else logits + attn_mask
    return logits.softmax(-1), value


def _window_mean(call: Call) -> Tensor:
    """A convolution (transposed or not) as the mean of all channels in its window, padding left out."""
    weight, x = call.arguments["weight"], call.arguments["input"].mean(1, keepdim=True)

    def window_sum(x: Tensor) -> Tensor:
        return call.run(input=x, weight=weight.new_ones(1, 1, *weight.shape[2:]), bias=None, groups=1)

    return window_sum(x) / window_sum(torch.ones_like(x)).clamp(min=1e-6)


def _broadcast(shape: torch.Size, other: torch.Size) -> torch.Size | None:
    try:
        return torch.broadcast_shapes(shape, other)
    except RuntimeError:
        return None
