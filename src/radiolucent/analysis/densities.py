"""Attention per structure: for each target, how densely relevance lies in each region."""

from __future__ import annotations

from collections.abc import Sequence

from pandas import DataFrame

from radiolucent.analysis.matching import Match, Within, shares
from radiolucent.analysis.profiles import BACKGROUND, Patients, profiles
from radiolucent.analysis.sides import keys
from radiolucent.statistics import bootstrap_mean

COLUMNS = ["method", "layer", "target", "region", "label", "hemisphere", "role", "density", "low", "high", "n", "n_present"]


def density(
    regions: DataFrame,
    matches: Sequence[Match],
    *,
    within: Within = "regions",
    patients: Patients = None,
    level: float = 0.95,
    seed: int = 0,
) -> DataFrame:
    """Mean relative density of each region for each target, with its bootstrap interval (Konate et al., Fig. 4).

        D(b -> a) = (m_b / sum_B m) / (v_b / sum_B v)

    m is the absolute relevance of target a that lies in region b, v the region's volume, B all regions together (or the
    whole scan, `within`). Without a unit; 1: as much as if relevance were spread evenly over B; 2: twice that. Means are over
    the n cases (or patients) that have region and relevance in B; `n_present` have the region, with or without relevance
    in B. `role` is "own" for the target's structure, "mirror" for the same one on the other side, "outside" for the
    background (whole scan only), else "other".

    Raises:
        BadInput: `within` is neither "regions" nor "scan".

    Known failure: a mask of few cells is coarser than small structures, and what lies beside one is counted as in it.
    The density of a small region varies much from case to case: look at the interval.
    """
    roles = {match.target: dict.fromkeys(match.mirror, "mirror") | dict.fromkeys(match.own, "own") for match in matches}
    part = shares(regions, within)
    rows = []
    part = part.assign(density=part["share"] / part["volume"].where(part["volume"] > 0))
    sizes = profiles(part, "voxels", patients=patients)
    for profile, size in zip(profiles(part, "density", patients=patients), sizes, strict=True):
        columns = zip(keys(profile.regions), profile.regions.to_dict("records"), profile.values.T, size.values.T, strict=True)
        for key, region, values, voxels in columns:
            mean = bootstrap_mean(values, level=level, seed=seed)
            role = roles.get(profile.target, {}).get(key, "outside" if region["label"] == BACKGROUND else "other")
            about = {name: region[name] for name in ("region", "label", "hemisphere")} | {"role": role}
            about |= {"density": mean.mean, "low": mean.low, "high": mean.high, "n": mean.n}
            rows.append(profile.key | about | {"n_present": int((voxels > 0).sum())})
    return DataFrame(rows, columns=COLUMNS)
