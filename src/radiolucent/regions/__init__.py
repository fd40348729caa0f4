"""Relevance added up by anatomy (Agg2Exp): rows of one target and one region each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from radiolucent.errors import BadInput
from radiolucent.explanation import Explanation
from radiolucent.methods import titles
from radiolucent.parcellation import Parcellation
from radiolucent.regions.prepared import Regions
from radiolucent.regions.streamed import by_region_streamed
from radiolucent.regions.sums import RegionSums
from radiolucent.volume import Volume


def by_region(
    relevance: Explanation | Volume,
    parcellation: Parcellation | Regions,
    *,
    joined: Mapping[str, Sequence[str | int]] | None = None,
    masks: Mapping[str, Volume] | None = None,
    targets: Parcellation | Mapping[str, Volume] | Volume | None = None,
    near_mm: Sequence[float] = (),
) -> list[dict[str, Any]]:
    """One row per target a and region b: how much of a's relevance e lies in b (Agg2Exp's e(b -> a)).

        mass_fraction = |e in b|_1 / |e|_1        positive, negative = the same for e > 0 and e < 0
        density = |e in b|_1 / voxels of b        enrichment = mass_fraction / (voxels of b / all voxels)

    The channels of a map (c, *grid) are added up by their absolute values. Rows of kind "label", background
    included, sum to 1 in mass_fraction. A region without a voxel has the mass 0, and NaN as density and enrichment.

    Args:
        relevance: an Explanation (rows have the columns method, layer and target) or one map.
        parcellation: on the grid of the map; or `Regions`, prepared once for many maps, which hold all that follows.
        joined: name -> names (or values) of the regions that it joins; rows of kind "joined".
        masks: name -> an image that is 0 outside, on the grid of the map; may overlap anything; rows of kind "mask".
        targets: where the targets themselves lie, for `near_mm`: a parcellation with a region of each target's name,
            a mask for each, or one mask for all. None looks in `parcellation`.
        near_mm: distances from the target; rows of kind "near" (see Regions), which sum to 1: context or border?

    Raises:
        BadInput: grids that differ, names that are not there, relevance that is zero everywhere or not finite.
    """
    extras = {"joined": joined, "masks": masks, "targets": targets, "near_mm": near_mm or None}
    given = [name for name, value in extras.items() if value is not None]
    if isinstance(parcellation, Regions):
        if given:
            raise BadInput("either Regions or what they are made of", f"Regions and {', '.join(given)}", "Give it to Regions().")
        regions = parcellation
    else:
        regions = Regions(parcellation, joined=joined or {}, masks=masks or {}, targets=targets, near_mm=near_mm)
    maps = relevance.relevance if isinstance(relevance, Explanation) else (relevance,)
    for each in maps:
        if each.grid != regions.grid:
            raise BadInput(
                f"a parcellation on the map's grid ({each.grid})", f"{regions.grid}", "Use parcellation.on(relevance.grid)."
            )
    sums = RegionSums(regions, relevance.targets if isinstance(relevance, Explanation) else ("",))
    sums.add((), [each.data for each in maps])
    if not isinstance(relevance, Explanation):
        return sums.of(0)
    method, _, layer = titles(relevance.method)
    return sums.rows(method, layer)


def region_rows(explanations: Sequence[Explanation], parcellation: Parcellation | Regions) -> list[dict[str, Any]]:
    """The rows of several explanations of one scan; methods that differ in their settings alone are told apart by them."""
    regions = parcellation if isinstance(parcellation, Regions) else Regions(parcellation)
    names = [titles(e.method) for e in explanations]
    rows = []
    for e, (name, settings, layer) in zip(explanations, names, strict=True):
        alone = sum((name, layer) == (n, l) for n, _, l in names) == 1
        method = name if alone or not settings else f"{name} ({settings})"
        rows += [row | {"method": method} for row in by_region(e, regions)]
    return rows


__all__ = ["RegionSums", "Regions", "by_region", "by_region_streamed", "region_rows"]
