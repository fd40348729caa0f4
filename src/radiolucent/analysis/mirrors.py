"""Target and mirror: does the model look at the structure that it measures, or as much at the same one on the other side?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pandas import DataFrame

from radiolucent.analysis.matching import Match, Within, shares
from radiolucent.analysis.profiles import GROUP, Patients, units
from radiolucent.analysis.sides import MARGIN, TESTED, index_of, judged, tested
from radiolucent.statistics import bootstrap_mean

OWN = [
    "case",
    *GROUP,
    "structure",
    "opposite",
    "unit",
    "inside",
    "own",
    "mirror",
    "own_volume",
    "mirror_volume",
    "density",
    "index",
    "index_by_volume",
]
SHARES = ("own", "mirror")
COLUMNS = [
    *GROUP, "structure", "opposite", "inside", "own", "own_low", "own_high", "own_volume", "mirror", "mirror_low", "mirror_high",
    "mirror_volume", "index_by_volume", *TESTED,
]  # fmt: skip


def own(regions: DataFrame, matches: Sequence[Match], *, within: Within = "regions") -> DataFrame:
    """Per case, method, layer and target: shares of relevance and of volume in the target's own structure and in its mirror.

        own = m_own / sum_B m,   own_volume = v_own / sum_B v,   density = own / own_volume
        index = (own - mirror) / (own + mirror),   index_by_volume: the same of the volumes

    B and the shares are those of `density`; `inside` is the share of the whole map that lies in B. The index is 1 where
    all of both lies in the own structure, 0 where as much lies in the mirror, -1 where all does; index_by_volume is what
    an evenly spread map would have. NaN where a structure is absent from the scan, no relevance lies in either, or the
    target has none (or no mirror); such a target has no row at all if it has no own structure. `unit` is one name for a
    structure and its mirror, see `Match`.
    """
    part = shares(regions, within)
    rows = []
    explained = set(part["target"])
    for match in matches:
        if match.own and match.target in explained:
            rows += _own(part[part["target"] == match.target], match)
    return DataFrame(rows, columns=OWN)


def _own(part: DataFrame, match: Match) -> list[dict[str, Any]]:
    by = ["case", *GROUP]
    found = part.groupby(by, sort=True)["inside"].first().to_frame()
    for name, side in zip(SHARES, (match.own, match.mirror), strict=True):
        chosen = part[part["key"].isin(side) & (part["voxels"] > 0)].groupby(by)
        whole = chosen["key"].nunique().reindex(found.index) == len(side)
        for column, value in ((name, "share"), (f"{name}_volume", "volume")):
            found[column] = chosen[value].sum(min_count=1).reindex(found.index).where(whole & (len(side) > 0))
    found["density"] = found["own"] / found["own_volume"]
    found["index"] = index_of(found["own"], found["mirror"])
    found["index_by_volume"] = index_of(found["own_volume"], found["mirror_volume"])
    return found.reset_index().assign(structure=match.structure, opposite=match.opposite, unit=match.unit)[OWN].to_dict("records")


def mirror(
    own: DataFrame,
    *,
    patients: Patients = None,
    margin: float = MARGIN,
    level: float = 0.95,
    alpha: float = 0.05,
    seed: int = 0,
) -> DataFrame:
    """Per method, layer and target: mean shares in structure and mirror, the mean index, and whether it differs from 0.

    Columns and tests are those of `laterality`, with the target's own structure for left and its mirror for right: a
    paired Wilcoxon test of the index against 0, and two one-sided ones that it lies within +-margin, since the first
    alone cannot show that the model looks equally at both (the finding on the ventricles in Konate et al., section 4).
    `own_volume` and `mirror_volume` are the mean shares of the volume: what an evenly spread map would have there.
    A target without a mirror has its own share, and a verdict that says so.

    Known failure: a mask that is as coarse as the brain's midline structures lie apart (ventricles, thalami) looks at
    both for want of resolution. Compare with `index_by_volume` and with a method on the input.
    """
    rows = []
    unit = units(own["case"], patients)
    for key, group in own.groupby(GROUP, sort=False):
        found = (
            group[["inside", *SHARES, "own_volume", "mirror_volume", "index", "index_by_volume"]].groupby(unit[group.index]).mean()
        )
        about = dict(zip(GROUP, key, strict=True)) | {c: group[c].iloc[0] for c in ("structure", "opposite")}
        about |= {c: float(found[c].mean()) for c in ("inside", "own_volume", "mirror_volume", "index_by_volume")}
        for name in SHARES:
            mean = bootstrap_mean(found[name].to_numpy(float), level=level, seed=seed)
            about |= {name: mean.mean, f"{name}_low": mean.low, f"{name}_high": mean.high}
        about |= tested(found["index"].to_numpy(float), margin, level, seed)
        rows.append(about if about["opposite"] else about | {"reason": "no mirror: the structure has no other side"})
    table = DataFrame(rows, columns=[*COLUMNS, "reason"])
    return judged(table, alpha, ("in the target itself", "in its mirror"))[COLUMNS]
