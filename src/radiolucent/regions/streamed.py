"""Maps that are never whole: from a tiled model's slabs straight to rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from radiolucent.errors import BadInput
from radiolucent.explanation import Prediction
from radiolucent.methods import titles
from radiolucent.methods.streaming import stream
from radiolucent.parcellation import Parcellation
from radiolucent.protocols import Method, Target
from radiolucent.regions.prepared import Regions
from radiolucent.regions.sums import RegionSums
from radiolucent.tiling import Tiled


def by_region_streamed(
    prediction: Prediction, method: Method, targets: Target, parcellation: Parcellation | Regions, *, classes: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """The rows of `by_region` for an explanation that is added up while it is made, in the memory of one window's height.

    Args:
        prediction: of a `Tiled` model.
        method: one that can be streamed (see `radiolucent.methods.streaming.stream`).
        targets: sums over voxels, such as Region(1, 2).
        parcellation: on the MODEL's grid (`parcellation.on(prediction.image.grid)`), where the relevance arises; or
            Regions of one. Rows are the same as those of a map on the scan's grid where the two share their voxels.
        classes: names of the classes, for the targets' names.
    """
    if not isinstance(prediction.model, Tiled):
        raise BadInput(
            "the prediction of a Tiled model", type(prediction.model).__name__, "Use Tiled(model, window), or by_region."
        )
    regions = parcellation if isinstance(parcellation, Regions) else Regions(parcellation)
    grid = prediction.image.grid
    if regions.grid != grid:
        raise BadInput(
            f"a parcellation on the model's grid ({grid})", f"{regions.grid}", "Use parcellation.on(prediction.image.grid)."
        )
    targets = targets.fix(prediction.output)
    sums = RegionSums(regions, targets.names(classes))
    for where, slab in stream(method, prediction.model, prediction.x, targets):
        sums.add(where, slab[:, 0])
    name, _, layer = titles(method)
    return sums.rows(name, layer)
