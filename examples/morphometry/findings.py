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
COLUMNS = ("share", "density", "mirror", "own side", "pointing", "pointing@", "deletion", "seconds", "no map")
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


def tables(overall: Sequence[Row], tolerance_mm: float) -> str:
    """The comparison of the methods, and SMOCAM's diagnostics, in Markdown."""
    named = {"pointing": "pointing-game", "pointing@": f"pointing-game@{tolerance_mm:g}"}
    found = {(row["method"], row["metric"]): row for row in overall}
    methods = list(dict.fromkeys(row["method"] for row in overall))

    def cell(method: str, column: str) -> str:
        row = found.get((method, named.get(column, column)))
        if row is None or not np.isfinite(row["mean"]):
            return ""
        if column in ("seconds", "converged", "iterations", "no map"):
            return f"{row['mean']:.3g}"
        return f"{row['mean']:.3f} ({row['low']:.3f} to {row['high']:.3f})"

    def table(columns: Sequence[str], rows: Sequence[str]) -> str:
        columns = [c for c in columns if any(cell(m, c) for m in rows)]
        head = [f"pointing@{tolerance_mm:g} mm" if c == "pointing@" else c for c in columns]
        lines = [["method", *head], ["---"] * (len(head) + 1), *([m, *(cell(m, c) for c in columns)] for m in rows)]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)

    masks = [m for m in methods if (m, "converged") in found]
    return table(COLUMNS, methods) + ("\n\n" + table(DIAGNOSTICS, masks) if masks else "")
