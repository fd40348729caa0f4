"""Class activation maps without gradients: each feature map is weighted by what it does to the score."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from radiolucent import baselines
from radiolucent.errors import BadInput
from radiolucent.geometry import upsample
from radiolucent.hooks import Form, Replay, evaluating, form_of, replaying, tap
from radiolucent.methods.backward import spatial_form
from radiolucent.methods.gradient import layer_of, plain
from radiolucent.protocols import Target
from radiolucent.scoring import NUMBERS, VOXELS, in_chunks, score, share
from radiolucent.settings import among, at_least


@dataclass(frozen=True)
class ScoreCAM:
    """Feature maps weighted by the score of the image that shows through them (Wang et al., CVPR workshop 2020, alg. 1).

        R[p] = max(0, sum_k w[k] A[k, p]),   w = softmax_k S(x * H[k]),   H[k] = A[k] upsampled, scaled to [0, 1]

    The baseline's score in the paper's S(x * H) - S(x_b) cancels in the softmax. `layer` is a dotted
    module name, or "auto" for the last one with a grid; what H hides is filled with `baseline`; a feature
    map without contrast shows nothing. relu=False leaves out the max: as w > 0, that shows negative
    features and no evidence against the target. On the layer's grid. One forward pass per channel, all
    targets in the same. The softmax takes scores as they are: where they differ by tens between channels,
    as sums over a region do, one single feature map remains; reduce="mean" of a Region helps.
    """

    layer: str = "auto"
    relu: bool = True
    baseline: str = "zero"
    batch: int = 0

    unit = "features, weighted"

    def __post_init__(self) -> None:
        at_least(self, batch=0)
        among(self, baseline=baselines.BASELINES)

    def __call__(self, model: nn.Module, x: Tensor, targets: Target) -> Tensor:
        x = plain(x)
        layer = layer_of(self.layer, model, x, targets)
        reference = baselines.baseline(self.baseline, x)
        with evaluating(model), torch.no_grad():
            with tap(model, [layer]) as taps:
                model(taps.input(x))
                A = taps[layer].detach()
            A = spatial_form(model, layer, A, x).restore(A.to(torch.promote_types(A.dtype, torch.float32)))

            def shown(which: range) -> Tensor:
                maps = A[:, which.start : which.stop].transpose(0, 1).unsqueeze(2)
                H = _scaled(upsample(maps, tuple(x.shape[2:])))
                return score(model, baselines.hide(x, 1 - H, reference), targets)

            S = torch.cat([found for _, found in in_chunks(A.shape[1], share(self.batch, x[:, 0].numel(), VOXELS), shown)])
        return _combined(S.softmax(0), A, self.relu)


@dataclass(frozen=True)
class AblationCAM:
    """Feature maps weighted by the share of the score that is lost without them (Desai & Ramaswamy, WACV 2020, eq. 3-4).

        R[p] = max(0, sum_k w[k] A[k, p]),   w[k] = (S - S without A[k]) / |S|

    where A[k] is set to 0. The paper divides by S, which is the same for S > 0 and would turn the map
    round for S < 0. `layer` is a dotted module name, or "auto" for the last one with a grid. relu=False
    leaves out the max and keeps what speaks against the target. On the layer's grid. Only the part of the
    network behind the layer runs for each channel, all targets in the same pass. Needs no gradient. Features
    that can replace each other get no weight; 0 means "nothing there" only behind a ReLU; a score of 0 has
    no shares, and its map is NaN.
    """

    layer: str = "auto"
    relu: bool = True
    batch: int = 0

    unit = "features x share of the score"

    def __post_init__(self) -> None:
        at_least(self, batch=0)

    def __call__(self, model: nn.Module, x: Tensor, targets: Target) -> Tensor:
        x = plain(x)
        layer = layer_of(self.layer, model, x, targets)
        with evaluating(model), torch.no_grad(), replaying(model, layer, x) as replay:
            A = replay.value
            form = form_of(model, layer, A, x.shape)
            if form and form.in_slices:
                got = f"layer {layer!r} of a 2D network that runs slice by slice"
                raise BadInput("a layer that sees the whole image", got, "Choose another CAM, which can join the slices.")
            weights = None if form is None else self._weights(replay, form, targets)
        if form is None or weights is None:  # only out here may the model run, to say which layers have a grid
            form = spatial_form(model, layer, A, x)
        assert weights is not None
        return _combined(weights, form.restore(A), self.relu)

    def _weights(self, replay: Replay, form: Form, targets: Target) -> Tensor:
        """w (channels, t, b)."""
        A = replay.value

        def ablated(which: range) -> Tensor:
            variants = A.expand(len(which), *A.shape).clone()
            for variant, k in zip(variants, which, strict=True):
                form.restore(variant)[:, k] = 0
            return score(replay, variants, targets)

        S = score(replay, A[None], targets)
        channels = form.restore(A).shape[1]
        without = [found for _, found in in_chunks(channels, share(self.batch, replay.largest, NUMBERS), ablated)]
        return (S - torch.cat(without)) / S.abs()


def _scaled(maps: Tensor) -> Tensor:
    """Each map (k, b, 1, *grid) from its minimum 0 to its maximum 1; 0 where it is the same everywhere."""
    low = maps.flatten(3).amin(3).reshape(*maps.shape[:3], *[1] * (maps.ndim - 3))
    height = maps.flatten(3).amax(3).reshape(low.shape) - low
    return torch.where(height > 0, (maps - low) / height, 0.0)


def _combined(weights: Tensor, A: Tensor, relu: bool) -> Tensor:
    """(t, b, 1, *cells) from weights (c, t, b) and features (b, c, *cells)."""
    total = torch.einsum("ktb,bk...->tb...", weights, A.to(weights.dtype)).unsqueeze(2)
    return total.relu() if relu else total
