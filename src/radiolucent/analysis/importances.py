"""Global importance: how much of a class's relevance lies in each region, over a cohort."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pandas import DataFrame

from radiolucent.analysis.profiles import BACKGROUND, Patients, profiles
from radiolucent.statistics import bootstrap_mean

COLUMNS = [
    "method", "layer", "target", "kind", "label", "region", "hemisphere", "role", "mean", "low", "high",
    "enrichment", "enrichment_low", "enrichment_high", "n", "n_present",
]  # fmt: skip
Own = Mapping[str, Sequence[str]] | None
"""Target -> keys (name, \\0, hemisphere) of the regions that are its own structure under another name; see `matches`."""
KINDS = ("label", "joined", "mask", "near")


def importance(regions: DataFrame, *, own: Own = None, patients: Patients = None, level: float = 0.95, seed: int = 0) -> DataFrame:
    """The mean over cases of Agg2Exp's local importance e(b -> a), with its bootstrap interval.

        E(b -> a) = 1/n sum_i |e_i in b|_1 / |e_i|_1

    over the n cases that have a map of target a. A region that a scan does not contain counts as 0 there;
    `n_present` says in how many it is. `enrichment` is the mean over those alone of
    (mass fraction) / (volume fraction): above 1 the model looks there more than by chance.
    `role`: "itself" where region and target have one name (or the region is one of the target's `own`), "background", else
    "context"; joined regions, masks and
    shells near the surface, which overlap others, have their kind instead. With `patients`, cases of one patient are
    averaged first, and n counts patients.

    Known failure: large regions have large masses; compare regions by enrichment.
    """
    rows = []
    for kind in KINDS:
        found = [profiles(regions, value, kinds=[kind], patients=patients) for value in ("mass_fraction", "enrichment", "voxels")]
        for mass, enrichment, voxels in zip(*found, strict=True):
            for b, region in enumerate(mass.regions.to_dict("records")):
                mean = bootstrap_mean(mass.values[:, b], level=level, seed=seed)
                times = bootstrap_mean(enrichment.values[:, b], level=level, seed=seed)
                about = mass.key | region | {"role": _role(region, mass.target, own or {})}
                about |= {"enrichment": times.mean, "enrichment_low": times.low, "enrichment_high": times.high}
                present = int((voxels.values[:, b] > 0).sum())
                rows.append(about | {"mean": mean.mean, "low": mean.low, "high": mean.high, "n": mean.n, "n_present": present})
    places = {key: place for place, key in enumerate(dict.fromkeys((r["method"], r["layer"], r["target"]) for r in rows))}
    rows.sort(key=lambda row: places[row["method"], row["layer"], row["target"]])
    return DataFrame(rows, columns=COLUMNS)


def _role(region: dict[str, object], target: str, own: Mapping[str, Sequence[str]]) -> str:
    if region["kind"] != "label":
        return str(region["kind"])
    if region["region"] == target or f"{region['region']}\0{region['hemisphere']}" in own.get(target, ()):
        return "itself"
    return "background" if region["label"] == BACKGROUND else "context"


def edges(importance: DataFrame, *, most: int = 20) -> DataFrame:
    """The strongest arrows region -> target of each method and layer, without a target's own region and the background.

    These are what a class is recognised by besides itself; `rank` 1 is the strongest by mean mass fraction.
    """
    context = importance[(importance["role"] == "context") & (importance["mean"] > 0)]
    context = context.sort_values(["method", "layer", "mean", "target", "region"], ascending=[True, True, False, True, True])
    rank = context.groupby(["method", "layer"]).cumcount() + 1
    columns = ["method", "layer", "rank", "region", "target", "mean", "low", "high", "enrichment", "n", "n_present"]
    return context.assign(rank=rank)[rank <= most][columns].reset_index(drop=True)
