"""Remake the figures of the M3d-CAM paper on the demo's scan: its four backends, and its evaluation over the layers.

python examples/hippocampus/m3d_cam.py docs
"""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

import radiolucent as rl
from radiolucent.demo import SCAN
from radiolucent.methods import GradCAM, GradCAMPlusPlus, GuidedBackprop, GuidedGradCAM, describe
from radiolucent.report import figures
from radiolucent.report.depth import by_depth
from radiolucent.report.picture import background, picture

LAYER = "upsamples.1"


def main() -> None:
    folder = Path(sys.argv[1])
    here = files("radiolucent.demo")
    model, card = rl.load(str(here / "hippocampus"))
    scan = rl.read(str(here / SCAN))
    prediction = rl.predict(model, scan, card.preprocessing)
    backends = [GuidedBackprop(), GradCAM(LAYER), GuidedGradCAM(LAYER), GradCAMPlusPlus(LAYER)]
    explanations = prediction.explain(backends, rl.Region(1), classes=card.classes)
    outline = prediction.labels().data[0] == 1
    middle = tuple(int(i) for i in np.argwhere(outline).mean(0).round())
    figure = Figure(figsize=(14, 6.4), layout="constrained", facecolor="white")
    axes = figure.subplots(2, len(explanations))
    for column, explanation in enumerate(explanations):
        drawn = picture(explanation.relevance[0])
        for row, view in enumerate(("sagittal", "coronal")):
            figures.cut(axes[row, column], view, background(scan), drawn, middle, outline)
        figures.legend(figure, list(axes[:, column]), drawn, explanation.method.unit, short=True)
        axes[0, column].set_title(describe(explanation.method)["name"], fontsize=11)
    (folder / "m3d-cam.png").write_bytes(figures.png(figure, 90))

    labels = torch.from_numpy(prediction.labels().on(prediction.image.grid, nearest=True).data)
    injected = rl.inject(model, ["grad-cam", "hires-cam"], layer="full", target=1, metrics=["wioa"])
    with torch.no_grad():
        injected(prediction.x, mask=(labels == 1).long())
    means = [row for row in injected.scores.means() if row["n"]]
    (folder / "m3d-cam-layers.png").write_bytes(figures.png(by_depth(means, injected.scores.layers, ("method",)), 90))


if __name__ == "__main__":
    main()
