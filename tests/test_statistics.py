"""Means with bootstrap intervals: their coverage, SciPy's own, and what is left out."""

import numpy as np
import pytest
from scipy.stats import bootstrap

from radiolucent.errors import BadInput
from radiolucent.statistics import bootstrap_mean, intraclass_correlation, means


@pytest.mark.parametrize("kind", ["percentile", "bca"])
def test_the_interval_is_scipy_s(kind: str) -> None:
    values = np.random.default_rng(1).exponential(size=40)
    found = bootstrap_mean(values, resamples=4000, kind=kind)  # type: ignore[arg-type]
    theirs = bootstrap((values,), np.mean, n_resamples=20_000, method=kind, rng=0).confidence_interval
    assert found.mean == pytest.approx(values.mean())
    width = theirs.high - theirs.low
    assert found.low == pytest.approx(theirs.low, abs=0.04 * width)
    assert found.high == pytest.approx(theirs.high, abs=0.04 * width)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    for level in (0.8, 0.95):
        covered = []
        for _ in range(1000):
            found = bootstrap_mean(rng.normal(3, 2, 60), level=level)
            covered.append(found.low <= 3 <= found.high)
        assert np.mean(covered) == pytest.approx(level, abs=0.045)  # an exact t interval covers 0.775 and 0.94 of these


def test_missing_values_are_left_out_and_counted() -> None:
    found = bootstrap_mean([1, np.nan, 3, 2, np.nan])
    assert found[0] == 2
    assert (found.n, found.missing) == (3, 2)
    assert found._replace(missing=0) == bootstrap_mean([1, 3, 2])
    nothing = bootstrap_mean([np.nan, np.nan])
    assert np.isnan(nothing[:3]).all()
    assert (nothing.n, nothing.missing) == (0, 2)
    one = bootstrap_mean([5.0])
    assert one.mean == 5
    assert np.isnan([one.low, one.high]).all()
    assert bootstrap_mean([2, 2, 2], kind="bca")[:3] == (2, 2, 2)


def test_the_seed_decides() -> None:
    values = np.random.default_rng(3).random(20)
    assert bootstrap_mean(values) == bootstrap_mean(values)
    assert bootstrap_mean(values) != bootstrap_mean(values, seed=1)


@pytest.mark.parametrize("options", [{"level": 95}, {"resamples": 0}, {"kind": "normal"}])
def test_bad_settings(options: dict[str, object]) -> None:
    with pytest.raises(BadInput, match="a level between 0 and 1"):
        bootstrap_mean([1, 2], **options)  # type: ignore[arg-type]


def test_means_of_groups_draw_cases_not_rows() -> None:
    rows = [
        {"case": "a", "layer": "1", "value": 1.0},
        {"case": "a", "layer": "1", "value": 3.0},
        {"case": "b", "layer": "1", "value": 6.0},
        {"case": "a", "layer": "0", "value": float("nan")},
        {"case": "b", "layer": "0", "value": 4.0},
    ]
    first, second = means(rows, ["layer"])
    assert (first["layer"], first["mean"], first["n"], first["missing"]) == ("1", 4, 2, 0)
    assert (first["low"], first["high"]) == (2, 6)
    assert (second["layer"], second["mean"], second["n"], second["missing"]) == ("0", 4, 1, 1)


SHROUT_FLEISS = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
"""Their table 2: six subjects rated by four judges."""


def test_the_intraclass_correlation_is_that_of_the_paper() -> None:
    assert intraclass_correlation(np.array(SHROUT_FLEISS), "ICC(2,1)") == pytest.approx(0.29, abs=0.005)
    assert intraclass_correlation(np.array(SHROUT_FLEISS), "ICC(3,1)") == pytest.approx(0.71, abs=0.005)


def test_the_intraclass_correlation_is_that_of_an_analysis_of_variance() -> None:
    """The sums of squares cell by cell, and components of variance from the expected mean squares."""
    rng = np.random.default_rng(4)
    for n, k in ((5, 2), (12, 3)):
        x = rng.normal(size=(n, 1)) * 2 + rng.normal(size=(1, k)) + rng.normal(size=(n, k))
        grand = sum(x[i, j] for i in range(n) for j in range(k)) / (n * k)
        row = [sum(x[i, j] for j in range(k)) / k for i in range(n)]
        column = [sum(x[i, j] for i in range(n)) / n for j in range(k)]
        b = sum(k * (r - grand) ** 2 for r in row) / (n - 1)
        j_ = sum(n * (c - grand) ** 2 for c in column) / (k - 1)
        total = sum((x[i, j] - grand) ** 2 for i in range(n) for j in range(k))
        e = (total - b * (n - 1) - j_ * (k - 1)) / ((n - 1) * (k - 1))
        subject, judge = (b - e) / k, (j_ - e) / n
        assert intraclass_correlation(x, "ICC(3,1)") == pytest.approx(subject / (subject + e))
        assert intraclass_correlation(x, "ICC(2,1)") == pytest.approx(subject / (subject + judge + e))


def test_agreement_counts_a_constant_difference_and_consistency_does_not() -> None:
    truth = np.arange(10.0)
    assert intraclass_correlation(np.stack([truth, truth], 1), "ICC(2,1)") == pytest.approx(1)
    assert intraclass_correlation(np.stack([truth, truth + 5], 1), "ICC(3,1)") == pytest.approx(1)
    assert intraclass_correlation(np.stack([truth, truth + 5], 1), "ICC(2,1)") < 0.5
    assert np.isnan(intraclass_correlation(np.ones((4, 2))))
    with pytest.raises(BadInput, match=r"1 of them missing"):
        intraclass_correlation(np.array([[1, 2], [3, np.nan]]))
    with pytest.raises(BadInput, match=r"ICC\(2,1\) or ICC\(3,1\)"):
        intraclass_correlation(np.ones((4, 2)), "ICC")  # type: ignore[arg-type]
