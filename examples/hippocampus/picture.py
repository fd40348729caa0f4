"""Draw the README's picture: the demo's methods side by side, one sagittal slice per label.

python examples/hippocampus/picture.py docs/demo.png
"""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from radiolucent import Region, load, predict, read
from radiolucent.demo import METHODS, SCAN
from radiolucent.methods import describe
from radiolucent.report import figures
from radiolucent.report.picture import background, picture


def main() -> None:
    here = files("radiolucent.demo")
    model, card = load(str(here / "hippocampus"))
    scan = read(str(here / SCAN))
    prediction = predict(model, scan, card.preprocessing)
    explanations = prediction.explain(METHODS, Region(1, 2), classes=card.classes)
    labels = prediction.labels().data[0]
    figure = Figure(figsize=(12, 6.2), layout="constrained", facecolor="white")
    axes = figure.subplots(2, len(explanations))
    for column, explanation in enumerate(explanations):
        for row, (target, relevance) in enumerate(zip(explanation.targets, explanation.relevance, strict=True)):
            outline = labels == row + 1
            middle = tuple(int(i) for i in np.argwhere(outline).mean(0).round())
            drawn = picture(relevance)
            figures.cut(axes[row, column], "sagittal", background(scan), drawn, middle, outline)
            figures.legend(figure, [axes[row, column]], drawn, explanation.method.unit, short=True)
            axes[row, column].set_title(f"{describe(explanation.method)['name']}: {target}", fontsize=10)
    Path(sys.argv[1]).write_bytes(figures.png(figure, 90))


if __name__ == "__main__":
    main()
