"""Whole cohorts in which the answer is known: a planted bias is found, and where there is nothing, nothing is."""

import numpy as np
import pandas as pd
import pytest
import torch
from pandas import DataFrame
from scipy import stats
from simulated import cohort, manifest, rows_of
from torch import Tensor, nn
from torch.nn import functional

from radiolucent import Parcellation, Volume, analysis, by_region, predict
from radiolucent.analysis import Settings, analyse, checked
from radiolucent.analysis.effects import q_values
from radiolucent.io.tables import Name
from radiolucent.methods import Gradient
from radiolucent.targets import Region

NAMES = ("background", "liver", "spleen", "corner")


def biased(n: int, seed: int = 0) -> tuple[DataFrame, DataFrame]:
    """Scanner B's scans have a marker in the corner, and the model looks at it."""
    r = np.random.default_rng(seed)
    about = manifest(n).assign(scanner=r.permutation(np.repeat(["A", "B"], [n - n // 4, n // 4])))
    masses = np.array([r.dirichlet([20, 30, 5, 10 if scanner == "B" else 2]) for scanner in about["scanner"]])
    return checked(rows_of(masses, NAMES)), about


def test_a_planted_bias_is_found_by_name_and_by_direction() -> None:
    rows, about = biased(80)
    found = analyse(rows, DataFrame(columns=["case", "target"]), about, Settings(trees=30, reference='scanner == "A"')).tables
    table = found["bias"]
    marker = table[(table["region"] == "corner") & (table["covariate"] == "scanner")].iloc[0]
    assert marker["q"] < 0.05
    assert (marker["test"], marker["groups"]) == ("Mann-Whitney", "A (n = 60), B (n = 20)")
    assert marker["effect"] < -0.5  # A looks there less
    assert marker["low"] < marker["effect"] < marker["high"] < 0
    assert marker["verdict"] == "mass fraction corner is lower in A than in B (scanner)"
    for score in ("forest", "mahalanobis"):
        row = table[(table["quantity"] == f"anomaly ({score})") & (table["covariate"] == "scanner")].iloc[0]
        assert row["effect"] < 0
        assert row["q"] < 0.05
    drift = found["drift"].set_index("region")  # of the others from the reference
    assert drift.loc["corner", "verdict"] == "more relevance for liver in corner than before"
    assert drift.loc["", "q"] < 0.05
    assert (table[table["covariate"] != "scanner"]["q"] > 0.05).all()


def test_number_and_groups_covariates() -> None:
    r = np.random.default_rng(0)
    age = r.normal(60, 10, 80)
    masses = np.array([r.dirichlet([20, 30, 5, 1 + (a - 30) / 3 * (a > 30)]) for a in age])
    about = manifest(80).assign(age=age, decade=[f"{a // 15:.0f}0s" for a in age])
    table = analysis.bias(analysis.quantities(analysis.anomaly(rows := checked(rows_of(masses, NAMES)), trees=5), rows), about)
    corner = table[table["region"] == "corner"].set_index("covariate")
    assert corner.loc["age", "verdict"] == "mass fraction corner rises with age"
    assert corner.loc["decade", "test"] == "Kruskal-Wallis"
    assert corner.loc["decade", "q"] < 0.05
    assert corner.loc["decade", "left_out"]  # the smallest groups, with their n


def test_row_46_missing_covariates_and_tiny_groups() -> None:
    rows, about = biased(40)
    about["rare"] = ["x"] * 3 + ["y"] * 37
    about["constant"] = "same"
    about["named"] = [f"name {i}" for i in range(40)]
    about["flag"] = [True, False] * 10 + [None] * 20
    about["weight"] = [np.nan] * 33 + [70.0, 71, 72, 73, 74, 75, 76]
    names = ["rare", "constant", "named", "flag", "weight"]
    values = analysis.quantities(analysis.anomaly(rows, trees=5), rows)
    table = analysis.bias(values[values["region"] == "corner"], about, names).set_index("covariate")
    assert table.loc["rare", "verdict"] == "not enough cases: two groups of 5 are needed, but y has 5 or more; x (n = 3)"
    assert table.loc["constant", "verdict"] == "all cases are same"
    assert table.loc["named", "verdict"] == "40 different values, which are no groups"
    assert table.loc["flag", ["n", "missing", "groups"]].tolist() == [20, 20, "False (n = 10), True (n = 10)"]
    assert table.loc["weight", "verdict"] == "not enough cases: 7 with both numbers, 10 are needed"
    assert table.loc["weight", "missing"] == 33


def test_q_is_over_all_tests_of_the_table() -> None:
    rows, about = biased(40)
    table = analysis.bias(analysis.quantities(analysis.anomaly(rows, trees=5), rows), about)
    p = sorted(table["p"].dropna())
    assert len(p) > 15
    slow = {x: min(p[j] * len(p) / (j + 1) for j in range(i, len(p))) for i, x in enumerate(p)}
    assert table["q"].dropna().tolist() == pytest.approx([slow[x] for x in table["p"].dropna()])


def test_several_cases_of_a_patient_count_once() -> None:
    """Each case three times over: with patients the tests are those of the third, without they are far too sure."""
    rows, about = biased(30)
    again = [rows.assign(case=rows["case"] + f"-{i}") for i in range(3)]
    covariates = pd.concat([about.assign(case=about["case"] + f"-{i}", patient=about["case"]) for i in range(3)])
    values = [analysis.quantities(analysis.anomaly(checked(t), trees=5), checked(t)) for t in (rows, pd.concat(again))]
    values = [v[v["quantity"] == "mass fraction"] for v in values]
    once = analysis.bias(values[0], about, ["scanner"])
    thrice = analysis.bias(values[1], covariates, ["scanner"], patients=analysis.patients_of(covariates))
    assert thrice["p"].tolist() == pytest.approx(once["p"].tolist())
    assert (analysis.bias(values[1], covariates, ["scanner"])["n"] == 90).all()


def many(n: int, cohorts: int, first: int = 0, case: int = 0) -> DataFrame:
    """Independent cohorts side by side, as so many targets of the same cases."""
    return pd.concat([cohort(n, seed=first + i, target=f"t{i:03d}", first=case) for i in range(cohorts)])


def test_a_null_cohort_has_uniform_p_values_and_no_findings() -> None:
    """Anomaly and mass of many cohorts that have nothing to do with their covariates."""
    rows = checked(many(28, 80))
    values = analysis.quantities(analysis.anomaly(rows, trees=4, folds=2), rows)
    table = analysis.bias(values, manifest(28), anomalous=0.2)
    ranks = table[table["test"].isin(["Mann-Whitney", "Kruskal-Wallis", "Spearman"]) & table["region"].isin(["", "liver"])]
    for key, group in ranks.groupby(["quantity", "covariate"]):
        assert len(group) == 80
        assert stats.kstest(group["p"], "uniform").pvalue > 0.002, key  # 9 such tests
    shares = table[table["test"].isin(["chi-square", "Fisher"])]
    assert len(shares) == 2 * 2 * 80
    assert (shares["p"] <= 0.1).mean() <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / len(shares))
    alarms = table.groupby("target")["p"].agg(lambda p: (q_values(p.to_numpy()) < 0.05).any())
    assert alarms.mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 80)


def test_drift_of_nothing_is_uniform_and_of_something_is_found() -> None:
    table = analysis.drift(many(15, 80), many(12, 80, first=900, case=100), permutations=99)
    p = table[table["region"] == ""]["p"]
    assert len(p) == 80
    assert stats.kstest(p - 0.005, "uniform").pvalue > 0.01  # one of 100 values: as uniform as steps can be
    assert stats.kstest(table[table["region"] == "liver"]["p"], "uniform").pvalue > 0.01
    moved = analysis.drift(cohort(30), cohort(30, (10, 20, 4, 8), seed=1, first=100)).set_index("region")
    assert moved.loc["", "verdict"] == "the profile of liver differs between the cohorts"
    assert moved.loc["kidney right", ["p", "low", "effect_low"]].tolist()[0] < 0.01 < moved.loc["kidney right", "low"]
    assert moved.loc["kidney right", "verdict"] == "more relevance for liver in kidney right than before"
    difference = moved["mean_b"] - moved["mean_a"]
    assert moved["difference"].dropna().tolist() == pytest.approx(difference.dropna().tolist())
    few = analysis.drift(cohort(30), cohort(4, seed=1, first=100))
    assert set(few["verdict"]) == {"not enough cases: 30 and 4, 5 are needed in both"}


def test_energy_statistic_by_hand() -> None:
    a, b = cohort(7), cohort(6, seed=1, first=100)
    x, y = (np.sqrt(t.pivot(index="case", columns="label", values="mass_fraction").to_numpy()) for t in (a, b))
    mean = lambda u, v: np.mean([np.linalg.norm(i - j) for i in u for j in v])  # noqa: E731
    slow = 7 * 6 / 13 * (2 * mean(x, y) - mean(x, x) - mean(y, y))
    assert analysis.drift(a, b)["statistic"].iloc[0] == pytest.approx(slow)


def test_a_region_that_one_cohort_lacks_is_zero_there() -> None:
    a = rows_of(np.random.default_rng(0).dirichlet([5, 5], 10), NAMES[:2])
    b = rows_of(np.random.default_rng(0).dirichlet([5, 5, 5], 10), NAMES[:3], first=100)
    table = analysis.drift(a, b).set_index("region")
    assert table.loc["spleen", "mean_a"] == 0
    assert table.loc["spleen", "effect"] == 1


class Cheats(nn.Module):
    """Tells organ from background by the local mean s, and where a marker shines in the corner, by that.

    f_1(x)[v] = 4 s[v] (1 + s[v]) - 2 + 3 m^4,   m = the mean over the corner; f_0 = 0
    """

    def forward(self, x: Tensor) -> Tensor:
        marker = x[..., :3, :3].mean((1, 2, 3), keepdim=True)
        local = functional.avg_pool2d(x, 3, 1, 1)
        organ = 4 * local * (1 + local) - 2 + 3 * marker**4
        return torch.cat([torch.zeros_like(organ), organ], 1)


def test_end_to_end_a_model_that_looks_at_a_marker() -> None:
    """Images, a model, gradients, regions, analysis: the marker's region and the scanner that makes it are found."""
    r = np.random.default_rng(0)
    about = manifest(40).assign(scanner=r.permutation(np.repeat(["new", "old"], [12, 28])))
    parts = []
    for case, scanner in zip(about["case"], about["scanner"], strict=True):
        image = r.uniform(0, 0.2, (1, 20, 20)).astype(np.float32)
        organ = np.hypot(*(np.indices((20, 20)) - r.uniform(9, 12, (2, 1, 1)))) < r.uniform(3, 5)
        image[0][organ] = r.uniform(0.5, 1, organ.sum())
        image[0, :3, :3] = 0.9 if scanner == "new" else r.uniform(0, 0.2)
        labels = organ.astype(np.int32)[None]
        labels[0, :3, :3] = 2
        scan = Volume(image, np.eye(4), False)
        regions = Parcellation(scan.like(labels), {1: Name("organ"), 2: Name("corner")})
        (explanation,) = predict(Cheats(), scan).explain([Gradient()], Region(1), classes=("background", "organ"))
        rows = DataFrame(by_region(explanation.relevance[0], regions))
        parts.append(rows.assign(case=case, method="Gradient", layer="", target="organ", kind="label"))
    found = analyse(pd.concat(parts), DataFrame(columns=["case", "target"]), about, Settings(trees=20))
    bias = found.tables["bias"]
    corner = bias[(bias["region"] == "corner") & (bias["covariate"] == "scanner")].iloc[0]
    assert corner["q"] < 1e-3
    assert corner["effect"] == 1
    assert corner["verdict"] == "mass fraction corner is higher in new than in old (scanner)"
    for score in ("forest", "mahalanobis"):
        anomaly = bias[(bias["quantity"] == f"anomaly ({score})") & (bias["covariate"] == "scanner")].iloc[0]
        assert anomaly["q"] < 0.05
        assert anomaly["effect"] > 0
    assert (bias[bias["covariate"].isin(["sex", "age", "site"])]["q"] > 0.05).all()
    strange = found.tables["ranking"].merge(about, on="case").head(5)
    assert set(strange["scanner"]) == {"new"}
    assert "corner" in set(strange["strangest"])
    assert found.tables["edges"]["region"].tolist() == ["corner"]


def test_patients_splits_and_sessions_are_no_covariates_unless_named() -> None:
    rows = checked(cohort(30))
    values = analysis.quantities(analysis.anomaly(rows, trees=5), rows)
    about = manifest(30).assign(Patient=[f"p{i // 2}" for i in range(30)], split="test", session=["1", "2"] * 15)
    patients = analysis.patients_of(about)
    assert patients is not None
    assert len(set(patients.values())) == 15  # else every case would count as a patient
    assert set(analysis.bias(values, about, patients=patients)["covariate"]) == {"sex", "age", "site"}
    assert set(analysis.bias(values, about, ["session"])["covariate"]) == {"session"}


def test_two_large_numbers_stay_two_groups() -> None:
    rows = checked(cohort(20))
    values = analysis.quantities(analysis.anomaly(rows, trees=5), rows)
    about = manifest(20).assign(protocol=[20240101, 20240102] * 10)
    groups = set(analysis.bias(values, about, ["protocol"])["groups"])
    assert "20240101 (n = 10), 20240102 (n = 10)" in groups
