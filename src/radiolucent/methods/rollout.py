"""Attention rollout: where the tokens that are read in the end have gathered their content from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from radiolucent.errors import BadInput
from radiolucent.hooks import attending, evaluating, flowing, tap, tensors_in
from radiolucent.methods.backward import check_differentiable, spatial_form
from radiolucent.methods.gradient import plain
from radiolucent.protocols import Target
from radiolucent.scoring import check_scores


@dataclass(frozen=True)
class AttentionRollout:
    """Attention multiplied through all layers, half of each block passing by it (Abnar & Zuidema, ACL 2020, section 3).

        R = r (A_L + I)/2 ... (A_2 + I)/2 (A_1 + I)/2,   A_l = mean of the heads' attention in block l

    r says which tokens the output is made from: the class token, all tokens alike, or those under a region; the
    network itself carries it from the target's outputs to the last block. Between the blocks, linear layers and
    convolutions spread relevance evenly over channels and window, so that windows, shifts and merged patches (Swin)
    and decoders (UNETR) need no special case. R >= 0, sum R <= 1: the rest stays with class tokens or passes by the tokens
    on skip connections. It lies on the grid of `tokens`, the layer whose output the tokens are; "auto" is the
    first of those with the fewest cells that end before the first attention. Blind to classes: it shows where content
    comes from, not what speaks for an answer, and values and the perceptrons count for nothing.
    """

    tokens: str = "auto"

    unit = "share of the attention flow"
    needs = "attention"

    def __call__(self, model: nn.Module, x: Tensor, targets: Target) -> Tensor:
        x = plain(x)
        flow = _look(model, x, targets, self.tokens, with_gradients=False)
        return _roll(model, x, flow.layer, flow.matrices[0], flow.shares)


@dataclass(frozen=True)
class GradientRollout:
    """Rollout of the attention that speaks for the target (Chefer, Gur & Wolf, ICCV 2021, eq. 5-6).

        R = r (B_L + I)/2 ... (B_1 + I)/2,   B_l = mean over heads of max(0, A_l * dS/dA_l)

    r and the way between the blocks are those of AttentionRollout. The paper's own sum B + I is taken by halves, which
    for L blocks in a row divides all of R by 2^L and keeps several paths comparable. R >= 0, on the
    grid of `tokens`; small gradients leave little but the identity, so that R is then nearly r itself.
    """

    tokens: str = "auto"

    unit = "share of the attention flow, weighted by gradients"
    needs = "attention"

    def __call__(self, model: nn.Module, x: Tensor, targets: Target) -> Tensor:
        x = plain(x)
        flow = _look(model, x, targets, self.tokens, with_gradients=True)
        rows = zip(flow.matrices, flow.shares, strict=True)
        return torch.cat([_roll(model, x, flow.layer, matrices, [share]) for matrices, share in rows])


@dataclass(frozen=True)
class _Flow:
    """What one forward pass says: the tokens' layer, matrices to roll out, and for each target the outputs' shares.

    matrices: one list of all attentions' matrices that serves every target, or one per target.
    shares: for each target, for each tensor in the model's output, how much of the score is made there (None: nothing).
    """

    layer: str
    matrices: list[list[Tensor]]
    shares: list[list[Tensor | None]]


def _look(model: nn.Module, x: Tensor, targets: Target, tokens: str, with_gradients: bool) -> _Flow:
    with evaluating(model), tap(model, []) as taps:
        with attending(model, x) as seen:
            output = model(taps.input(x))
        if not seen.matrices:
            raise BadInput(
                "a network with attention: a softmax over keys, or one of PyTorch's attention functions",
                "none ran",
                "Choose a CAM or a gradient method. TorchScript hides its functions: use the original model.",
            )
        layer = seen.token_layer if tokens == "auto" else tokens
        scores = targets(output)
        check_scores(scores, len(x))
        check_differentiable(scores)
        parts = list(tensors_in(output))
        found = [i for i, part in enumerate(parts) if part.requires_grad]
        wanted = [parts[i] for i in found] + (seen.matrices if with_gradients else [])
        matrices: list[list[Tensor]] = [] if with_gradients else [[m.detach() for m in seen.matrices]]
        shares = []
        for t in range(len(scores)):
            gradients = torch.autograd.grad(scores[t].sum(), wanted, retain_graph=t + 1 < len(scores), allow_unused=True)
            here = dict(zip(found, gradients, strict=False))
            shares.append(_shares([here.get(i) for i in range(len(parts))]))
            if with_gradients:
                rows = zip(seen.matrices, gradients[len(found) :], strict=True)
                matrices.append([torch.zeros_like(A) if g is None else (A.detach() * g).relu() for A, g in rows])
    return _Flow(layer, matrices, shares)


def _shares(gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
    """|dS/d output|, such that each batch item's sum is 1."""
    sizes = [None if g is None else g.abs() for g in gradients]
    total = sum(s.flatten(1).sum(1) for s in sizes if s is not None)
    assert isinstance(total, Tensor)
    return [None if s is None else s / total.reshape(-1, *[1] * (s.ndim - 1)) for s in sizes]


def _roll(model: nn.Module, x: Tensor, layer: str, matrices: list[Tensor], shares: list[list[Tensor | None]]) -> Tensor:
    """Each target's shares of the output, carried back to the tokens."""
    with evaluating(model), tap(model, [layer]) as taps:
        with flowing(matrices):
            parts = list(tensors_in(model(taps.input(x))))
        taps.over()
        form = spatial_form(model, layer, taps[layer], x)
        rows = []
        for t, share in enumerate(shares):
            ends = [(part, s) for part, s in zip(parts, share, strict=True) if s is not None and part.requires_grad]
            if not ends:
                raise BadInput(f"tokens {layer!r} on the way to the score", "no path from them", "Name another layer: tokens=...")
            (relevance,) = torch.autograd.grad(
                [part for part, _ in ends], taps[layer], [s for _, s in ends], retain_graph=t + 1 < len(shares)
            )
            rows.append(form.restore(relevance).sum(1, keepdim=True))
    return torch.stack(rows)
