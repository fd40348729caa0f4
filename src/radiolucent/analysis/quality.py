"""Does anomaly warn of bad segmentations? Its rank correlation with Dice, IoU and surface distance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pandas import DataFrame

from radiolucent.analysis.effects import not_found, numeric, q_values
from radiolucent.analysis.profiles import GROUP, Patients, units

SCORES = ("forest", "mahalanobis")
QUALITIES = ("dice", "iou", "hd95_mm")
COLUMNS = [*GROUP, "score", "quality", "rho", "low", "high", "p", "q", "n", "missing", "verdict"]


def anomaly_quality(
    anomaly: DataFrame,
    cases: DataFrame,
    *,
    patients: Patients = None,
    qualities: Sequence[str] = QUALITIES,
    level: float = 0.95,
    alpha: float = 0.05,
) -> DataFrame:
    """Spearman's rho of each anomaly score with each quality, per method, layer and class (as in Agg2Exp).

    An anomaly score that warns has rho < 0 with Dice and IoU and rho > 0 with a distance. `missing` cases have no
    label, or no value (a surface distance of something empty), and are left out; q adjusts p for all rows. Several
    cases of one patient are averaged.

    Known failure: IoU and Dice of one class have the same ranks, and so the same rho. Rank correlation sees monotone
    relations only, and a cohort that is segmented uniformly well has nothing to correlate with.
    """
    rows = []
    present = [quality for quality in qualities if quality in cases.columns and cases[quality].notna().any()]
    both = anomaly.merge(cases[["case", "target", *present]], on=["case", "target"], how="left", validate="many_to_one")
    unit = units(both["case"], patients)
    for key, group in both.groupby(GROUP, sort=False):
        means = group[[*SCORES, *present]].groupby(unit[group.index]).mean()
        for score in SCORES:
            for quality in present:
                known = means[[score, quality]].to_numpy()
                kept = known[np.isfinite(known).all(1)]
                found = numeric(kept[:, 0], kept[:, 1], level)
                about = dict(zip(GROUP, key, strict=True)) | {"score": score, "quality": quality}
                about |= {"rho": found.effect, "low": found.low, "high": found.high, "p": found.p}
                rows.append(about | {"n": found.n, "missing": len(known) - len(kept), "reason": found.reason})
    table = DataFrame(rows, columns=[c for c in COLUMNS if c not in ("q", "verdict")] + ["reason"])
    table["q"] = q_values(table["p"].to_numpy(float))
    table["verdict"] = [_verdict(row, alpha) for row in table.to_dict("records")]
    return table[COLUMNS]


def _verdict(row: dict[str, Any], alpha: float) -> str:
    if row["reason"]:
        return str(row["reason"])
    if row["q"] >= alpha:
        return not_found("a relation", row["p"], alpha, f"n = {row['n']}")
    warns = row["rho"] > 0 if row["quality"] == "hd95_mm" else row["rho"] < 0
    return f"anomalous cases are segmented {'worse' if warns else 'better'} (rho = {row['rho']:+.2f}, n = {row['n']})"
