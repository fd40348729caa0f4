"""Gradient quantile: the gradients of a region's single voxels, put together by a quantile instead of a sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from radiolucent.errors import BadInput
from radiolucent.hooks import evaluating
from radiolucent.methods.backward import check_differentiable
from radiolucent.methods.gradient import Gradient, plain
from radiolucent.protocols import Target
from radiolucent.scoring import check_scores
from radiolucent.settings import ANY_SEED, at_least


@dataclass(frozen=True)
class GradientQuantile:
    """Sensitivity that a given share of a region's voxels does not exceed (an aggregation in the code of Agg2Exp).

        R[p] = Q_q { dS_v/dx[p] : v drawn },     S_v = dS/df[v] f[v],   f the output, and S = sum_v S_v for a Region

    The gradient of a Region adds up those of its voxels; here their `quantile` q takes the place of the sum, voxel by
    voxel of x: 0.5 is what is typical, 0.9 what the tenth of the region that leans most on p makes of it, 0.1 the
    same for evidence against. `samples` voxels v are drawn from `seed` (all, where there are no more), in each batch
    item, each for one backward pass. A classifier's logit is one v, and R its gradient.

    Signed, on the input's grid. Memory: `samples` images. A place that fewer than 1 - q of the drawn voxels see at
    all gets 0, so in a region much larger than the receptive field only few places are left. For q = 0.9 the
    map is nearly positive by construction: compare it with that for 0.1.
    """

    quantile: float = 0.9
    samples: int = 100
    seed: int = 0

    unit = "score per unit of intensity"

    def __post_init__(self) -> None:
        at_least(self, quantile=0, samples=1, seed=ANY_SEED)
        if self.quantile > 1:
            raise BadInput("0 <= quantile <= 1", f"{self.quantile}", "0.9 is usual.")

    def __call__(self, model: nn.Module, x: Tensor, targets: Target) -> Tensor:
        x = plain(x)
        with evaluating(model):
            drawn = [_Voxels(weights, self.samples, self.seed) for weights in _weights(model, x, targets)]
        maps = []
        for voxels in drawn:
            items = Gradient()(model, x, voxels).unbind(1)
            maps.append(torch.stack([_quantile(g[:n], self.quantile) for g, n in zip(items, voxels.counts, strict=True)]))
        return torch.stack(maps)


def _weights(model: nn.Module, x: Tensor, targets: Target) -> list[Tensor]:
    """For each target dS/df (b, positions of the output): the part of the model behind f is the target alone."""
    with torch.no_grad():
        output = model(x.clone())
    leaves, form = pytree.tree_flatten(output)
    floating = [l.detach().requires_grad_() if isinstance(l, Tensor) and l.is_floating_point() else l for l in leaves]
    scores = targets(pytree.tree_unflatten(floating, form))
    check_scores(scores, len(x))
    check_differentiable(scores)
    at = [l for l in floating if isinstance(l, Tensor) and l.requires_grad]
    gradients = [torch.autograd.grad(row.sum(), at, retain_graph=True, materialize_grads=True) for row in scores]
    return [_flat(g, len(x)) for g in gradients]


def _flat(output: Any, b: int) -> Tensor:
    """All numbers of an output that belong to its b items, (b, positions)."""
    leaves = [l for l in pytree.tree_leaves(output) if isinstance(l, Tensor) and l.is_floating_point()]
    leaves = [l.flatten(1) if l.ndim > 1 else l[:, None] for l in leaves if l.ndim and len(l) == b]
    return leaves[0] if len(leaves) == 1 else torch.cat(leaves, 1)


class _Voxels:
    """Scores (samples, b), each of which is one position of the output times its weight; the first `counts[i]` of item i."""

    def __init__(self, weights: Tensor, samples: int, seed: int) -> None:
        drawn = [_draw(row.nonzero()[:, 0], samples, seed) for row in weights]
        self.counts = [len(d) for d in drawn]
        self.at = nn.utils.rnn.pad_sequence(drawn, batch_first=True)
        self.weights = weights.gather(1, self.at)

    def __call__(self, output: Any) -> Tensor:
        return (_flat(output, len(self.at)).gather(1, self.at) * self.weights).T

    def names(self, classes: Sequence[str] = ()) -> tuple[str, ...]:
        return tuple(f"voxel {v}" for v in range(len(self.at[0])))

    def fix(self, output: Any) -> _Voxels:
        return self


def _draw(there: Tensor, samples: int, seed: int) -> Tensor:
    order = torch.randperm(len(there), generator=torch.Generator().manual_seed(seed))[:samples]
    return there[order.to(there.device)]


def _quantile(gradients: Tensor, q: float) -> Tensor:
    """Over the first axis; in parts, since torch.quantile takes no more than 2^24 numbers."""
    parts = gradients.flatten(1).split(max(1, 2**22 // len(gradients)), 1)
    return torch.cat([part.quantile(q, 0) for part in parts]).reshape(gradients.shape[1:])
