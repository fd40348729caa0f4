"""Tests of association: p-values that are uniform under the null, intervals that cover, q-values by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from radiolucent.analysis import effects


def generators(times: int) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in np.random.SeedSequence(0).spawn(times)]


def test_cliffs_delta_is_the_count_of_pairs() -> None:
    r = np.random.default_rng(0)
    a, b = r.integers(0, 9, 12).astype(float), r.integers(2, 11, 9).astype(float)  # with ties
    slow = np.mean([(x > y) * 1.0 - (x < y) * 1.0 for x in a for y in b])
    found = effects.two_groups(a, b, ("old", "young"))
    assert found.effect == pytest.approx(slow)
    assert found.finding == "is lower in old than in young"
    assert effects.two_groups(b, a).effect == pytest.approx(-slow)
    mirrored = effects.two_groups(b, a)
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))


def test_groups_that_do_not_overlap_have_an_interval_all_the_same() -> None:
    found = effects.two_groups(np.arange(5.0) + 10, np.arange(5.0))
    assert (found.effect, found.high) == (1, 1)
    assert 0.2 < found.low < 0.95
    assert found.p == pytest.approx(2 / math.comb(10, 5))


def coverage(draw, truth: float, times: int = 400) -> float:
    hits = 0
    for generator in generators(times):
        found = draw(generator)
        hits += found.low <= truth <= found.high
    return hits / times


@pytest.mark.parametrize(("m", "n"), [(10, 10), (5, 35)])
@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_cliffs_interval_covers(m, n, shift) -> None:
    truth = 2 * stats.norm.cdf(shift / math.sqrt(2)) - 1
    found = coverage(lambda r: effects.two_groups(r.normal(shift, 1, m), r.normal(0, 1, n)), truth)
    assert 0.92 <= found <= 0.985  # three standard errors of 400 runs are 0.033


@pytest.mark.parametrize("r", [0.0, 0.8])
def test_spearmans_interval_covers(r) -> None:
    def draw(generator):
        x, noise = generator.normal(size=(2, 20))
        return effects.numeric(x, r * x + math.sqrt(1 - r * r) * noise)

    assert 0.92 <= coverage(draw, 6 / math.pi * math.asin(r / 2)) <= 0.985


@pytest.mark.parametrize(("step", "truth"), [(0.0, 0.0), (1.0, 0.414)])  # of 60,000 values
def test_epsilon_squared_covers_and_is_not_biased(step, truth) -> None:
    found = []

    def draw(generator):
        found.append(effects.several_groups([generator.normal(i * step, 1, 15) for i in range(3)], "abc"))
        return found[-1]

    assert 0.91 <= coverage(draw, truth) <= 0.985
    assert np.mean([f.effect for f in found]) == pytest.approx(truth, abs=0.03)


def test_epsilon_squared_is_that_of_the_ranks() -> None:
    groups = [np.random.default_rng(i).normal(i, 1, 6 + i) for i in range(3)]
    ranks = np.split(stats.rankdata(np.concatenate(groups)), [6, 13])
    everything = np.concatenate(ranks)
    within = sum(((r - r.mean()) ** 2).sum() for r in ranks) / (len(everything) - 3)
    slow = 1 - within / everything.var(ddof=1)
    assert effects.several_groups(groups, "abc").effect == pytest.approx(slow)


def test_cramers_v_covers() -> None:
    share = np.array([0.3, 0.5, 0.7])
    table = np.stack([share, 1 - share], 1) / 3
    expected = np.outer(table.sum(1), table.sum(0))
    truth = math.sqrt(((table - expected) ** 2 / expected).sum())

    def draw(generator):
        groups = generator.integers(0, 3, 90)
        return effects.shares(generator.random(90) < share[groups], groups, [0, 1, 2])

    assert 0.92 <= coverage(draw, truth) <= 0.99


def test_small_expected_counts_take_the_exact_test() -> None:
    groups = np.array(["a"] * 6 + ["b"] * 24)
    flagged = np.isin(np.arange(30), [0, 1, 2, 20])
    found = effects.shares(flagged, groups, ["a", "b"])
    slow = sum(
        p
        for k in range(5)
        if (p := math.comb(6, k) * math.comb(24, 4 - k) / math.comb(30, 4)) <= 20 * 24 / math.comb(30, 4) + 1e-12
    )
    assert (found.test, found.p) == ("Fisher", pytest.approx(slow))
    assert effects.shares(flagged, groups, ["a", "b"], seed=1) == found
    three = effects.shares(flagged, np.array(["a"] * 6 + ["b"] * 12 + ["c"] * 12), list("abc"))
    table = np.array([[3, 3], [0, 12], [1, 11]])
    assert (three.test, three.p) == ("Fisher", pytest.approx(exact(table), abs=0.01))


def exact(table: np.ndarray) -> float:
    """The share of tables with the same margins, weighed by their probability, whose chi-square is as large."""
    a, b, c = table.sum(1)
    k, n = table[:, 0].sum(), table.sum()
    expected = np.outer(table.sum(1), table.sum(0)) / n
    x2 = lambda t: ((t - expected) ** 2 / expected).sum()  # noqa: E731
    total = 0.0
    for i in range(k + 1):
        for j in range(k + 1 - i):
            if i <= a and j <= b and k - i - j <= c:
                other = np.array([[i, a - i], [j, b - j], [k - i - j, c - k + i + j]])
                if x2(other) >= x2(table) - 1e-9:
                    total += math.comb(a, i) * math.comb(b, j) * math.comb(c, k - i - j) / math.comb(n, k)
    return total


def test_what_no_table_could_show_is_not_tested() -> None:
    found = effects.shares(np.arange(10) == 0, np.repeat(["a", "b"], 5), ["a", "b"])
    assert math.isnan(found.p)
    assert found.reason.startswith("not enough cases: 1 of 10")


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (effects.two_groups(np.arange(4.0), np.arange(20.0), ("F", "M")), "not enough cases: F has 4, 5 are needed"),
        (effects.numeric(np.arange(9.0), np.arange(9.0)), "not enough cases: 9 with both numbers, 10 are needed"),
        (effects.signed(np.array([1.0, 2, 3, np.nan, 5, 6])), "not enough cases: 5, 6 are needed"),
    ],
)
def test_row_46_small_groups_are_not_tested(found, words) -> None:
    assert found.reason == words
    assert math.isnan(found.p)
    assert math.isnan(found.effect)


def test_values_that_are_all_equal_differ_nowhere() -> None:
    same = np.ones(10)
    assert effects.two_groups(same, same).p == 1
    assert effects.several_groups([same, same, same], "abc").p == 1
    assert effects.signed(np.zeros(10)).p == 1
    assert effects.numeric(same, np.arange(10.0)).reason == "all values are equal"


def test_rank_biserial_by_hand() -> None:
    found = effects.signed(np.array([-1.0, 2, 3, 4, -5, 6, 0]))
    assert found.effect == pytest.approx((2 + 3 + 4 + 6 - 1 - 5) / 21)
    assert found.n == 7


def test_q_values_by_hand() -> None:
    p = np.array([0.01, math.nan, 0.04, 0.03, 0.005, 0.9])
    made = sorted(x for x in p if not math.isnan(x))
    slow = [min(made[j] * 5 / (j + 1) for j in range(made.index(x), 5)) if not math.isnan(x) else math.nan for x in p]
    assert effects.q_values(p).tolist() == pytest.approx(slow, nan_ok=True)
    assert np.isnan(effects.q_values(np.array([math.nan]))).all()
    assert len(effects.q_values(np.array([]))) == 0


NULL = {
    "Mann-Whitney": lambda r: effects.two_groups(r.normal(size=12), r.normal(size=18)),
    "Kruskal-Wallis": lambda r: effects.several_groups([r.normal(size=n) for n in (12, 15, 20)], "abc"),
    "Spearman": lambda r: effects.numeric(r.normal(size=25), r.normal(size=25)),
    "Wilcoxon": lambda r: effects.signed(r.normal(size=20)),
}


@pytest.mark.parametrize("test", NULL)
def test_p_values_of_nothing_are_uniform(test) -> None:
    p = [NULL[test](generator).p for generator in generators(500)]
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_discrete_p_values_of_nothing_are_not_too_small() -> None:
    """Of few flagged cases p takes few values; P(p <= t) <= t must hold for each t, within the simulation's error."""

    def draw(generator):
        groups = np.repeat(["a", "b", "c"], 12)
        return effects.shares(generator.permutation(36) < 5, groups, list("abc"))

    p = np.array([draw(generator).p for generator in generators(150)])
    assert np.isfinite(p).all()
    for t in (0.05, 0.1, 0.25, 0.5):
        assert (p <= t).mean() <= t + 3 * math.sqrt(t * (1 - t) / 150)
