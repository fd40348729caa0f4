"""From the rows of all scans to what they say: the package's own analysis of structures, means, and tables in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

import numpy as np
from pandas import DataFrame

from radiolucent import analysis
from radiolucent.statistics import intraclass_correlation, means

Row = dict[str, Any]
TABLES = ("density", "mirror", "variation", "variability", "asymmetries", "asymmetry")
COLUMNS = ("share", "density", "mirror", "index", "unlabelled", "pointing", "pointing@", "deletion", "seconds", "no map")
PLAIN = ("seconds", "converged", "iterations", "no map")
DIAGNOSTICS = ("at start", "distance", "converged", "iterations")
SHARES = {"own": "share", "mirror": "mirror", "density": "density", "index": "index", "unlabelled": "unlabelled"}


def agreement(measured: DataFrame) -> list[Row]:
    """Of each output with the truth: intraclass correlation and mean absolute error in mm3.

    `measured` has a row per test scan and output: case, patient, target, true, score.
    """
    rows = []
    for output, of in measured.groupby("target", sort=False):
        both = of[["true", "score"]].to_numpy(float)
        error = float(np.abs(both[:, 1] - both[:, 0]).mean())
        rows.append({"output": output, "ICC(2,1)": intraclass_correlation(both, "ICC(2,1)"), "error_mm3": error})
    return rows


def structures(
    attention: DataFrame, measured: DataFrame, outputs: DataFrame, named: Sequence[tuple[str, str]] = ()
) -> dict[str, DataFrame]:
    """The tables of `radiolucent.analysis.anatomy`: attention by scans that were explained, asymmetry by all test scans.

    Scans of one patient are averaged before any test or interval of attention. Asymmetry is the exception: few patients
    with many scans each would leave nothing to fit a slope to. It describes these scans, and so has no p.

    Args:
        outputs: of the model, with mean and spread in the training data: what `anatomy` takes.
        named: `structures` of the analysis' settings.
    """
    patients = dict(zip(measured["case"], measured["patient"], strict=True))
    true = measured.pivot(index="case", columns="target", values="true").add_prefix("true ").reset_index()
    settings = analysis.Settings(structures=tuple(named), truth="true {target}")
    regions, said = analysis.checked(attention), measured[["case", "target", "score"]]
    table = dict(analysis.anatomy(regions, said, true, outputs, settings, patients).tables)
    slopes = analysis.asymmetry(table["asymmetries"], unit=next(iter(outputs["unit"])))
    return table | {"asymmetry": slopes.drop(columns=["p", "q", "verdict"])}


def shares(own: DataFrame, patients: Mapping[str, str]) -> list[Row]:
    """The rows of `radiolucent.analysis.own` as those of all other metrics."""
    wide = own.assign(unlabelled=1 - own["inside"], patient=own["case"].map(patients))
    long = wide.rename(columns={"target": "output"}).melt(["case", "patient", "method", "output"], list(SHARES), "metric")
    return long.assign(metric=long["metric"].map(SHARES)).dropna().to_dict("records")


def means_of(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Means over patients of the mean over outputs, and of each output; with bootstrap intervals over patients."""
    return means(rows, ["method", "metric"], case="patient"), means(rows, ["method", "output", "metric"], case="patient")


def tables(found: Mapping[str, Any], table: Mapping[str, DataFrame], tolerance_mm: float) -> str:
    """The comparison of the methods, SMOCAM's diagnostics, the outputs, variability, asymmetry and sides, in Markdown."""
    overall = {(row["method"], row["metric"]): row for row in found["overall"]}
    methods = list(dict.fromkeys(row["method"] for row in found["overall"]))
    parts = [_compared(overall, methods, COLUMNS, tolerance_mm)]
    parts += [_compared(overall, [m for m in methods if (m, "converged") in overall], DIAGNOSTICS, tolerance_mm)]
    parts += [_outputs(found), _variability(table["variability"]), _asymmetry(table["asymmetry"]), _sides(table["mirror"])]
    return "\n\n".join(part for part in parts if part)


def _outputs(found: Mapping[str, Any]) -> str:
    density = {(row["method"], row["output"]): row["mean"] for row in found["by_output"] if row["metric"] == "density"}
    with_map = [row["method"] for row in found["overall"] if row["metric"] == "density"]
    lines = [["density for", "ICC(2,1)", "variation", *with_map]]
    for row in found["agreement"]:
        numbers = [row["ICC(2,1)"], row["variation"], *(density.get((m, row["output"]), np.nan) for m in with_map)]
        lines.append([row["output"], *map("{:.2f}".format, numbers)])
    return _markdown(lines)


def _variability(table: DataFrame) -> str:
    lines = [
        [row["method"], _interval(row, "rho", 2), f"{row['p']:.2g}", f"{row['q']:.2g}", str(row["n"])]
        for row in table.dropna(subset=["rho"]).to_dict("records")
    ]
    return _markdown([["method", "density with variation, rho", "p", "q", "structures"], *lines]) if lines else ""


def _asymmetry(table: DataFrame) -> str:
    lines = [
        [row["pair"], _interval(row, "slope", 2), *(f"{row[c]:.2f}" for c in ("r", "icc", "r_total")), str(row["n"])]
        for row in table.dropna(subset=["slope"]).to_dict("records")
    ]
    return _markdown([["right - left", "slope", "r", "ICC(2,1)", "r of right + left", "scans"], *lines]) if lines else ""


def _sides(mirror: DataFrame, alpha: float = 0.05) -> str:
    """For each method the mean index, and how many outputs' attention is on their own side, the other, or equally on both."""
    lines = []
    for method, of in mirror[mirror["opposite"] != ""].groupby("method", sort=False):
        tested, same = of["q"].notna(), of["q_equal"] < alpha
        differs, own = (of["q"] < alpha) & ~same, of["effect"] > 0
        counts = [differs & own, differs & ~own, same, tested & ~differs & ~same, ~tested]
        least = [f"{of[q].min():.2g}" if tested.any() else "" for q in ("q", "q_equal")]
        lines.append([str(method), f"{of['mean'].mean():.2f}", *(str(int(c.sum())) for c in counts), *least, str(of["n"].max())])
    head = [
        "method",
        "mean index",
        "own side",
        "other side",
        "equal",
        "undecided",
        "too few",
        "least q",
        "least q equal",
        "patients",
    ]
    return _markdown([head, *lines]) if lines else ""


def _compared(overall: Mapping[tuple[str, str], Row], methods: Sequence[str], columns: Sequence[str], tolerance_mm: float) -> str:
    named = {"pointing": "pointing-game", "pointing@": f"pointing-game@{tolerance_mm:g}"}

    def cell(method: str, column: str) -> str:
        row = overall.get((method, named.get(column, column)))
        if row is None or not np.isfinite(row["mean"]):
            return ""
        return f"{row['mean']:.3g}" if column in PLAIN else _interval(row, "mean", 3)

    columns = [c for c in columns if any(cell(m, c) for m in methods)]
    if not columns:
        return ""
    head = [f"pointing@{tolerance_mm:g} mm" if c == "pointing@" else c for c in columns]
    return _markdown([["method", *head], *([m, *(cell(m, c) for c in columns)] for m in methods)])


def _interval(row: Mapping[str, Any], value: str, digits: int) -> str:
    """The value with its interval, where there is one: not of a single patient."""
    given = f"{row[value]:.{digits}f}"
    return given if isnan(row["low"]) else f"{given} ({row['low']:.{digits}f} to {row['high']:.{digits}f})"


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    """The first line is the head."""
    lines = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
