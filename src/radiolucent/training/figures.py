"""Pictures of a training as PNG: confusion matrix, ROC curves, predicted against true values, learning curves, seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from radiolucent.geometry import Array
from radiolucent.report.figures import png
from radiolucent.training.scoring import confusion_matrix

_MOST_NAMED = 12
DPI = 120


def _figure(width: float = 4.8, height: float = 4.2) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def confusion(truth: Array, predicted: Array, classes: Sequence[str]) -> bytes:
    """Counts, coloured by the share of each true class."""
    counts = confusion_matrix(truth, predicted, len(classes))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 2.4 + 0.55 * len(classes)
    figure, axes = _figure(side + 0.6, side)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), n in np.ndenumerate(counts):
        axes.text(column, row, str(n), ha="center", va="center", color="white" if shares[row, column] > 0.5 else "black")
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    return png(figure, DPI)


def roc(curves: Mapping[str, tuple[Array, Array]]) -> bytes:
    """Of each name (positive, values); classes that are not both there have no curve."""
    from sklearn.metrics import roc_auc_score, roc_curve

    figure, axes = _figure()
    for name, (positive, values) in curves.items():
        if positive.all() or not positive.any():
            continue
        false, true, _ = roc_curve(positive, values)
        axes.plot(false, true, label=f"{name}: {roc_auc_score(positive, values):.3f}")
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle="dotted")
    axes.set_xlabel("1 - specificity")
    axes.set_ylabel("sensitivity")
    if axes.get_legend_handles_labels()[1] and len(curves) <= _MOST_NAMED:
        axes.legend(title="AUROC", fontsize=8)
    return png(figure, DPI)


def agreement(truth: Array, predicted: Array, classes: Sequence[str]) -> bytes:
    """Predicted against true values, each output in units of its own spread."""
    figure, axes = _figure()
    middle, spread = truth.mean(0), np.maximum(truth.std(0), 1e-12)
    a, b = (truth - middle) / spread, (predicted - middle) / spread
    for k, name in enumerate(classes):
        axes.plot(a[:, k], b[:, k], ".", markersize=4, label=name if len(classes) <= _MOST_NAMED else None)
    ends = [min(a.min(), b.min()), max(a.max(), b.max())]
    axes.plot(ends, ends, color="grey", linewidth=0.8)
    axes.set_xlabel("true, in standard deviations")
    axes.set_ylabel("predicted")
    if len(classes) <= _MOST_NAMED:
        axes.legend(fontsize=8)
    return png(figure, DPI)


def learning(history: Sequence[Mapping[str, Any]], watch: str) -> bytes:
    """Loss of training and validation over the epochs, and the watched measure; frozen epochs on grey."""
    figure, axes = _figure(6.0)
    epochs = [row["epoch"] for row in history]
    for name in ("train_loss", "val_loss"):
        axes.plot(epochs, [row[name] for row in history], label=name.replace("_", " "))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss")
    frozen = [row["epoch"] for row in history if row["frozen"]]
    if frozen:
        axes.axvspan(frozen[0] - 0.5, frozen[-1] + 0.5, color="0.9", label="encoder frozen")
    if watch != "loss":
        other = axes.twinx()
        values = [np.nan if row[f"val_{watch}"] is None else row[f"val_{watch}"] for row in history]
        other.plot(epochs, values, color="black", linestyle="dashed", label=f"val {watch}")
        other.set_ylabel(watch)
    figure.legend(loc="outside upper center", ncols=4, fontsize=8)
    return png(figure, DPI)


def boxes(groups: Mapping[str, Sequence[float]], label: str) -> bytes:
    """A box for each name over its seeds, with the single values."""
    known = {name: [v for v in values if not np.isnan(v)] for name, values in groups.items()}
    figure, axes = _figure(1.6 + 0.9 * len(groups), 3.6)
    axes.boxplot(list(known.values()), tick_labels=list(known), widths=0.5)
    for place, values in enumerate(known.values(), 1):
        axes.plot([place] * len(values), values, ".", color="black", markersize=4)
    axes.tick_params(axis="x", rotation=30)
    axes.set_ylabel(label)
    return png(figure, DPI)
