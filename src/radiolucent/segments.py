"""An image cut into regions: cubes, what the model predicts, supervoxels. Each is a label map (b, *grid)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from radiolucent.errors import BadInput
from radiolucent.protocols import Target
from radiolucent.targets import Overlapping, Select, as_tensor, label_map, part_of


def cubes(x: Tensor, along: tuple[int, ...]) -> Tensor:
    """A lattice of `along` boxes on the axes of x (b, c, *grid), whose sizes differ by a voxel where they must.

    Of more than there are voxels, only as many are there.
    """
    number = torch.zeros((), dtype=torch.long, device=x.device)
    for n, k in zip(x.shape[2:], along, strict=True):
        number = number[..., None] * k + torch.arange(n, device=x.device) * k // n
    return number.expand(len(x), *x.shape[2:])


def predicted(model: Callable[[Tensor], Any], x: Tensor, targets: Target) -> Tensor:
    """What the model makes of the unperturbed x, in the part of its output that the targets look at.

    Where its channels overlap, each combination of them is a region: sum_c 2^c [f_c > 0].
    """
    output = model(x.clone())
    while isinstance(targets, Select):
        output, targets = part_of(output, targets.key), targets.target
    output = as_tensor(output)
    if output.ndim != x.ndim:
        raise BadInput(
            'a segmentation (batch, classes, *grid) for regions="semantic"',
            f"an output of shape {tuple(output.shape)}",
            'Choose "cubes", "supervoxels" or "parcellation".',
        )
    if isinstance(targets, Overlapping):
        labels = torch.stack([(f > 0).long() << c for c, f in enumerate(output.unbind(1))]).sum(0)
    else:
        labels = label_map(output)
    if labels.shape[1:] != x.shape[2:]:  # some models answer on a coarser grid
        labels = interpolate(labels[:, None].double(), tuple(x.shape[2:]), mode="nearest-exact")[:, 0].long()
    return labels


def supervoxels(x: Tensor, count: int) -> Tensor:
    """About `count` connected pieces of like intensity in each image (SLIC; Achanta et al., TPAMI 2012)."""
    try:
        from skimage.segmentation import slic
    except ImportError:
        raise BadInput(
            'scikit-image for regions="supervoxels"', "an environment without it", "pip install radiolucent[study]."
        ) from None
    # Intensities are scaled to [0, 1] within: a tenth of the range is worth one supervoxel's width.
    how = {"n_segments": count, "compactness": 0.1, "start_label": 0, "channel_axis": -1, "convert2lab": False}
    images = x.float().movedim(1, -1).cpu().numpy()
    return torch.stack([torch.from_numpy(slic(image, **how)).long() for image in images]).to(x.device)


def given(labels: Tensor | None, x: Tensor) -> Tensor:
    """The user's own label map, (b, *grid), (1, *grid) or (*grid), after checking that it fits x."""
    shape = (len(x), *x.shape[2:])
    if labels is None:
        raise BadInput(
            'a parcellation for regions="parcellation"',
            "none",
            "Give one: explain(..., parcellation=...), --parcellation FILE, or method.over(label_map).",
        )
    if labels.is_floating_point() or labels.is_complex():
        raise BadInput("whole numbers as a label map", f"{labels.dtype}", "Convert it with .long().")
    if (
        labels.ndim not in (len(shape), len(shape) - 1)
        or labels.shape[-len(shape[1:]) :] != shape[1:]
        or (labels.ndim == len(shape) and len(labels) not in (1, len(x)))
    ):
        raise BadInput(
            f"a label map on the model's grid, {shape} or {shape[1:]}", f"shape {tuple(labels.shape)}", "Resample it (nearest)."
        )
    return labels.to(x.device, torch.long).expand(shape)
