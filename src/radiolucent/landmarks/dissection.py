"""Unit dissection: which landmark does each unit of a layer detect?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from pandas import DataFrame
from torch import Tensor, nn

from radiolucent.errors import BadInput
from radiolucent.geometry import Array, upsample
from radiolucent.hooks import evaluating, tap
from radiolucent.landmarks.places import Mask, checked
from radiolucent.methods.backward import spatial_form

DETECTS = 0.04
"""Intersection over union from which Bau et al. call a unit a detector."""


def dissect(
    model: nn.Module, layer: str, cases: Sequence[tuple[Tensor, Mapping[str, Mask]]], *, quantile: float = 0.005
) -> DataFrame:
    """Overlap of each unit with each landmark over a data set (Bau et al., CVPR 2017, eq. 1).

        IoU[k, c] = sum_x |M_k(x) & L_c(x)| / sum_x |M_k(x) | L_c(x)|,    M_k(x) = [A_k(x) upsampled > T_k]
        T_k: P(A_k > T_k) = `quantile` over all cells of all images

    cases: an image (1, channels, *grid) as the model takes it, and boolean masks of landmarks on its grid; one that an image
    does not show is left out or empty there. Rows: unit, landmark, iou, threshold, `best` (the unit's largest iou) and
    `detector` (the best, and above 0.04). The activations of the layer are kept for all images, for T; a unit that is
    0 at its quantile counts where it is above 0. Known failure: landmarks of different sizes have different chances.
    """
    if not 0 < quantile < 1 or not cases:
        raise BadInput("cases, and a quantile between 0 and 1", f"{len(cases)} and {quantile!r}", "0.005 is the paper's.")
    shown = [checked(masks, tuple(x.shape[2:])) for x, masks in cases]
    names = list(dict.fromkeys(name for masks in shown for name in masks))
    if not names:
        raise BadInput("landmarks", f"none in {len(cases)} cases", "Give at least one case a mask with a name.")
    kept = [activations(model, layer, x).cpu() for x, _ in cases]
    cells = np.concatenate([a[0].flatten(1).numpy() for a in kept], 1)
    T = np.quantile(cells, 1 - quantile, axis=1)
    both, union = np.zeros((2, len(T), len(names)))
    for (x, _), masks, a in zip(cases, shown, kept, strict=True):
        shape = tuple(x.shape[2:])
        on = upsample(a[None], shape)[0, 0].numpy() > T.reshape(-1, *[1] * len(shape))
        landmarks = np.stack([masks.get(name, np.zeros(shape, bool)) for name in names]).astype(np.float64)
        here = on.reshape(len(T), -1).astype(np.float64) @ landmarks.reshape(len(names), -1).T
        both += here
        union += on.reshape(len(T), -1).sum(1)[:, None] + landmarks.reshape(len(names), -1).sum(1) - here
    return _table(np.divide(both, union, out=np.full_like(both, np.nan), where=union > 0), T, names)


def activations(model: nn.Module, layer: str, x: Tensor) -> Tensor:
    """What the units of a layer say of an image, (1, units, *cells)."""
    with evaluating(model), torch.no_grad(), tap(model, [layer]) as taps:
        model(taps.input(x))
        taps.over()
        output = taps[layer].detach()
    return spatial_form(model, layer, output, x).restore(output).float()


def _table(iou: Array, T: Array, names: list[str]) -> DataFrame:
    best = np.nan_to_num(iou, nan=-1).argmax(1)
    rows = [
        {"unit": k, "landmark": name, "iou": iou[k, c], "threshold": T[k], "best": bool(best[k] == c)}
        for k in range(len(T))
        for c, name in enumerate(names)
    ]
    table = DataFrame(rows)
    table["detector"] = table["best"] & (table["iou"] > DETECTS)
    return table
