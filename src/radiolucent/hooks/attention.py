"""Attention matrices, and the network as a flow in which every operation only averages: what rollout walks through.

Both work on functions, not modules, like `rewriting`: whatever form attention is written in, it is a softmax
over keys, `scaled_dot_product_attention` or `multi_head_attention_forward`. (A running mode keeps PyTorch from
taking the transformers' fast path, which would hide all three.)
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from radiolucent.errors import BadInput
from radiolucent.hooks.layers import Layer, recording, tensors_in
from radiolucent.hooks.taps import apart

# Operations that move values or average them: autograd knows their flow. Those that change the shape would be left
# alone in any case; named here are above all those that may not.
_MOVES = frozenset(
    """__get__ __getitem__ __setitem__ select narrow index_select gather take_along_dim unbind split chunk tensor_split
    view view_as reshape reshape_as flatten unflatten squeeze unsqueeze expand expand_as repeat repeat_interleave tile
    permute transpose swapaxes swapdims movedim moveaxis t adjoint roll flip fliplr flipud rot90 cat concat concatenate
    stack pad unfold fold pixel_shuffle pixel_unshuffle contiguous clone detach to type type_as float double half
    bfloat16 requires_grad_ mean interpolate upsample grid_sample avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d
    adaptive_avg_pool2d adaptive_avg_pool3d max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d
    adaptive_max_pool3d""".split()  # noqa: SIM905  # as a list it would be seventy lines
)
_PRODUCTS = frozenset(("matmul", "__matmul__", "__rmatmul__", "bmm", "baddbmm", "einsum", "tensordot"))
_CONVOLUTIONS = frozenset(f"conv{way}{axes}d" for way in ("", "_transpose") for axes in (1, 2, 3))


class _Attending(TorchFunctionMode, ABC):
    """Sees every attention, whatever form it has, and leaves to `_matrix` and `_apply` what happens at it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = _name(func)
        if name in ("softmax", "_softmax") and _is_over_keys(*args, **kwargs):
            return self._matrix(func(*args, **kwargs))
        if name == "scaled_dot_product_attention":
            matrix, value = _scaled_dot_product(*args, **kwargs)
            return self._matrix(matrix) @ value
        if func is F.multi_head_attention_forward:
            return self._multihead(func, inspect.signature(func).bind(*args, **kwargs).arguments)
        return self._other(func, name, args, kwargs)

    @abstractmethod
    def _matrix(self, matrix: Tensor) -> Tensor:
        """What an attention matrix (..., queries, keys) becomes."""

    @abstractmethod
    def _multihead(self, func: Any, arguments: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        """What PyTorch's multi-head attention gives, and the weights for its caller."""

    def _other(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        return func(*args, **kwargs)


class _Keeping(_Attending):
    """Keeps each attention matrix (..., queries, keys), ready for gradients with respect to it."""

    def __init__(self, seen: dict[str, tuple[Layer, Any]]) -> None:
        super().__init__()
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

    def _matrix(self, matrix: Tensor) -> Tensor:
        if not self.matrices:
            self._before = [layer for layer, _ in self._seen.values()]
        if not matrix.requires_grad:
            matrix.requires_grad_()
        self.matrices.append(matrix)
        return apart(matrix)  # a later in-place operation must not reach what is kept

    def _multihead(self, func: Any, arguments: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        wanted, averaged = arguments.get("need_weights", True), arguments.get("average_attn_weights", True)
        query = arguments["query"]
        if not query.requires_grad:  # the matrix is made inside, where nothing else could start the graph
            query = query.clone().requires_grad_()
        result, weights = func(**arguments | {"query": query, "need_weights": True, "average_attn_weights": False})
        self._matrix(weights._base)  # what was multiplied with the values; `weights` is a view of it for the caller
        return result, (weights.mean(-3) if averaged else weights) if wanted else None


class _Flowing(_Attending):
    """Runs the network as a flow from its tokens on: each result is a mean of what it is made of.

    Linear layers and convolutions average over channels and window, attention averages with a given matrix,
    whatever works element by element (norms, activations, scaling) passes its input on, and a sum or product of
    several inputs (a residual connection) is their mean. Weights and biases carry nothing. The values are
    meaningless; the vector-Jacobian product takes relevance from the output back to the tokens.
    """

    def __init__(self, matrices: Sequence[Tensor]) -> None:
        super().__init__()
        self._left = list(matrices)

    def _next(self, fits: Callable[[Tensor], bool]) -> Tensor:
        if not self._left or not fits(self._left[0]):
            raise BadInput(
                "the same attention in each run of the model",
                "another number or shape of attention matrices in the second run",
                "Its path depends on the values of the image; choose another method.",
            )
        return self._left.pop(0)

    def _matrix(self, matrix: Tensor) -> Tensor:
        return self._next(lambda kept: kept.shape == matrix.shape).to(matrix.dtype)

    def _multihead(self, func: Any, arguments: dict[str, Any]) -> tuple[Tensor, None]:
        query, value, heads = arguments["query"], arguments["value"].mean(-1, keepdim=True), arguments["num_heads"]
        is_batched = query.ndim == 3
        value = value.transpose(0, 1) if is_batched else value
        matrix = self._next(lambda kept: kept.ndim == 3 and len(kept) == heads * (query.shape[1] if is_batched else 1))
        matrix = matrix.unflatten(0, (-1, heads)).mean(1)[..., : value.shape[-2]]  # without keys that the function adds
        result = (matrix @ value).transpose(0, 1) if is_batched else (matrix @ value)[0]
        return result.expand(*query.shape[:-1], arguments["embed_dim_to_check"]), None

    def _other(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        carriers = [t for t in tensors_in([args, kwargs]) if t.requires_grad]
        if not carriers or name in _MOVES or name.endswith("_like") or name.startswith("new_"):
            return func(*args, **kwargs)
        if name == "linear" or (name in ("matmul", "__matmul__") and args[1].ndim <= 2 and not args[1].requires_grad):
            x, weight = args[0], args[1] if len(args) > 1 else kwargs["weight"]
            return x.mean(-1, keepdim=True).expand(*x.shape[:-1], weight.shape[0 if name == "linear" else -1])
        if name in _PRODUCTS:  # of an attention matrix with values; of two carriers: logits, which carry nothing
            return func(*args, **kwargs) if len(carriers) == 1 else func(*args, **kwargs).detach()
        is_in_place = (name.endswith("_") and not name.startswith("_")) or kwargs.get("inplace", False)
        with torch.no_grad():
            result = args[0] if is_in_place else func(*args, **kwargs)
        if name in _CONVOLUTIONS:
            return _window_mean(func, args, kwargs, result)
        if not isinstance(result, Tensor) or not result.is_floating_point():
            return result
        if name == "sum":
            return func(*args, **kwargs) * (result.numel() / carriers[0].numel())
        if any(_broadcast(c.shape, result.shape) != result.shape for c in carriers):
            return func(*args, **kwargs)
        mean = torch.stack([c.expand_as(result) for c in carriers]).mean(0)
        return args[0].copy_(mean) if is_in_place else mean


@contextmanager
def attending(model: nn.Module, x: Tensor) -> Iterator[_Keeping]:
    """Keep all attention matrices of one forward pass, and note what makes the tokens."""
    with recording(model, x.shape) as seen, _Keeping(seen) as keeping:
        yield keeping


def flowing(matrices: Sequence[Tensor]) -> _Flowing:
    """Run the network as the flow of rollout, with these attention matrices in the order of the calls."""
    return _Flowing(matrices)


def _name(func: Any) -> str:
    """The function's name, the same for F.f, torch.f, Tensor.f and exported graphs' aten.f.default."""
    return getattr(func, "__name__", "").partition(".")[0]


def _is_over_keys(x: Tensor, dim: int | None = None, *_: Any, **__: Any) -> bool:
    """Whether a softmax may be attention: along the last of three axes or more."""
    return x.ndim >= 3 and dim in (-1, x.ndim - 1)


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


def _window_mean(func: Any, args: Any, kwargs: Any, result: Tensor) -> Tensor:
    """A convolution (transposed or not) as the mean of all channels in its window, padding left out."""
    rest = ("output_padding", "groups", "dilation") if "transpose" in _name(func) else ("dilation", "groups")
    bound = dict(zip(("input", "weight", "bias", "stride", "padding", *rest), args, strict=False)) | kwargs
    x, weight = bound.pop("input"), bound.pop("weight")
    bound |= {"weight": weight.new_ones(1, 1, *weight.shape[2:]), "bias": None, "groups": 1}
    x = x.mean(1, keepdim=True)
    within = func(torch.ones_like(x), **bound)
    return (func(x, **bound) / within.clamp(min=1e-6)).expand_as(result)


def _broadcast(shape: torch.Size, other: torch.Size) -> torch.Size | None:
    try:
        return torch.broadcast_shapes(shape, other)
    except RuntimeError:
        return None
