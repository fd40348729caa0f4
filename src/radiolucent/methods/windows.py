"""The pass that first-order methods share, for a model that predicts in windows: each window once for all targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from radiolucent.errors import BadInput
from radiolucent.hooks import INPUT
from radiolucent.methods.backward import Passed, one_pass
from radiolucent.protocols import FirstOrder, Target, adds_up
from radiolucent.tiling import OnWindow, Tiled


@dataclass(frozen=True, eq=False)
class _Cells:
    """A layer's values A_w and gradients dS_w/dA_w, window by window; a target without weight there has none."""

    values: list[Tensor] = field(default_factory=list)
    gradients: list[dict[int, Tensor]] = field(default_factory=list)

    def relevance(self, method: FirstOrder, t: int) -> Sequence[Tensor]:
        """Each window's part of the method's map for target t, (b, c, *cells).

        To the method the windows are one large layer: they lie behind each other along the first axis.
        """
        none = torch.zeros_like(self.values[0])
        gradients = torch.cat([here.get(t, none) for here in self.gradients], 2)
        return method.combine(torch.cat(self.values, 2), gradients).unflatten(2, (len(self.values), -1)).unbind(2)


def in_windows(tiled: Tiled, x: Tensor, targets: Target, methods: Sequence[FirstOrder]) -> tuple[list[Tensor | BadInput], bool]:
    """Each method's map (t, b, c, *cells), or why there is none; did float16 not suffice?

    S = sum_w S_w(x[w]), so that each window runs once, with its own part of the targets. Of the input the gradients
    add up where windows overlap. Of a layer the cells of all windows are one set, from which a method makes its map;
    that lies on the image's grid. Where windows overlap, its parts are added up too, or, of a method with one weight per
    channel, averaged with each window's share in the output. A layer is kept for all windows until the end. Without
    layers, windows in which no target has weight do not run.
    """
    if not adds_up(targets, x.shape[2:]):
        raise BadInput(
            "targets that are a sum over voxels, for the layers of a model that predicts in windows",
            repr(targets),
            "Give a Region, fixed beforehand: explain() does, or targets.fix(model(x)).",
        )
    names = list(dict.fromkeys(m.layer for m in methods))
    count, part = len(targets.names()), tiled.on_window(x)
    total = x.new_zeros(count if INPUT in names else 0, *x.shape, dtype=torch.promote_types(x.dtype, torch.float32))
    cells = {name: _Cells() for name in names if name != INPUT}
    unfit: dict[str, BadInput] = {}
    vanished = False
    for piece in tiled.pieces(x):
        target, rows = targets.within(piece.where, piece.weights)
        if not rows and not cells:
            continue
        passed, found = _one_window(part, part.padded(piece.of(x)), target, names, rows)
        vanished, unfit = vanished or passed.vanished, {**unfit, **passed.unfit}
        for name in names:
            if name in cells and name not in unfit:
                cells[name].values.append(passed.value(name))
                cells[name].gradients.append(found[name])
            elif name not in unfit:
                for t, gradient in found[name].items():
                    piece.of(total[t]).add_(part.unpadded(gradient, piece.of(x)))
        del passed  # which may hold a graph
    maps: list[Tensor | BadInput] = []
    for i, method in enumerate(methods):
        if method.layer in unfit:
            maps.append(unfit[method.layer])
        elif method.layer == INPUT:
            again = any(m.layer == INPUT for m in methods[i + 1 :])
            maps.append(_at_input(method, x, total.clone() if again else total))
        else:
            maps.append(_at_layer(method, cells[method.layer], tiled, x, count))
    return maps, vanished


def _one_window(
    part: OnWindow, x: Tensor, target: Target, names: Sequence[str], rows: Sequence[int]
) -> tuple[Passed, dict[str, dict[int, Tensor]]]:
    """One window's pass, and its gradients by layer and target."""
    gradients: dict[str, dict[int, Tensor]] = {name: {} for name in names}

    def take(t: int, name: str, value: Tensor, gradient: Tensor) -> None:
        gradients[name][t] = gradient

    return one_pass(part, x, target, names, take, rows), gradients


def _at_input(method: FirstOrder, x: Tensor, gradients: Tensor) -> Tensor:
    """The method's maps, in the place of the gradients where they are as large: all of a volume's are much memory."""
    value = x.to(gradients.dtype)
    first = method.combine(value, gradients[0])
    maps = gradients if first.shape == gradients[0].shape else gradients.new_empty(len(gradients), *first.shape)
    maps[0] = first
    for t in range(1, len(gradients)):
        maps[t] = method.combine(value, gradients[t])
    return maps


def _at_layer(method: FirstOrder, cells: _Cells, tiled: Tiled, x: Tensor, count: int) -> Tensor:
    """The method's maps on the image's grid, from a layer's cells in all windows."""
    maps: Tensor | None = None
    part = tiled.on_window(x)
    for t in range(count):
        for piece, relevance in zip(tiled.pieces(x), cells.relevance(method, t), strict=True):
            if maps is None:
                maps = relevance.new_zeros(count, *relevance.shape[:2], *x.shape[2:])
            share = piece.weights if getattr(method, "weighs_channels", False) else 1.0
            piece.of(maps[t]).add_(part.placed(relevance) * share)
    assert maps is not None
    return maps
