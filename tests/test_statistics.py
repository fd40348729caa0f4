"""Means with bootstrap intervals: their coverage, SciPy's own, and what is left out."""

import numpy as np
import pytest
from scipy.stats import bootstrap

from radiolucent.errors import BadInput
from radiolucent.statistics import bootstrap_mean, means


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
