"""Layer-wise relevance propagation: the score handed back from layer to layer, each input by its contribution."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from radiolucent.hooks import rewriting
from radiolucent.methods.gradient import Gradient
from radiolucent.methods.propagation import FIRST, Propagation
from radiolucent.protocols import Target
from radiolucent.settings import among, at_least

# Composite -> the rule of its convolutions; dense layers have the epsilon rule in all of them.
_CONVOLUTIONS = {"epsilon": "epsilon", "epsilon-plus": "plus", "epsilon-gamma": "gamma"}


@dataclass(frozen=True)
class LRP:
    """Share of each voxel in the score, handed back layer by layer (Bach et al., PLoS ONE 2015; Montavon et al., 2019).

        R_i = sum_j q_ij / sum_i q_ij * R_j,   q_ij the part of input i in z_j = sum_i x_i w_ij + b_j:
        epsilon: q = x w, with epsilon * sign(z_j) added to the sum
        plus:    q = max(0, x w), the z-plus rule
        gamma:   q = x w + gamma * (x w where it has the sign of z_j, else 0)

    `composite` says which layer has which: "epsilon" all of them; "epsilon-plus" and "epsilon-gamma" give plus or
    gamma to convolutions and epsilon to dense layers. `epsilon` is absolute, in units of z; in the other rules
    1e-6 takes its place. A bias takes part in each sum and keeps its share. `first` is the rule of the layers that
    read the image itself: "same" as the others, "flat" (q = 1), "w2" (q = w^2) or "box" (z^B: q = x w - low w+
    - high w-, with the image's own lowest and highest value); these can give relevance to a voxel of value 0.

    Batch norm right behind a convolution or dense layer is merged with it; elsewhere it is a layer of one weight
    per channel. Instance, group and layer norm are linear, their standard deviation taken as a constant (Ali et
    al., ICML 2022), and so are gates: what a sigmoid or softmax multiplies has all the relevance. Norms that are
    not merged have the epsilon rule. Activations with f(0) = 0 hand relevance on unchanged, max pooling gives it
    to the winner; sums, means and interpolation share it by contribution, with no stabiliser.

    Signed, on the input's grid. sum R = S for a network without biases, but for epsilon and, with plus, for what
    falls on outputs that have no positive part. A network with a function that has no rule (attention, recurrence,
    a product of two signals, a softmax at its end) is refused. Gradients of a checkpointed model cannot be
    changed: switch checkpoints off. It shows what was used, not what a change would do; plus in all layers
    comes close to a map that does not depend on the class (Sixt et al., ICML 2020).
    """

    composite: str = "epsilon-gamma"
    epsilon: float = 1e-6
    gamma: float = 0.25
    first: str = "same"

    unit = "score"

    def __post_init__(self) -> None:
        among(self, composite=_CONVOLUTIONS, first=FIRST)
        at_least(self, epsilon=0, gamma=0)

    def __call__(self, model: nn.Module, x: Tensor, targets: Target) -> Tensor:
        if torch.float16 in {x.dtype, *(p.dtype for p in model.parameters())}:
            # Relevance over activation leaves its range.
            model, x = copy.deepcopy(model).float(), x.float()
        rules = Propagation(_CONVOLUTIONS[self.composite], self.epsilon, self.gamma, self.first)
        with rewriting(rules.by_name(), rules.otherwise):
            relevance = Gradient()(rules.between(model), x, targets)
        rules.check_first()
        return relevance
