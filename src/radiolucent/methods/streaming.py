"""Relevance slab by slab, for volumes whose maps of many targets are too much to hold."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from radiolucent import baselines
from radiolucent.errors import BadInput
from radiolucent.methods.composed import SmoothGrad
from radiolucent.methods.gradient import Gradient, InputXGradient, check_floating, plain
from radiolucent.methods.guided import DeconvNet, GuidedBackprop
from radiolucent.methods.integrated import IntegratedGradients
from radiolucent.methods.lrp import LRP
from radiolucent.methods.perturbation import mean
from radiolucent.protocols import Method, Target, adds_up
from radiolucent.tiling import Piece, Tiled, Where, rolling

_ADDING = (Gradient, InputXGradient, GuidedBackprop, DeconvNet, LRP)
"""Methods whose relevance for a sum of scores is the sum of what they say about each, where its part of the image lies."""


def stream(method: Method, model: Tiled, x: Tensor, targets: Target) -> Iterator[tuple[Where, Tensor]]:
    """The map that `method(model, x, targets)` gives, in slabs (t, b, c, *slab), each with its place in the image.

    The slabs lie along the first axis, in order, and cover the image once. The score is a sum over bands of windows
    that start together; a slab is finished when no later band reaches it, so that no more than one window's height is
    held. For gradient, input x gradient, guided backpropagation, DeconvNet, LRP, Integrated Gradients, and
    SmoothGrad of one of these, whose noise is drawn again for each band: it is that of the whole image.
    """
    x = plain(x)
    check_floating(x)
    within = method.of if isinstance(method, SmoothGrad) else method
    if not isinstance(within, (*_ADDING, IntegratedGradients)):
        kinds = ", ".join(kind.__name__ for kind in (*_ADDING, IntegratedGradients, SmoothGrad))
        raise BadInput(f"a method that can be streamed: {kinds} of one of them", repr(method), "Call it on the whole image.")
    if not adds_up(targets, x.shape[2:]):
        raise BadInput("targets that are a sum over voxels", repr(targets), "Give a Region, fixed: targets.fix(model(x)).")
    dtype = torch.promote_types(x.dtype, torch.float32)

    def relevance(band: Piece) -> list[Tensor]:
        target, rows = targets.within(band.where, band.weights)
        if not rows:
            return [torch.zeros(len(targets.names()), *band.of(x).shape, dtype=dtype, device=x.device)]
        return [_on(band, method, model, x, target)]

    return ((where, slab) for where, (slab,) in rolling(model.bands(x), relevance))


def _on(band: Piece, method: Method, model: Tiled, x: Tensor, target: Target) -> Tensor:
    """The method's map of a band alone, (t, b, c, *band); what it derives from the image is from the whole one."""
    if isinstance(method, SmoothGrad):
        return mean(_on(band, method.of, model, noisy, target) for noisy in method.noisy(x))
    if isinstance(method, IntegratedGradients):
        return method.along(model, band.of(x), band.of(baselines.baseline(method.baseline, x)), target)
    return method(model, band.of(x), target)
