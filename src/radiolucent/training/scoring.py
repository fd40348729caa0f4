"""Measures of predictions with bootstrap intervals: all are functions of weighted cases, so that a resample is a weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from radiolucent.errors import BadInput
from radiolucent.geometry import Array
from radiolucent.statistics import Mean, bootstrap
from radiolucent.training.recipe import Task

Measure = Callable[[Array], Array]
"""Weights of the cases (r, n) to values (r,)."""

MEASURES: Mapping[str, tuple[str, ...]] = {
    "classification": ("auroc", "acc", "f1", "mcc", "balanced_accuracy"),
    "multi-label": ("auroc", "acc", "f1", "mcc", "balanced_accuracy", "exact_match"),
    "regression": ("r2", "mae", "rmse", "pearson"),
}
"""What is measured for each task. All but mae and rmse are better the higher they are."""

LOWER_IS_BETTER = ("mae", "rmse", "loss")


def measures(truth: Array, predicted: Array, task: Task) -> dict[str, Measure]:
    """The task's measures of these predictions.

    Args:
        truth: class numbers (n,), or (n, outputs).
        predicted: probabilities (n, classes or labels), or values (n, outputs).

    Classification as in MedMNIST: with two classes AUROC and F1 are those of the second, with more the plain mean over
    the classes, each against the rest. MCC is Gorodkin's R_K. Multi-label: the mean over the labels, present from 0.5 on.
    Regression: the mean over the outputs (rmse: of each output's root). What has no value is NaN.
    """
    if task == "regression":
        return _regression(truth, predicted)
    if task == "multi-label":
        present, is_told = truth > 0.5, predicted >= 0.5
        both = np.stack([1 - predicted, predicted], 2)
        each = [_of_classes(present[:, k].astype(int), both[:, k], is_told[:, k].astype(int)) for k in range(truth.shape[1])]
        exact = (is_told == present).all(1).astype(float)
        return {name: _mean_of([found[name] for found in each]) for name in each[0]} | {
            "exact_match": lambda w: w @ exact / w.sum(1)
        }
    return _of_classes(truth, predicted, predicted.argmax(1))


def score(
    truth: Array, predicted: Array, task: Task, patients: Sequence[str], *, resamples: int = 1000, seed: int = 0
) -> dict[str, Mean]:
    """Each measure with its 95 % interval. What is drawn with replacement is patients."""
    return {
        name: bootstrap(measure, len(truth), groups=patients, resamples=resamples, seed=seed)
        for name, measure in measures(truth, predicted, task).items()
    }


def point(truth: Array, predicted: Array, task: Task, name: str) -> float:
    """One measure without an interval."""
    return float(measures(truth, predicted, task)[name](np.ones((1, len(truth))))[0])


def check_watched(truth: Array, classes: Sequence[str], task: Task, watch: str) -> None:
    """Refuse a validation in which even right predictions have no value of what is watched: nothing would ever be best."""
    right = np.eye(len(classes))[truth] if task == "classification" else truth
    if watch != "loss" and np.isnan(measures(truth, right, task)[watch](np.ones((1, len(truth))))[0]):
        got = f"{len(truth)} cases of val in which {watch} has no value"
        raise BadInput(f"a validation in which {watch} can be measured", got, 'Split anew, or watch = "loss" in [stopping].')


def _of_classes(truth: Array, predicted: Array, guess: Array) -> dict[str, Measure]:
    k = predicted.shape[1]
    cell = truth * k + guess
    cells = np.eye(k * k)[cell]

    def confusion(weights: Array) -> Array:
        """(r, truth, predicted)"""
        return (weights @ cells).reshape(-1, k, k)

    curves = [_auroc(truth == c, predicted[:, c]) for c in ([1] if k == 2 else range(k))]
    return {
        "auroc": _mean_of(curves),
        "acc": lambda w: _ratio(np.trace(confusion(w), axis1=1, axis2=2), w.sum(1)),
        "f1": lambda w: _f1(confusion(w)),
        "mcc": lambda w: _mcc(confusion(w)),
        "balanced_accuracy": lambda w: _balanced(confusion(w)),
    }


def _auroc(positive: Array, values: Array) -> Measure:
    """The share of pairs of a positive and a negative case that are in the right order; ties count a half."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(values[order]) > 0])
    up = positive[order].astype(float)

    def measure(weights: Array) -> Array:
        w = weights[:, order]
        ups, downs = np.add.reduceat(w * up, starts, axis=1), np.add.reduceat(w * (1 - up), starts, axis=1)
        below = np.cumsum(downs, 1) - downs / 2
        return _ratio((ups * below).sum(1), ups.sum(1) * downs.sum(1))

    return measure


def _f1(confusion: Array) -> Array:
    """2 TP / (2 TP + FP + FN)"""
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    each = _ratio(2 * hits, confusion.sum(1) + confusion.sum(2))
    return each[:, 1] if confusion.shape[1] == 2 else each.mean(1)


def _mcc(confusion: Array) -> Array:
    """Gorodkin 2004; 0 where only one class is predicted, as scikit-learn has it."""
    hits, truths, guesses = np.trace(confusion, axis1=1, axis2=2), confusion.sum(2), confusion.sum(1)
    total = confusion.sum((1, 2))
    above = hits * total - (truths * guesses).sum(1)
    spread, spread_of_truth = total**2 - (guesses**2).sum(1), total**2 - (truths**2).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = above / np.sqrt(spread * spread_of_truth)
    return np.where(spread_of_truth <= 0, np.nan, np.where(spread <= 0, 0.0, found))


def _balanced(confusion: Array) -> Array:
    """The mean of each class's sensitivity."""
    return _ratio(np.diagonal(confusion, axis1=1, axis2=2), confusion.sum(2)).mean(1)


def _regression(truth: Array, predicted: Array) -> dict[str, Measure]:
    off, k = predicted - truth, truth.shape[1]
    spread = np.where(np.ptp(truth, axis=0) > 0, truth.std(0), 1)
    mean, far = truth.mean(0), off / spread
    truth, predicted = (truth - mean) / spread, (predicted - mean) / spread  # sums of squares then keep their digits, in any unit

    def r2(w: Array) -> Array:
        mean = w @ truth / w.sum(1, keepdims=True)
        varies = w @ truth**2 / w.sum(1, keepdims=True) - mean**2
        return (1 - _ratio(w @ far**2 / w.sum(1, keepdims=True), np.where(varies > 1e-12, varies, 0))).mean(1)

    def pearson(w: Array) -> Array:
        total = w.sum(1, keepdims=True)
        a, b = w @ truth / total, w @ predicted / total
        both = w @ (truth * predicted) / total - a * b
        spread = np.sqrt(np.clip((w @ truth**2 / total - a**2) * (w @ predicted**2 / total - b**2), 0, None))
        return _ratio(both, np.where(spread > 1e-12, spread, 0)).mean(1)

    return {
        "r2": r2,
        "mae": lambda w: w @ np.abs(off).sum(1) / w.sum(1) / k,
        "rmse": lambda w: np.sqrt(w @ off**2 / w.sum(1, keepdims=True)).mean(1),
        "pearson": pearson,
    }


def _mean_of(parts: Sequence[Measure]) -> Measure:
    """Over classes or labels; those without a value are left out."""

    def measure(weights: Array) -> Array:
        values = np.stack([part(weights) for part in parts])
        known = ~np.isnan(values)
        return _ratio(np.where(known, values, 0).sum(0), known.sum(0))

    return measure


def _ratio(a: Array, b: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(b > 0, a / b, np.nan)


def confusion_matrix(truth: Array, predicted: Array, classes: int) -> Array:
    """Counts (truth, predicted) of class numbers."""
    return np.bincount(truth * classes + predicted, minlength=classes**2).reshape(classes, classes)


def plain(scores: Mapping[str, Mean]) -> dict[str, dict[str, Any]]:
    """For JSON: a value that is NaN is null."""
    return {
        name: {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in found._asdict().items()}
        for name, found in scores.items()
    }
