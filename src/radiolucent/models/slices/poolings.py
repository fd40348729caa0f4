"""From the features of all slices (b, slices, width) to one vector (b, out): one small class for each way.

`mask` (b, slices) is True at slices that are there; the others are padding, which changes nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from radiolucent.errors import BadInput


class Weights(nn.Module):
    """Softmax over the slices, 0 at padding: scores (b, heads, slices) to the weights that the pooling multiplies with.

    A module of its own, so that its output, which is what the prediction used, can be read off as a layer's.
    """

    def forward(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        return (scores if mask is None else scores.masked_fill(~mask[:, None], -torch.inf)).softmax(-1)


class AttentionPooling(nn.Module):
    """Multi-head attention with one query, the mean of the slices' features (Ziller et al., section 2).

        a[h, s] = softmax_s(q[h] . k[h, s] / sqrt(d)),   z = W (sum_s a[h, s] v[h, s])_h + b

    q, k, v are linear in the mean and in the features; `attention` holds their weights, and this is what it computes.
    """

    def __init__(self, width: int, heads: int = 8) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise BadInput(f"heads that divide the features' width {width}", f"{heads}", "Choose another number, or set `width`.")
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.weights = Weights()
        self.width = width

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        heads = self.attention.num_heads
        given = (mean(features, mask)[:, None], features, features)
        projected = zip(given, self.attention.in_proj_weight.chunk(3), self.attention.in_proj_bias.chunk(3), strict=True)
        q, k, v = (F.linear(*each).unflatten(2, (heads, -1)).transpose(1, 2) for each in projected)  # (b, heads, slices, d)
        a = self.weights((q @ k.mT / q.shape[-1] ** 0.5).squeeze(2), mask)
        return self.attention.out_proj((a[:, :, None] @ v).flatten(1))


class GatedAttentionPooling(nn.Module):
    """Attention with a gate instead of a query (Ilse, Tomczak & Welling, ICML 2018, eq. 9).

    a[s] = softmax_s(w . (tanh(V h[s]) * sigmoid(U h[s]))),   z = sum_s a[s] h[s]
    """

    def __init__(self, width: int, hidden: int = 128) -> None:
        super().__init__()
        self.signal = nn.Linear(width, hidden)
        self.gate = nn.Linear(width, hidden)
        self.score = nn.Linear(hidden, 1)
        self.weights = Weights()
        self.width = width

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        scores = self.score(self.signal(features).tanh() * self.gate(features).sigmoid())
        return (self.weights(scores.mT, mask) @ features).squeeze(1)


class MeanPooling(nn.Module):
    """The mean over the slices."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        return mean(features, mask)


class MaxPooling(nn.Module):
    """Each feature's maximum over the slices."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        return (features if mask is None else features.masked_fill(~mask[..., None], -torch.inf)).amax(1)


class LSTMPooling(nn.Module):
    """The last state of an LSTM that reads the slices one after the other (two layers of 128 in the paper)."""

    def __init__(self, width: int, hidden: int = 128, layers: int = 2) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, hidden, layers, batch_first=True)
        self.width = hidden

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is None:
            return self.lstm(features)[0][:, -1]
        first = mask.int().sort(dim=1, descending=True, stable=True).indices  # what is there, in its order, before all padding
        read = self.lstm(features.gather(1, first[..., None].expand_as(features)))[0]
        return read[torch.arange(len(read), device=read.device), mask.sum(1) - 1]


class TransformerPooling(nn.Module):
    """A transformer's decoder asks its encoder's slices for what their mean feature wants (PyTorch's defaults)."""

    def __init__(self, width: int, heads: int = 8, layers: int = 6, hidden: int = 2048, dropout: float = 0.1) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise BadInput(f"heads that divide the features' width {width}", f"{heads}", "Choose another number, or set `width`.")
        self.transformer = nn.Transformer(width, heads, layers, layers, hidden, dropout, batch_first=True)
        encoder: Any = self.transformer.encoder
        encoder.enable_nested_tensor = encoder.use_nested_tensor = False  # a prototype that warns, and changes the shape
        self.width = width

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        hidden = None if mask is None else ~mask
        query = mean(features, mask)[:, None]
        return self.transformer(features, query, src_key_padding_mask=hidden, memory_key_padding_mask=hidden).squeeze(1)


POOLINGS: dict[str, type[nn.Module]] = {
    "attention": AttentionPooling,
    "gated": GatedAttentionPooling,
    "mean": MeanPooling,
    "max": MaxPooling,
    "lstm": LSTMPooling,
    "transformer": TransformerPooling,
}


def mean(features: Tensor, mask: Tensor | None) -> Tensor:
    """Over the slices that are there."""
    if mask is None:
        return features.mean(1)
    return features.masked_fill(~mask[..., None], 0).sum(1) / mask.sum(1, keepdim=True)


def build_pooling(name: str, width: int, arguments: dict[str, Any]) -> nn.Module:
    """The pooling of that name for features of that width."""
    if name not in POOLINGS:
        raise BadInput(f"a pooling among {', '.join(POOLINGS)}", repr(name), "Choose one of them.")
    try:
        return POOLINGS[name](width, **arguments)
    except TypeError as error:
        raise BadInput(f"arguments that the pooling {name} takes", str(error), "Correct `pooling_arguments`.") from None
