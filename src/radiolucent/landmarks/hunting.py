"""Bias hunt: which images are decided by response outside the anatomy, and what do they have in common?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
from pandas import DataFrame

from radiolucent.analysis import bias
from radiolucent.errors import BadInput

OUTSIDE = "response outside"
GROUPS = ("all", "correct", "misclassified")


class Hunt(NamedTuple):
    """What a bias hunt found.

    ranking: a row per case, the most response outside the anatomy first: case, truth, predicted, correct, outside, and the
        share of each place that is no anatomy.
    tests: the rows of `analysis.bias`, with `target` = all, correct or misclassified; empty where no covariate is known.
    """

    ranking: DataFrame
    tests: DataFrame

    def found(self, alpha: float = 0.05) -> DataFrame:
        """The tests that the false discovery rate lets through, the largest effect first."""
        if self.tests.empty:
            raise BadInput("a hunt with covariates", "one that tested none", "Give `cases` a column for each: hardware, view, ...")
        kept = self.tests[self.tests["q"] < alpha]
        return kept.reindex(kept["effect"].abs().sort_values(ascending=False).index)


def hunt(
    rows: DataFrame | Sequence[Mapping[str, Any]],
    cases: DataFrame,
    covariates: Sequence[str] = (),
    *,
    patients: Mapping[str, str] | None = None,
    level: float = 0.95,
    alpha: float = 0.05,
) -> Hunt:
    """Rank the images by the share of response outside the anatomy, and test it against each covariate.

        outside = 1 - sum of the shares of the rows of kind "landmark"

    so the landmarks must not overlap: bone and soft tissue, say. Tested are `outside` and the share of each annotation, the
    background and the border, over all cases, and over the correct and the misclassified ones apart.

    Args:
        rows: those of `correspondence` of one model, with a column `case`.
        cases: case, truth, predicted (the classes, by name), and a column for each covariate (hardware, view, ...).
        covariates: all other columns if none is named.
        patients: case -> patient where some have several.

    Known failure: a covariate that goes with the class goes with whatever the network does for that class: test within a
    class too. The map must be one that knows the target; else it shows what is seen, not what decides.
    """
    table = DataFrame(rows) if not isinstance(rows, DataFrame) else rows
    needed = {"case": table, "landmark": table, "kind": table, "share": table, "truth": cases, "predicted": cases}
    lacking = [name for name, where in needed.items() if name not in where.columns] + ([] if "case" in cases.columns else ["case"])
    if lacking:
        raise BadInput(
            "rows of correspondence with a case, and cases with truth and predicted", f"no {', '.join(lacking)}", "Add it."
        )
    if table.duplicated(["case", "landmark"]).any():
        raise BadInput("one map per case", "several rows for a case and landmark", "Hunt in one model and method at a time.")
    manifest = cases.assign(case=cases["case"].astype(str))
    twice = manifest["case"][manifest["case"].duplicated()].unique()
    if len(twice):
        raise BadInput("one row of `cases` for each case", f"several for {', '.join(twice[:5])}", "Leave one of each.")
    ranking = _ranking(table, manifest)
    names = list(covariates) or [c for c in cases.columns if c not in ("case", "truth", "predicted")]
    tests = bias(_values(ranking), manifest, names, patients=patients, level=level, alpha=alpha) if names else DataFrame()
    return Hunt(ranking, tests)


def _ranking(table: DataFrame, cases: DataFrame) -> DataFrame:
    shares = table.assign(case=table["case"].astype(str)).pivot_table(
        index="case", columns="landmark", values="share", aggfunc="first", dropna=False
    )
    kinds = table.groupby("landmark")["kind"].first()
    anatomy = shares[[name for name in shares.columns if kinds[name] == "landmark"]]
    known = anatomy.notna().any(axis=1)
    ranking = DataFrame({"outside": (1 - anatomy.sum(axis=1)).where(known)})
    overlap = ranking["outside"] < -1e-6
    if overlap.any():
        got = f"shares that sum to {1 - float(ranking['outside'].min()):.3g} in {overlap.idxmax()}"
        raise BadInput("landmarks that do not overlap", got, "Join those that do.")
    for name in shares.columns:
        if kinds[name] != "landmark":
            ranking[name] = shares[name]
    about = cases.set_index("case")[["truth", "predicted"]]
    unknown = [case for case in ranking.index if case not in about.index]
    if unknown:
        raise BadInput("a row of `cases` for each case", f"none for {', '.join(unknown[:5])}", "Add them.")
    ranking = about.join(ranking, how="inner")
    ranking.insert(2, "correct", ranking["truth"] == ranking["predicted"])
    return ranking.sort_values("outside", ascending=False, kind="stable").reset_index(names="case")


def _values(ranking: DataFrame) -> DataFrame:
    """What `bias` tests, as a long table."""
    quantities = [c for c in ranking.columns if c not in ("case", "truth", "predicted", "correct")]
    parts = []
    for group in GROUPS:
        chosen = ranking if group == "all" else ranking[ranking["correct"] == (group == "correct")]
        for name in quantities:
            about = {"case": chosen["case"], "method": "", "layer": "", "target": group, "value": chosen[name]}
            where = ("", OUTSIDE) if name == "outside" else (name, "response on")
            parts.append(DataFrame(about | {"quantity": where[1], "region": where[0]}))
    return pd.concat(parts, ignore_index=True)
