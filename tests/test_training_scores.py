"""Measures against scikit-learn, on whole samples and on resamples; bootstrap of anything that takes weights."""

import warnings
from typing import Any

import numpy as np
import pytest
from sklearn import metrics

from radiolucent.errors import BadInput
from radiolucent.statistics import bootstrap, bootstrap_mean
from radiolucent.training.scoring import check_watched, confusion_matrix, measures, point, score


def sample(classes: int, n: int = 120, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    truth = draw.integers(0, classes, n)
    told = draw.random((n, classes)).round(1)  # with ties
    told[np.arange(n), truth] += 0.4
    return truth, told / told.sum(1, keepdims=True)


def theirs(truth: Any, told: Any) -> dict[str, float]:
    classes = told.shape[1]
    guess, binary = told.argmax(1), classes == 2
    auroc = metrics.roc_auc_score(truth, told[:, 1]) if binary else metrics.roc_auc_score(truth, told, multi_class="ovr")
    return {
        "auroc": auroc,
        "acc": metrics.accuracy_score(truth, guess),
        "f1": metrics.f1_score(truth, guess, average="binary" if binary else "macro"),
        "mcc": metrics.matthews_corrcoef(truth, guess),
        "balanced_accuracy": metrics.balanced_accuracy_score(truth, guess),
    }


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_measures_are_scikit_learns_on_every_resample(classes: int) -> None:
    truth, told = sample(classes)
    found = measures(truth, told, "classification")
    weights = np.random.default_rng(1).multinomial(120, np.full(120, 1 / 120), 4).astype(float)
    values = {name: measure(weights) for name, measure in found.items()}
    for r, row in enumerate(weights):
        drawn = np.repeat(np.arange(120), row.astype(int))
        for name, wanted in theirs(truth[drawn], told[drawn]).items():
            assert values[name][r] == pytest.approx(wanted, abs=1e-12), name


def test_what_has_no_value_is_nan_and_one_class_predicted_is_mcc_0() -> None:
    told = np.array([[0.9, 0.1]] * 4)
    assert np.isnan(point(np.zeros(4, int), told, "classification", "auroc"))
    assert np.isnan(point(np.zeros(4, int), told, "classification", "mcc"))
    assert point(np.array([0, 0, 1, 1]), told, "classification", "mcc") == 0
    assert point(np.array([0, 0, 1, 1]), told, "classification", "f1") == 0
    assert point(np.array([0, 0, 1, 1]), told, "classification", "auroc") == 0.5


def test_multi_label_is_the_mean_over_labels() -> None:
    draw = np.random.default_rng(0)
    truth = draw.integers(0, 2, (80, 3)).astype(float)
    told = np.clip(truth * 0.3 + draw.random((80, 3)) * 0.7, 0, 1)
    guess = told >= 0.5
    found = {name: point(truth, told, "multi-label", name) for name in measures(truth, told, "multi-label")}
    assert found["auroc"] == pytest.approx(metrics.roc_auc_score(truth, told, average="macro"))
    assert found["f1"] == pytest.approx(metrics.f1_score(truth, guess, average="macro"))
    assert found["acc"] == pytest.approx((guess == truth).mean())
    assert found["exact_match"] == pytest.approx(metrics.accuracy_score(truth, guess))
    assert found["balanced_accuracy"] == pytest.approx(
        np.mean([metrics.balanced_accuracy_score(truth[:, k], guess[:, k]) for k in range(3)])
    )


def test_regression_is_scikit_learns() -> None:
    draw = np.random.default_rng(0)
    truth = draw.normal(5e3, 300, (50, 2))
    told = truth + draw.normal(0, 100, (50, 2))
    found = {name: point(truth, told, "regression", name) for name in measures(truth, told, "regression")}
    assert found["r2"] == pytest.approx(metrics.r2_score(truth, told))
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(truth, told))
    assert found["rmse"] == pytest.approx(metrics.root_mean_squared_error(truth, told))
    assert found["pearson"] == pytest.approx(np.mean([np.corrcoef(truth[:, k], told[:, k])[0, 1] for k in range(2)]))


def test_small_units_change_no_share_of_variance() -> None:
    draw = np.random.default_rng(0)
    truth = draw.normal(0, 8, (50, 1))
    told = truth + draw.normal(0, 2, (50, 1))
    for name in ("r2", "pearson"):
        assert point(truth * 1e-10, told * 1e-10, "regression", name) == pytest.approx(point(truth, told, "regression", name))
        assert np.isnan(point(np.full((9, 1), 0.1), told[:9], "regression", name))  # no spread, but for rounding


def test_a_label_is_present_from_a_half_on_in_every_measure() -> None:
    truth, told = np.array([[1.0], [0.0]]), np.array([[0.5], [0.2]])
    for name in ("acc", "f1", "mcc", "balanced_accuracy", "exact_match"):
        assert point(truth, told, "multi-label", name) == 1


def test_a_validation_without_a_value_of_what_is_watched_is_refused() -> None:
    absent, mixed = np.zeros((4, 2)), np.eye(4)[:, :2]
    check_watched(mixed, "ab", "multi-label", "auroc")
    check_watched(absent, "ab", "multi-label", "loss")
    check_watched(np.array([0, 1]), "ab", "classification", "auroc")
    with pytest.raises(BadInput, match=r"4 cases of val in which auroc has no value\. Split anew, or watch = \"loss\""):
        check_watched(absent, "ab", "multi-label", "auroc")
    with pytest.raises(BadInput, match="r2 can be measured"):
        check_watched(absent, "ab", "regression", "r2")


def test_the_bootstrap_of_a_weighted_mean_is_that_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(size=30)
    found = bootstrap(lambda w: w @ values / w.sum(1), 30, resamples=2000)
    assert found == pytest.approx(bootstrap_mean(values))


def test_patients_are_drawn_with_all_of_their_cases() -> None:
    """Ten copies of each case say no more than the cases."""
    truth, told = sample(2, 40)
    once = score(truth, told, "classification", [str(n) for n in range(40)])
    copies = np.repeat(np.arange(40), 10)
    again = score(truth[copies], told[copies], "classification", [str(n) for n in copies])
    naive = score(truth[copies], told[copies], "classification", [str(n) for n in range(400)])
    for name in once:
        assert again[name].mean == pytest.approx(once[name].mean)
        width = [found[name].high - found[name].low for found in (once, again, naive)]
        assert width[1] == pytest.approx(width[0], rel=0.15)
        assert width[2] < 0.5 * width[0]


def test_a_resample_without_a_value_is_left_out_and_counted() -> None:
    truth, told = np.array([0, 0, 0, 1]), np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7]])
    found = score(truth, told, "classification", list("abcd"))["auroc"]
    assert found.mean == 1.0
    assert 200 < found.missing < 500  # (3/4)^4 without the one positive case, and a few without a negative one
    one = score(truth, told, "classification", list("aaaa"))["auroc"]
    assert np.isnan(one.low)


def test_a_confusion_matrix_is_scikit_learns() -> None:
    truth, told = sample(4)
    with warnings.catch_warnings():
        assert np.array_equal(confusion_matrix(truth, told.argmax(1), 4), metrics.confusion_matrix(truth, told.argmax(1)))
