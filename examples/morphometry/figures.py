"""Draw the pictures of docs/smocam.md, after the paper's figures 3 to 6, from the answers of questions.py.

python examples/morphometry/figures.py hippocampus --data ../shared/data/hippocampus --out docs
python examples/morphometry/figures.py brains --data ../shared/data/brain_labels --out docs
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from held_out import HELD_OUT, Held, Scans
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame, read_csv

import radiolucent as rl
from radiolucent.methods import SmoCAM, from_dict
from radiolucent.report import figures
from radiolucent.report.picture import background, picture

HERE = Path(__file__).parent
OWN, MIRROR, OTHER = "#d55e00", "#009e73", "#a0a0a0"
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


def attention(regions: DataFrame, task: Scans, methods: Sequence[str], outputs: Sequence[str], most: int = 12) -> Figure:
    """Density of the attention in each structure (the paper's figure 4): a panel per method and output."""
    named = regions[~regions["region"].str.startswith("tissue")]
    height = 0.5 + 0.19 * min(most, named["region"].nunique())
    figure = Figure(figsize=(3.3 * len(outputs) + 0.6, len(methods) * height + 0.5), layout="constrained", facecolor="white")
    panels = figure.subplots(len(methods), len(outputs), squeeze=False)
    for method, row in zip(methods, panels, strict=True):
        for output, axis in zip(outputs, row, strict=True):
            part = named[(named["method"] == method) & (named["target"] == output)].sort_values("density", ascending=False)
            place = part.reset_index(drop=True)
            own, mirror = task.own[output], task.mirror.get(output, [])
            kept = place[(place.index < most - 2) | place["label"].isin([*own, *mirror])]
            colours = [OWN if v in own else MIRROR if v in mirror else OTHER for v in kept["label"]]
            names = [f"{i + 1}  {name}" for i, name in zip(kept.index, kept["region"], strict=True)]
            axis.barh(range(len(kept)), kept["density"], color=colours)
            axis.set_yticks(range(len(kept)), names, fontsize=7)
            axis.invert_yaxis()
            axis.axvline(1, color="black", linewidth=0.8, linestyle=":")
            axis.set_title(f"{output}\n{method}", fontsize=8)
            _plain(axis)
    figure.supxlabel(
        "|attention| per volume, 1 (dotted): as if spread evenly; orange: what is measured, green: its mirror", fontsize=8
    )
    return figure


def sides(rows: Sequence[dict[str, Any]], pairs: Sequence[str]) -> Figure:
    """Asymmetry predicted against true (the paper's figure 6), right minus left over their mean."""
    found = {row["pair"]: row for row in rows}
    figure = Figure(figsize=(3.0 * len(pairs), 3.2), layout="constrained", facecolor="white")
    for axis, pair in zip(figure.subplots(1, len(pairs), squeeze=False)[0], pairs, strict=True):
        row = found[pair]
        _against(axis, np.array(row["true"]), np.array(row["predicted"]))
        title = f"{pair}: slope {row['slope']:.2f}\nleft with right: r = {row['r_true']:.2f} true, {row['r_said']:.2f} predicted"
        axis.set_title(title, fontsize=8)
        axis.set_xlabel("true right - left, / mean", fontsize=8)
    figure.axes[0].set_ylabel("predicted", fontsize=8)
    return figure


def methods_compared(overall: Sequence[dict[str, Any]]) -> Figure:
    """Where the attention lies and what its deletion does, one line per method; bars are the intervals over scans."""
    found = {(row["method"], row["metric"]): row for row in overall}
    methods = [m for m in dict.fromkeys(row["method"] for row in overall) if (m, "deletion") in found]
    figure = Figure(figsize=(9.2, 0.24 * len(methods) + 0.9), layout="constrained", facecolor="white")
    panels = figure.subplots(1, 2, sharey=True)
    about = (("density", "|attention| on the own structure per volume"), ("deletion", "output's mean change, sigma"))
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


def _against(axis: Axes, true: np.ndarray, said: np.ndarray) -> None:
    both = np.concatenate([true, said])
    ends = [both.min(), both.max()]
    axis.plot(ends, ends, color="black", linewidth=0.8, linestyle=":")
    axis.plot(true, said, "o", color=OWN, markersize=3.5, alpha=0.7, markeredgewidth=0)
    axis.set_aspect("equal")
    axis.grid(linewidth=0.4, alpha=0.6)
    _plain(axis)


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
    answers, regions = json.loads((folder / "answers.json").read_bytes()), read_csv(folder / "regions.csv")
    model, card = rl.load(str(given.model or HERE / "weights" / given.task))
    task, shown = HELD_OUT[given.task](given.data), SHOWN[given.task]
    settings = {"method": "smo-cam", "layer": given.layer, "iterations": given.iterations or task.smocam[given.layer]}
    drawn = {
        "masks": masks(model, card, task, next(iter(task(1))), shown, from_dict(settings)),
        "structures": attention(regions, task, [f"smo-cam at {given.layer}", "gradient"], shown),
        "methods": methods_compared(answers["overall"]),
    }
    if task.pairs:
        drawn["asymmetry"] = sides(answers["asymmetry"], ["Lateral Ventricle", "Hippocampus", "Putamen"])
    for name, figure in drawn.items():
        (given.out / f"smocam-{given.task}-{name}.png").write_bytes(figures.png(figure, 72))


if __name__ == "__main__":
    main()
