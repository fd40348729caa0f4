"""Draw the pictures of docs/smocam.md, after the paper's figures 3 to 6, from the answers of questions.py.

python examples/morphometry/figures.py hippocampus --data ../shared/data/hippocampus --out docs
python examples/morphometry/figures.py brains --data ../shared/data/brain_labels --out docs
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from findings import TABLES
from held_out import HELD_OUT, Held, Scans
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame, read_csv

import radiolucent as rl
from radiolucent.methods import SmoCAM, from_dict
from radiolucent.report import anatomy_figures, figures
from radiolucent.report.picture import background, picture

HERE = Path(__file__).parent
OWN, OTHER = "#d55e00", "#a0a0a0"
EMPTY = ("layer", "hemisphere", "opposite", "unit")
"""Columns of text in which an empty cell is a text without letters."""
SHOWN = {
    "hippocampus": ["anterior hippocampus", "posterior hippocampus", "hippocampus"],
    "brains": ["Lateral Ventricle (right)", "Putamen (right)", "Hippocampus (left)", "Hippocampus (right)"],
}


def masks(model: Any, card: Any, task: Scans, held: Held, outputs: Sequence[str], method: SmoCAM) -> Figure:
    """Each output's mask over the scan, sliced through the middle of the structure that the output measures."""
    prediction = rl.predict(model, held.image)
    targets = rl.Outputs(*(card.classes.index(output) for output in outputs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rl.InputWarning)
        explanation = prediction.explain([method], targets, classes=card.classes, spread=card.spread)[0]
    labels = held.anatomy.labels.on(held.image.grid, nearest=True).data[0]
    figure = Figure(figsize=(9.2, 2.9 * len(outputs)), layout="constrained", facecolor="white")
    rows = figure.subplots(len(outputs), 3, squeeze=False)
    details = explanation.provenance["details"]
    for axes, output, relevance, detail in zip(rows, outputs, explanation.relevance, details, strict=True):
        inside = np.isin(labels, task.own[output])
        middle = tuple(int(i) for i in np.argwhere(inside).mean(0).round())
        drawn = picture(relevance)
        for axis, view in zip(axes, ("sagittal", "coronal", "axial"), strict=True):
            figures.cut(axis, view, background(held.image), drawn, middle, inside)
        axes[0].text(-0.06, 0.5, output, transform=axes[0].transAxes, rotation=90, ha="right", va="center", fontsize=10)
        unit = f"mask; distance {detail['distance']:.2f} sigma" + ("" if detail["converged"] else ", not converged")
        figures.legend(figure, list(axes), drawn, unit, short=True)
    return figure


def tables_in(folder: Path) -> dict[str, DataFrame]:
    """What questions.py wrote."""
    texts, nothing = dict.fromkeys(EMPTY, "str"), dict.fromkeys(EMPTY, "")
    return {name: read_csv(folder / f"{name}.csv", dtype=texts).fillna(nothing) for name in TABLES}


def of_package(table: Mapping[str, DataFrame], methods: Sequence[str]) -> dict[str, Figure]:
    """The package's own pictures of the tables of questions.py (the paper's figures 4 and 6); without those that say nothing."""
    drawn = {}
    for i, method in enumerate(methods, 1):
        density, mirror, points, rho = (
            rows[rows["method"] == method] for rows in (table[n] for n in ("density", "mirror", "variation", "variability"))
        )
        drawn[f"structures-{i}"] = anatomy_figures.density_map(density[~density["region"].str.startswith("tissue")])
        if (mirror["opposite"] != "").any():
            drawn[f"mirror-{i}"] = anatomy_figures.mirror_shares(mirror, 0.05)
        if rho["rho"].notna().any():
            drawn[f"variability-{i}"] = anatomy_figures.variability_scatter(points, rho)
    if len(table["asymmetry"]):
        drawn["asymmetry"] = anatomy_figures.asymmetry_panels(table["asymmetries"], table["asymmetry"])
    return drawn


def methods_compared(overall: Sequence[dict[str, Any]]) -> Figure:
    """Where the attention lies and what its deletion does, one line per method; bars are the intervals over scans."""
    found = {(row["method"], row["metric"]): row for row in overall}
    methods = [m for m in dict.fromkeys(row["method"] for row in overall) if (m, "deletion") in found]
    figure = Figure(figsize=(9.2, 0.24 * len(methods) + 0.9), layout="constrained", facecolor="white")
    panels = figure.subplots(1, 2, sharey=True)
    about = (
        ("density", "density of |R| on the own structure, 1: spread evenly"),
        ("deletion", "output's mean change, sigma"),
    )
    for axis, (metric, text) in zip(panels, about, strict=True):
        for place, method in enumerate(methods):
            if (row := found.get((method, metric))) is not None:
                control = (method, "density") not in found
                axis.plot([row["low"], row["high"]], [place, place], color=OTHER, linewidth=2)
                axis.plot(row["mean"], place, "o", color="black" if control else OWN if "smo-cam" in method else "#0072b2")
        axis.set_xlabel(text, fontsize=8)
        axis.grid(axis="x", linewidth=0.4, alpha=0.6)
        _plain(axis)
    panels[0].axvline(1, color="black", linewidth=0.8, linestyle=":")
    panels[0].set_yticks(range(len(methods)), methods, fontsize=8)
    panels[0].invert_yaxis()
    return figure


def _plain(axis: Axes) -> None:
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=HELD_OUT)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="the model's folder; default: weights/TASK beside this file")
    parser.add_argument("--answers", type=Path, help="of questions.py; default: answers/TASK beside this file")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layer", default="blocks.2", help="of the masks that are drawn")
    parser.add_argument("--iterations", type=int, default=0, help="of them at most; 0: the task's own")
    given = parser.parse_args()
    folder = given.answers or HERE / "answers" / given.task
    answers, table = json.loads((folder / "answers.json").read_bytes()), tables_in(folder)
    model, card = rl.load(str(given.model or HERE / "weights" / given.task))
    task, shown = HELD_OUT[given.task](given.data), SHOWN[given.task]
    settings = {"method": "smo-cam", "layer": given.layer, "iterations": given.iterations or task.smocam[given.layer]}
    drawn = {
        "masks": masks(model, card, task, next(iter(task(1))), shown, from_dict(settings)),
        "methods": methods_compared(answers["overall"]),
        **of_package(table, [f"smo-cam at {given.layer}", "gradient"]),
    }
    for name, figure in drawn.items():
        (given.out / f"smocam-{given.task}-{name}.png").write_bytes(figures.png(figure, 72))


if __name__ == "__main__":
    main()
