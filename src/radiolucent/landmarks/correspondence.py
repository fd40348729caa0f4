"""Does the response lie on the landmarks? One map against named places, then many maps by class and model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pandas import DataFrame
from scipy.stats import rankdata

from radiolucent.analysis import effects
from radiolucent.analysis.profiles import Patients, units
from radiolucent.errors import BadInput
from radiolucent.geometry import Array
from radiolucent.landmarks.places import Mask, checked
from radiolucent.landmarks.radiographs import border
from radiolucent.metrics import Inside, Mass, Part, PointingGame, RankAccuracy
from radiolucent.statistics import bootstrap_mean
from radiolucent.volume import Volume

MEASURES = ("share", "enrichment", "hit", "overlap", "rank_correlation")
"""What `correspondence` measures, and `landmark_table` takes means of."""


def correspondence(
    relevance: Volume,
    landmarks: Mapping[str, Mask],
    *,
    annotations: Mapping[str, Mask] | None = None,
    border_width: float = 0.05,
    tolerance_mm: float = 0.0,
    part: Part = "positive",
) -> list[dict[str, Any]]:
    """A row for each landmark, each annotation (markers, text, hardware), the background and the border.

        share = sum_{p in M} a[p] / sum_p a[p]          enrichment = share / area,   area = |M| / all voxels
        hit = does the largest a lie in M               overlap = |P & M| / |M|,  P = the |M| voxels of largest a
        rank_correlation = Spearman's rho of a and [p in M]
        p = share of all toroidal shifts of the map (by whole voxels, this one among them) with at least this share in M

    a = the relevance mass (see metrics.Mass: `part`). Background is what is in no landmark and no annotation; the border is
    the frame of `border_width` x the shorter side, and overlaps the others. `hit` allows `tolerance_mm`, and shares a
    peak of several voxels. All shifts are counted, by a Fourier transform, so p has no random part; its mean share is
    `area` exactly. A mask without a voxel has NaN and a reason. Known failure: a map that is always in the middle
    agrees with a landmark that is always there, whatever the network uses: compare with another network, or class.
    """
    mass = Mass.of(relevance, part)
    shape = mass.values.shape
    named = checked(landmarks, relevance.grid.shape)
    noted = checked(annotations or {}, relevance.grid.shape)
    both = set(named) & set(noted) or {"background", "border"} & {*named, *noted}
    if both or not named:
        raise BadInput("landmarks with names of their own, at least one", f"{sorted(both) or 'none'}", "Rename them.")
    rest = ~np.any([*named.values(), *noted.values()], axis=0)
    kinds = dict.fromkeys(named, "landmark") | dict.fromkeys(noted, "annotation") | {"background": "background"}
    masks = named | noted | {"background": rest, "border": border(shape, border_width)}
    ranks = rankdata(mass.values, axis=None)
    wave = np.fft.rfftn(mass.values.astype(np.float64))
    rows = []
    for name, mask in masks.items():
        about = {"landmark": name, "kind": kinds.get(name, "border"), "voxels": int(mask.sum()), "area": float(mask.mean())}
        rows.append(about | _measured(mass, mask, ranks, wave, tolerance_mm))
    return rows


def _measured(mass: Mass, mask: Mask, ranks: Array, wave: Array, tolerance_mm: float) -> dict[str, Any]:
    """The numbers of one mask, from the map's ranks and Fourier transform."""
    nothing = dict.fromkeys([*MEASURES, "p"], float("nan"))
    reason = "" if mask.any() else "the mask is empty"
    reason = reason or ("" if mass.high > 0 else "the map has no positive relevance")
    if reason:
        return nothing | {"reason": reason}
    inside = Inside(mass, np.flatnonzero(mask))
    share = inside.total / mass.total
    covers = mask.all()
    flat = np.ptp(ranks) == 0
    rho = float("nan") if covers or flat else float(np.corrcoef(ranks, mask.reshape(-1))[0, 1])
    found = {"share": share, "enrichment": share / float(mask.mean()), "hit": PointingGame(tolerance_mm)(inside).value}
    found |= {"overlap": RankAccuracy()(inside).value, "rank_correlation": rho, "p": _shifted(wave, mask, mass.total)}
    return found | {"reason": "the mask covers the whole image" if covers else "the map is the same everywhere" if flat else ""}


def _shifted(wave: Array, mask: Mask, total: float) -> float:
    """Share of all toroidal shifts by which the map has at least as much mass in the mask as it has unshifted."""
    sums = np.fft.irfftn(wave * np.conj(np.fft.rfftn(mask.astype(np.float64))), mask.shape, axes=tuple(range(mask.ndim)))
    return float((sums >= sums.reshape(-1)[0] - 1e-9 * total).mean())


def landmark_table(
    rows: DataFrame | Sequence[Mapping[str, Any]], by: Sequence[str] = ("model", "class"), *, patients: Patients = None
) -> DataFrame:
    """One row per group (`by`), landmark and measure of the cohort: means over cases, and a test against chance.

    `rows` are those of `correspondence`, with a column `case` and the columns `by`. `patients`: case -> patient where some
    have several; cases of one patient are not independent, so their values are averaged first, and what is said of cases
    from here on is of patients. Columns: n cases, `missing` ones, the mean of each measure, of share with its 95 % bootstrap
    interval; `significant`, the share of cases with p < 0.05; and a Wilcoxon test of share - area over the cases (what
    shifted maps have on average is `area`) with its effect (> 0: more than chance), p, q over the table (Benjamini &
    Hochberg), and the reason where it was not made.
    """
    table = DataFrame(rows) if not isinstance(rows, DataFrame) else rows
    missing = [c for c in ("case", *by, "landmark", "kind", "area", "p", *MEASURES) if c not in table.columns]
    if missing or table.empty:
        got = f"no column {', '.join(missing)}" if missing else "no row"
        raise BadInput("rows of correspondence with a case and " + ", ".join(by), got, "Add them to each row.")
    if table.duplicated(["case", *by, "landmark"]).any():
        raise BadInput("one row per case, " + ", ".join(by) + " and landmark", "several", "Add what tells them apart to `by`.")
    significant = (table["p"] < 0.05).where(table["p"].notna()).astype(float)
    table = table.assign(unit=units(table["case"], patients), above=table["share"] - table["area"], significant=significant)
    found = []
    for key, group in table.groupby([*by, "kind", "landmark"], sort=False):
        each = group.groupby("unit", sort=False)[["area", "above", "significant", *MEASURES]].mean()
        share = bootstrap_mean(each["share"].to_numpy(float))
        test = effects.signed(each["above"].to_numpy(float))
        row = dict(zip([*by, "kind", "landmark"], key, strict=True)) | {"n": share.n, "missing": share.missing}
        row |= each[["area", *MEASURES]].mean().to_dict()
        row |= {"low": share.low, "high": share.high, "significant": float(each["significant"].mean())}
        found.append(row | {"effect": test.effect, "p": test.p, "reason": test.reason})
    result = DataFrame(found)
    result.insert(result.columns.get_loc("p") + 1, "q", effects.q_values(result["p"].to_numpy(float)))
    return result
