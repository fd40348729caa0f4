"""Attentive response maps: what the most active units of a layer respond to, and CLEAR, the same for each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from radiolucent.errors import BadInput, Nothing, warn
from radiolucent.methods.gradient import layer_of
from radiolucent.methods.projection import RECTIFICATIONS, Projection, projecting
from radiolucent.protocols import Target
from radiolucent.settings import among, at_least

RANKINGS = ("sum", "max", "score")
MOST_CLASSES = 12
"""Classes that a colour each can tell apart; the paper puts the end of it at 10 to 15."""


class Responses(NamedTuple):
    """Response maps of single units, and what they are joined to. Units that are not active have a map of zeros.

    units: (t, b, n) which unit of the layer, by rank; -1 where fewer are active.
    values: (t, b, n) what each was ranked by.
    maps: (t, b, n, *grid) R(x|f).
    dominant: (t, b, *grid) the largest over the units.
    labels: (t, b, *grid) the unit that has it, -1 where no unit is active.
    """

    units: Tensor
    values: Tensor
    maps: Tensor
    dominant: Tensor
    labels: Tensor


@dataclass(frozen=True)
class AttentiveResponse:
    """The strongest response, at each pixel, of the n most active units of a layer (Kumar et al., ISBI 2018, eq. 1-3).

        R(x|f) = G_1 U_1 G_2 U_2 ... G_(L-1) U_(L-1) G_L^f z_L        for each of the n units f
        R[p] = max_f R(x|f)[p],     label[p] = argmax_f R(x|f)[p]

    G are transposed convolutions without bias, U unpooling to where each maximum was, z_L the features at `layer`
    ("auto": the last with a grid) and G_L^f their projection with all units but f at zero. All that is a gradient whose
    start is z_L at unit f, so that strides, mean pooling, batch norm, residual and skip connections are in it too, and
    all units are projected back in one batch. `rectification` at each ReLU on the way: "forward" (zero where the ReLU
    was, as in the first author's code: the plain gradient), "backward" (zero where r < 0, as in Zeiler & Fergus),
    "both" or "none" (equation 1 to the letter). z_L itself is rectified too, unless "none".

    `ranking` of the units: "sum" of activation over the image, its "max", or "score", the sum of activation x gradient
    of the target's score, which alone knows the target; else the map is the same for all targets. Units that are active
    nowhere, or have a score of 0 or less, are left out. Input channels are added up. Signed: below zero, less intensity
    would excite every one of the units. On the input's grid. `responses` gives each unit's map and the labels. Where
    pooling windows overlap, what comes back through a shared maximum adds up. Known failure: it shows what strong units
    see, not what decides the answer, and deep units see much of the image.
    """

    layer: str = "auto"
    n: int = 25
    ranking: str = "sum"
    rectification: str = "forward"
    batch: int = 0

    unit = "response (activation x weights)"

    def __post_init__(self) -> None:
        at_least(self, n=1, batch=0)
        among(self, ranking=RANKINGS, rectification=RECTIFICATIONS)

    def __call__(self, model: nn.Module, x: Tensor, targets: Target) -> Tensor:
        return self._joined(model, x, targets).dominant.unsqueeze(2)

    def detailed(self, model: nn.Module, x: Tensor, targets: Target) -> tuple[Tensor, Sequence[Mapping[str, Any]]]:
        """The map of one image, and for each target its units by rank, with their share of the pixels."""
        found = self._joined(model, x, targets)
        rows = []
        for units, values, labels in zip(found.units[:, 0], found.values[:, 0], found.labels[:, 0], strict=True):
            each = [(int(u), float(v)) for u, v in zip(units, values, strict=True) if u >= 0]
            shares = [float((labels == u).double().mean()) for u, _ in each]
            rows.append({"units": [u for u, _ in each], self.ranking: [v for _, v in each], "share_of_pixels": shares})
        return found.dominant.unsqueeze(2), rows

    def responses(self, model: nn.Module, x: Tensor, targets: Target) -> Responses:
        """The maps of all n units too, which is n times the memory of the image for each target."""
        return self._joined(model, x, targets, keep=True)

    def _joined(self, model: nn.Module, x: Tensor, targets: Target, keep: bool = False) -> Responses:
        layer = layer_of(self.layer, model, x, targets)
        with projecting(model, layer, x, targets, self.rectification) as projection:
            z = projection.features if self.rectification == "none" else projection.features.relu()
            units, values = self._ranked(projection, z, layer)
            rows = [self._of_target(projection, z, each, keep) for each in units]
            copies = len(projection.scores) // len(units)
        maps, dominant, labels = (torch.stack(parts) for parts in zip(*rows, strict=True))
        found = Responses(units, values, maps, dominant, labels)
        return Responses(*(part.repeat(copies, *[1] * (part.ndim - 1)) for part in found))

    def _ranked(self, projection: Projection, z: Tensor, layer: str) -> tuple[Tensor, Tensor]:
        """The units and their values by rank, (t, b, n); one t for all targets where the ranking does not know them."""
        if self.ranking == "score":
            gradients = (projection.gradient(t) for t in range(len(projection.scores)))
            values = torch.stack([(z * gradient).flatten(2).sum(2) for gradient in gradients])
            active = values > 0
        else:
            values = (z.flatten(2).sum(2) if self.ranking == "sum" else z.flatten(2).amax(2))[None]
            active = z.flatten(2).any(2)[None]
        if self.n > values.shape[2]:
            warn(f"layer {layer!r} has {values.shape[2]} units: all are taken, instead of n = {self.n}")
        if not active.any():
            do = "Choose another layer or ranking, or another image."
            raise Nothing(f"a unit of layer {layer!r} that is active", f"none by {self.ranking} of its activation", do)
        values, units = values.where(active, -torch.inf).sort(dim=2, descending=True, stable=True)
        values, units = values[:, :, : self.n], units[:, :, : self.n]
        return torch.where(values > -torch.inf, units, -1), torch.where(values > -torch.inf, values, 0.0)

    def _of_target(self, projection: Projection, z: Tensor, units: Tensor, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
        """The maps (b, n, *grid) of all units if they are to be kept, the dominant one, and the labels, both (b, *grid)."""
        items, active = torch.arange(len(z), device=z.device), units >= 0  # (b, n), the active ones in front

        def signal(i: int, empty: Tensor) -> None:
            there = items[active[:, i]]
            empty[there, units[there, i]] = z[there, units[there, i]].to(empty.dtype)

        zeros = projection.zeros()
        maps = torch.stack([zeros] * units.shape[1], 1) if keep else zeros[:, None][:, :0]
        dominant, labels = torch.full_like(zeros, -torch.inf), torch.full_like(zeros, -1, dtype=torch.long)
        for i, R in projection.back(int(active.sum(1).max()), signal, self.batch):
            here = (len(z), *[1] * (R.ndim - 1))
            higher = active[:, i].reshape(here) & (dominant < R)
            dominant = torch.where(higher, R, dominant)
            labels = torch.where(higher, units[:, i].reshape(here), labels)
            if keep:
                maps[:, i] = R
        return maps, torch.where(labels >= 0, dominant, 0.0), labels


@dataclass(frozen=True)
class CLEAR:
    """Class-enhanced attentive response: each class's part of a layer projected back (Kumar et al., CVPR workshop 2017).

        R(x|c) = G_1 U_1 ... G_(L-1) U_(L-1) G_L^c z^c,     z^c[p] = max(0, sum_k A[k, p] dS_c/dA[k, p]),   G_L^c = dS_c/dA
        class[p] = argmax_c R(x|c)[p],     level[p] = max_c R(x|c)[p]        (see `dominant_class`)

    For the paper's networks, a last layer of one feature map per class and a global mean, z^c is the class's own feature
    map and G_L^c its weights (up to the number of cells, squared, the same for all classes); for any other head they are
    its linear picture at this image. The targets are the classes. G, U, `layer` and `rectification` are as in
    AttentiveResponse, but z^c is always rectified; the input's channels are added up.

    Signed: below zero, less intensity would speak for the class. On the input's grid. A class may dominate a pixel by a
    small response where the others have none. The maps of single classes mean little by themselves when the classes share
    their features; more than 12 classes cannot be told apart and are refused.
    """

    layer: str = "auto"
    rectification: str = "forward"
    batch: int = 0

    unit = "response (class features x weights)"

    def __post_init__(self) -> None:
        at_least(self, batch=0)
        among(self, rectification=RECTIFICATIONS)

    def __call__(self, model: nn.Module, x: Tensor, targets: Target) -> Tensor:
        layer = layer_of(self.layer, model, x, targets)
        with projecting(model, layer, x, targets, self.rectification) as projection:
            check_classes(len(projection.scores))
            A = projection.features
            if not A.any():
                raise Nothing(f"a unit of layer {layer!r} that is active", "none", "Choose another layer, or another image.")

            def signal(c: int, empty: Tensor) -> None:
                weights = projection.gradient(c)
                empty[...] = weights * (A * weights).sum(1, keepdim=True).relu()

            return torch.stack([R for _, R in projection.back(len(projection.scores), signal, self.batch)]).unsqueeze(2)


def dominant_class(maps: Tensor) -> tuple[Tensor, Tensor]:
    """(class, level) at each pixel from the maps (t, ...) of t classes: argmax and maximum; class -1 where no map is above 0."""
    check_classes(len(maps))
    level, which = maps.max(0)
    return torch.where(level > 0, which, -1), level


def check_classes(count: int) -> None:
    """Refuse more classes than can be told apart in one picture."""
    if count > MOST_CLASSES:
        do = 'Name the classes to compare, or take AttentiveResponse, which has none (ranking="score" knows the target).'
        raise BadInput(f"at most {MOST_CLASSES} classes that are told apart by colour", f"{count}", do)
