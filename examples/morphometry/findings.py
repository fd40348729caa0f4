"""From the rows of all scans to what they say: means, relations, sides, agreement with the truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pandas import DataFrame

from radiolucent.analysis import laterality, sides
from radiolucent.analysis.effects import numeric
from radiolucent.statistics import intraclass_correlation, means

Row = dict[str, Any]
Values = NDArray[np.floating]
COLUMNS = ("share", "density", "mirror", "own side", "unlabelled", "pointing", "pointing@", "deletion", "seconds", "no map")
PLAIN = ("seconds", "converged", "iterations", "no map")
PAIRS = ("slope", "r", "ICC(2,1)", "r_true", "r_said")
DIAGNOSTICS = ("at start", "distance", "converged", "iterations")


def agreement(outputs: Sequence[str], truth: Values, said: Values) -> list[Row]:
    """Of each output (scans, outputs) with the truth: intraclass correlation and mean absolute error in mm3."""
    return [
        {
            "output": output,
            "ICC(2,1)": intraclass_correlation(np.stack([truth[:, i], said[:, i]], 1), "ICC(2,1)"),
            "error_mm3": float(np.abs(truth[:, i] - said[:, i]).mean()),
        }
        for i, output in enumerate(outputs)
    ]


def relations(by_output: Sequence[Row], variation: dict[str, float], icc: dict[str, float]) -> list[Row]:
    """Over the outputs: Spearman's rho of the attention on the own structure with its variation, and with the output's ICC."""
    rows = []
    for method in dict.fromkeys(row["method"] for row in by_output):
        for metric in ("density", "share", "own side"):
            of = {row["output"]: row["mean"] for row in by_output if (row["method"], row["metric"]) == (method, metric)}
            of = {output: value for output, value in of.items() if np.isfinite(value)}
            for name, other in (("coefficient of variation", variation), ("ICC", icc)):
                found = numeric(np.array([other[o] for o in of]), np.array(list(of.values())))
                about = {"rho": found.effect, "low": found.low, "high": found.high, "p": found.p}
                rows.append({"method": method, "attention": metric, "with": name, "n": len(of)} | about | {"reason": found.reason})
    return rows


def sidedness(attention: DataFrame, pairs: Sequence[tuple[str, str]]) -> list[Row]:
    """For each paired output: is there more attention (density) on its left or on its right structure? q is over the method."""
    rows: list[Row] = []
    for _, part in attention.groupby("method", sort=False):
        found = sides(part, pairs, value="density")
        stems = {name: left.rsplit(" (", 1)[0].lower() for left, right in pairs for name in (left, right)}
        own = found[[stems.get(t) == p.lower() for t, p in zip(found["target"], found["pair"], strict=True)]]
        rows += laterality(own.reset_index(drop=True)).to_dict("records") if len(own) else []
    return rows


def asymmetry(outputs: Sequence[str], pairs: Sequence[tuple[str, str]], truth: Values, said: Values) -> list[Row]:
    """Right minus left over their mean, of the truth and of the prediction, for each pair.

    slope: of the prediction on the truth; 1 keeps an asymmetry, 0 overlooks it. r_true, r_said: Pearson's correlation of
    the left and the right volume; where the prediction's is far higher, both sides are read off the same place.
    """
    rows = []
    for left, right in pairs:
        l, r = outputs.index(left), outputs.index(right)
        true, guess = ((v[:, r] - v[:, l]) / ((v[:, r] + v[:, l]) / 2) for v in (truth, said))
        rows.append(
            {
                "pair": left.rsplit(" (", 1)[0],
                "slope": float(np.polyfit(true, guess, 1)[0]),
                "r": float(np.corrcoef(true, guess)[0, 1]),
                "ICC(2,1)": intraclass_correlation(np.stack([true, guess], 1), "ICC(2,1)"),
                "r_true": float(np.corrcoef(truth[:, l], truth[:, r])[0, 1]),
                "r_said": float(np.corrcoef(said[:, l], said[:, r])[0, 1]),
                "true": true.tolist(),
                "predicted": guess.tolist(),
            }
        )
    return rows


def by_structure(attention: DataFrame) -> DataFrame:
    """Mean density of each method's attention for each output in each structure, 1 where it is that of the labelled volume."""
    labelled = attention[attention["label"] != 0]
    voxels = labelled.groupby(["case", "method", "target"])["voxels"].transform("sum")
    density = labelled["mass_fraction"] / (labelled["voxels"] / voxels)
    by = ["method", "target", "label", "region", "hemisphere"]
    return labelled.assign(density=density).groupby(by, sort=False, as_index=False)["density"].mean()


def means_of(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Means over scans of the mean over outputs, and of each output; with bootstrap intervals over scans."""
    return means(rows, ["method", "metric"]), means(rows, ["method", "output", "metric"])


def tables(found: dict[str, Any], tolerance_mm: float) -> str:
    """The comparison of the methods, SMOCAM's diagnostics, the outputs, and what attention is related to, in Markdown."""
    overall = {(row["method"], row["metric"]): row for row in found["overall"]}
    methods = list(dict.fromkeys(row["method"] for row in found["overall"]))
    parts = [_compared(overall, methods, COLUMNS, tolerance_mm)]
    parts += [_compared(overall, [m for m in methods if (m, "converged") in overall], DIAGNOSTICS, tolerance_mm)]
    density = {(row["method"], row["output"]): row["mean"] for row in found["by_output"] if row["metric"] == "density"}
    with_map = list(dict.fromkeys(method for method, _ in density))
    lines = [["density for", "ICC(2,1)", "variation", *with_map]]
    for row in found["agreement"]:
        numbers = [row["ICC(2,1)"], row["variation"], *(density.get((m, row["output"]), np.nan) for m in with_map)]
        lines.append([row["output"], *map("{:.2f}".format, numbers)])
    parts.append(_markdown(lines))
    made = [row for row in found["relations"] if not row["reason"]]
    rho = [[row["method"], row["attention"], row["with"], _interval(row, "rho", 2), f"{row['p']:.2g}"] for row in made]
    pairs = [[row["pair"], *(f"{row[c]:.2f}" for c in PAIRS)] for row in found["asymmetry"]]
    parts += [_markdown([["method", "attention", "with", "rho", "p"], *rho])] if rho else []
    parts += [_markdown([["asymmetry", *PAIRS], *pairs])] if pairs else []
    if found["sides"]:
        parts += [_markdown([["method", "outputs seen on their own side", "on the other", "undecided"], *_sides(found["sides"])])]
    return "\n\n".join(parts)


def _sides(rows: Sequence[Row], alpha: float = 0.05) -> list[list[str]]:
    """For each method how many outputs have significantly more attention on which side (q below alpha)."""
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        of = [row for row in rows if row["method"] == method]
        own = [row["effect"] * (1 if row["target"].endswith("(left)") else -1) for row in of if row["q"] < alpha]
        counts = [sum(e > 0 for e in own), sum(e < 0 for e in own), len(of) - len(own)]
        lines.append([method, *map(str, counts)])
    return lines


def _compared(overall: dict[tuple[str, str], Row], methods: Sequence[str], columns: Sequence[str], tolerance_mm: float) -> str:
    named = {"pointing": "pointing-game", "pointing@": f"pointing-game@{tolerance_mm:g}"}

    def cell(method: str, column: str) -> str:
        row = overall.get((method, named.get(column, column)))
        if row is None or not np.isfinite(row["mean"]):
            return ""
        return f"{row['mean']:.3g}" if column in PLAIN else _interval(row, "mean", 3)

    columns = [c for c in columns if any(cell(m, c) for m in methods)]
    head = [f"pointing@{tolerance_mm:g} mm" if c == "pointing@" else c for c in columns]
    return _markdown([["method", *head], *([m, *(cell(m, c) for c in columns)] for m in methods)])


def _interval(row: Row, value: str, digits: int) -> str:
    return f"{row[value]:.{digits}f} ({row['low']:.{digits}f} to {row['high']:.{digits}f})"


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    """The first line is the head."""
    lines = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
