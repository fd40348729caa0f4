"""A small picture of a case for a page of many: targets downwards, methods to the right."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure

from radiolucent.explanation import Explanation
from radiolucent.report import figures
from radiolucent.report.picture import background, overlay, picture
from radiolucent.volume import Volume

_MOST = 4  # rows, columns
_MOST_VOXELS = 1 << 21
_INCHES, _DPI = 1.2, 80


def thumbnail(scan: Volume, explanations: Sequence[Explanation]) -> bytes:
    """PNG: each map through its own peak (3D: the axial slice), without legend; at most four targets and methods."""
    shown = explanations[:_MOST]
    targets = list(dict.fromkeys(target for e in shown for target in e.targets))[:_MOST]
    grey = background(scan, _MOST_VOXELS)
    figure = Figure(figsize=(_INCHES * len(shown), _INCHES * len(targets)), facecolor="black")
    axes = figure.subplots(len(targets), len(shown), squeeze=False, gridspec_kw={"wspace": 0.02, "hspace": 0.02})
    figure.subplots_adjust(0, 0, 1, 1)
    for row, target in zip(axes, targets, strict=True):
        for axis, explanation in zip(row, shown, strict=True):
            axis.set_axis_off()
            if target in explanation.targets:
                drawn = picture(explanation.relevance[explanation.targets.index(target)], _MOST_VOXELS)
                if grey.data.ndim == 3:
                    axis.imshow(overlay(grey.data[0], drawn.value))
                else:
                    figures.cut(axis, "axial", grey, drawn, drawn.peak, None, marks=False)
                    axis.set_title("")
    buffer = io.BytesIO()
    with matplotlib.rc_context({"savefig.facecolor": "auto"}):
        figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()
