"""What pooled slices say: the weight that each had in the prediction, and where within the slices the score comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import torch
from torch import Tensor, nn

from radiolucent.baselines import BASELINES
from radiolucent.errors import BadInput
from radiolucent.hooks import check_follows, check_items_apart, evaluating, guest_of, last_layer, look, tap
from radiolucent.methods.backward import check_differentiable, spatial_form
from radiolucent.methods.gradient import plain
from radiolucent.protocols import Sliced, Target
from radiolucent.scoring import check_scores, share
from radiolucent.settings import among, at_least
from radiolucent.slicing import AXES, NOT, Place, find, on_grid, per_axis, truth


@dataclass(frozen=True)
class SliceAttention:
    """Weight of each slice in a model that pools slices by attention (Ziller et al., 2.5D attention pooling).

        R[i, j, k] = mean over axes of a_axis[slice of the axis through (i, j, k)],   a = mean of the heads' weights

    The weights are those that the prediction was made with, from its own forward pass; a sums to 1 over the slices of
    all axes together. `axis` (i, j or k) shows one axis's weights alone. On the model's grid, constant within each slice
    of an axis; R >= 0, the same for all targets. The details have each slice's weight, those of the heads, and how far
    removing slices bears the weights out (`radiolucent.slicing.truth`). A weight is no evidence by itself: it says how
    much of a slice is mixed in, not whether that speaks for the class, or changes the score at all. `cover` (a baseline:
    minimum, zero, mean, blur, noise) also asks what covering each slice in the image does to the score, which the slices
    of all axes see; it costs up to 2/3 of a forward pass for each slice.
    """

    axis: str = "all"
    cover: str = NOT

    unit = "weight of the slice"
    needs = "slices"

    def __post_init__(self) -> None:
        among(self, axis=("all", *AXES), cover=(NOT, *BASELINES))

    def __call__(self, model: nn.Module, x: Tensor, targets: Target) -> Tensor:
        x = plain(x)
        place = self._place(model, x)
        return self._map(*_watched(model, x, targets, place)[:2], place, x)

    def detailed(self, model: nn.Module, x: Tensor, targets: Target) -> tuple[Tensor, Sequence[Mapping[str, Any]]]:
        """The map, and for each target the weights by axis, and what becomes of the score without slices."""
        x = plain(x)
        place = self._place(model, x)
        scores, weights, features = _watched(model, x, targets, place)
        known, whole = _weights(weights, place, x), guest_of(model)
        if not isinstance(whole, Sliced) and self.cover == NOT:  # what is around it may make another score of its output
            return self._map(scores, weights, place, x), [{"slices": known} for _ in scores]
        checked = truth(whole, x, features, targets, weights[0].mean(0), cover=self.cover)
        return self._map(scores, weights, place, x), [_told(known, measured, place, x) for measured in checked]

    def _place(self, model: nn.Module, x: Tensor) -> Place:
        place = find(model, x)
        if not place.weights or self.axis not in ("all", *place.part.axes):
            expected = f"a pooling that weighs slices (attention, gated){'' if self.axis == 'all' else f' along {self.axis}'}"
            got = f"{type(place.part.pooling).__name__} over {', '.join(place.part.axes)}"
            raise BadInput(expected, got, "Choose slice-cam, which needs no weights.")
        return place

    def _map(self, scores: Tensor, weights: Tensor, place: Place, x: Tensor) -> Tensor:
        grid = x.shape[2:]
        shown = {a: w for a, w in per_axis(weights.mean(1), place.part.axes, grid).items() if self.axis in ("all", a)}
        each = [w[:, :, None, None].expand(-1, -1, 1, 1).movedim(1, AXES.index(a) + 1).expand(-1, *grid) for a, w in shown.items()]
        return torch.stack(each).mean(0)[None, :, None].repeat(len(scores), 1, 1, 1, 1, 1)


@dataclass(frozen=True)
class SliceCAM:
    """Slice weight times HiResCAM within the slice: voxels of a model that sees slices (the future work of Ziller et al.).

        R = sum over slices s of Z[s],   Z[s, p] = sum_c A[s, c, p] dS/dA[s, c, p],   the weights a held constant

    A[s] = the encoder's features of slice s at `encoder_layer` (a dotted name within the encoder; "auto": the last with a
    grid). With attention pooling dS/dA[s] is a[s] times what the value of slice s counts for S. Each Z[s] is shared out
    linearly among the slice's voxels, so that sums stay. Signed, in units of the score. Where the encoder averages
    A and ends there, sum R = S - b with b what is left for features of 0 (exact also for max pooling; LSTM,
    transformer, a projection by `width` and layers behind `encoder_layer` make it a first-order picture; "auto" needs
    more than one cell, which small slices have only before the end). What moves the weights themselves is not in it.
    `batch` slices at once (0: up to 16). The details have each slice's sum.
    """

    encoder_layer: str = "auto"
    batch: int = 0

    unit = "score"
    needs = "slices"

    def __post_init__(self) -> None:
        at_least(self, batch=0)

    def __call__(self, model: nn.Module, x: Tensor, targets: Target) -> Tensor:
        return self._made(model, plain(x), targets)[0]

    def detailed(self, model: nn.Module, x: Tensor, targets: Target) -> tuple[Tensor, Sequence[Mapping[str, Any]]]:
        """The map, and for each target each slice's share of the score, with its weight where it has one."""
        x = plain(x)
        relevance, shares, weights, place = self._made(model, x, targets)
        known = _weights(weights, place, x) if weights is not None else {}
        rows = []
        for each in shares:  # (b, slices)
            own = per_axis(each[0], place.part.axes, x.shape[2:])
            rows.append({"slices": {a: known.get(a, {}) | {"share": s.tolist()} for a, s in own.items()}})
        return relevance, rows

    def _made(self, model: nn.Module, x: Tensor, targets: Target) -> tuple[Tensor, Tensor, Tensor | None, Place]:
        """The map (t, b, 1, *grid), the slices' sums (t, b, slices), and their weights."""
        check_items_apart(model, len(x))
        check_follows(model)
        place = find(model, x)
        gradients, weights = _gradients(model, x, targets, place)
        grid, sums = x.shape[2:], []
        with evaluating(model):
            relevance = gradients.new_zeros(*gradients.shape[:2], 1, *grid)
            for axis, g in per_axis(gradients.movedim(2, -1), place.part.axes, grid).items():
                maps = self._within(place.part, x.movedim(AXES.index(axis) + 2, 1), g.movedim(-1, 2))
                relevance[:, :, 0] += on_grid(maps, axis, grid)
                sums.append(maps.sum((-2, -1)))
        return relevance, torch.cat(sums, 2), weights, place

    def _within(self, part: Sliced, slices: Tensor, gradients: Tensor) -> Tensor:
        """Z (t, b, n, h, w) of slices (b, n, c, h, w) from dS/d features (t, b, n, width), a few slices at a time."""
        shape, flat, g = slices.shape[:2], slices.flatten(0, 1), gradients.flatten(1, 2)
        layer = self._layer(part, flat[:1])
        size = share(self.batch, flat[0].numel(), 2**22)
        made = []
        for here, own in zip(flat.split(size), g.split(size, 1), strict=True):
            ready = part.prepare(here)
            with tap(part.encoder, [layer]) as taps:
                features = part.encoder(taps.input(ready))
                features = features if features.ndim == 2 else features.flatten(2).mean(-1)
                form = spatial_form(part.encoder, layer, taps[layer], ready)
                A = form.restore(taps[layer].detach())
                rows = []
                for t, direction in enumerate(own):
                    last = t + 1 == len(own)
                    (dA,) = torch.autograd.grad(features, taps[layer], direction, retain_graph=not last)
                    rows.append((A * form.restore(dA)).sum(1))
            made.append(torch.stack(rows))
        return torch.cat(made, 1).unflatten(1, shape)

    def _layer(self, part: Sliced, one: Tensor) -> str:
        """The layer within the encoder; "auto" means its last with a grid, which may be its output."""
        if self.encoder_layer != "auto":
            return self.encoder_layer
        output, found = look(part.encoder, part.prepare(one))
        grids = [layer for layer in found if layer.is_spatial]
        return grids[-1].names[-1] if output.ndim == 4 and grids else last_layer(found)


def _watched(model: nn.Module, x: Tensor, targets: Target, place: Place) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (t, b), weights (b, heads, slices) and features (b, slices, width) of one forward pass."""
    with evaluating(model), tap(model, [place.stack, place.weights]) as taps:
        scores = targets(model(taps.input(x)))
        check_scores(scores, len(x))
        return scores.detach(), taps[place.weights].detach(), taps[place.stack].detach()


def _gradients(model: nn.Module, x: Tensor, targets: Target, place: Place) -> tuple[Tensor, Tensor | None]:
    """dS/d features (t, b, slices, width) with the slices' weights held as they are, and these."""
    held = [place.weights] if place.weights else []
    with evaluating(model), tap(model, [place.stack], held) as taps:
        scores = targets(model(taps.input(x)))
        check_scores(scores, len(x))
        check_differentiable(scores)
        features, rows = taps[place.stack], []
        for t, score in enumerate(scores):
            rows.append(torch.autograd.grad(score.sum(), features, retain_graph=t + 1 < len(scores))[0])
        return torch.stack(rows), taps[place.weights].detach() if held else None


def _weights(weights: Tensor, place: Place, x: Tensor) -> dict[str, dict[str, Any]]:
    """axis -> its slices' weights in the first image, and those of each head."""
    heads = per_axis(weights[0], place.part.axes, x.shape[2:])
    return {axis: {"weight": w.mean(0).tolist(), "heads": w.tolist()} for axis, w in heads.items()}


def _told(
    known: Mapping[str, Mapping[str, Any]], measured: Mapping[str, Any], place: Place, x: Tensor
) -> dict[str, Mapping[str, Any]]:
    """Details of one target: each slice's weights and what becomes of the score without it, and the numbers on all of them."""
    slices = {axis: dict(own) for axis, own in known.items()}
    for name, drops in measured["drops"].items():
        for axis, own in per_axis(torch.tensor(drops, dtype=torch.float64), place.part.axes, x.shape[2:]).items():
            slices[axis][name] = own.tolist()
    numbers = {name: value for name, value in measured.items() if name != "drops"}
    return {"slices": slices, "truth": {name: None if isnan(value) else value for name, value in numbers.items()}}
