"""Each table of the analysis against a slow re-derivation or a closed form."""

import math

import numpy as np
import pandas as pd
import pytest
from pandas import DataFrame
from pandas.testing import assert_frame_equal
from scipy.spatial.distance import squareform
from simulated import NAMES, cohort, manifest, rows_of, several, shuffled

from radiolucent import analysis
from radiolucent.analysis import Settings, analyse, anomalies, checked, selected
from radiolucent.analysis.profiles import profiles
from radiolucent.errors import BadInput


def test_importance_is_the_mean_over_cases_and_an_absent_region_counts_as_zero() -> None:
    masses = np.random.default_rng(0).dirichlet([5, 5, 2, 2], 12)
    masses[:4, 3] = 0  # no right kidney in four scans: no row there
    masses /= masses.sum(1, keepdims=True)
    rows = rows_of(masses)
    rows = rows[~((rows["mass_fraction"] == 0) & (rows["label"] == 3))]
    table = analysis.importance(checked(rows)).set_index("region")
    assert table["mean"].to_dict() == pytest.approx(dict(zip(NAMES, masses.mean(0), strict=True)))
    assert table["n"].tolist() == [12] * 4
    assert table["n_present"].tolist() == [12, 12, 12, 8]
    right = rows[rows["label"] == 3]["enrichment"]
    assert table.loc["kidney right", "enrichment"] == pytest.approx(right.mean())  # over those that have one
    assert table["role"].tolist() == ["background", "itself", "context", "context"]
    assert ((table["low"] < table["mean"]) & (table["mean"] < table["high"])).all()


def test_what_is_not_near_to_anything_is_left_out_and_not_counted_as_zero() -> None:
    rows = cohort(4)
    near = rows[rows["label"] < 2].assign(kind="near", label=-1, hemisphere="")
    near["region"] = np.where(near["region"] == "liver", "inside the target", "outside, beyond 5 mm")
    near["mass_fraction"] = np.where(near["region"] == "inside the target", 0.75, 0.25)
    near.loc[near["case"] == "c0003", "mass_fraction"] = math.nan  # the target has no voxel there
    table = analysis.importance(checked(pd.concat([rows, near])))
    found = table[table["kind"] == "near"].set_index("region")
    assert found["mean"].to_dict() == {"inside the target": 0.75, "outside, beyond 5 mm": 0.25}
    assert found["n"].tolist() == [3, 3]


def test_importance_weighs_patients_not_cases() -> None:
    masses = np.array([[0.1, 0.9], [0.2, 0.8], [0.9, 0.1]])
    patients = {"c0000": "p", "c0001": "p", "c0002": "q"}
    table = analysis.importance(checked(rows_of(masses, NAMES[:2])), patients=patients)
    assert table["mean"].tolist() == pytest.approx([(0.15 + 0.9) / 2, (0.85 + 0.1) / 2])
    assert table["n"].tolist() == [2, 2]


def test_edges_leave_out_the_class_itself_and_the_background() -> None:
    table = analysis.importance(checked(several(20)))
    edges = analysis.edges(table, most=4)
    slow = [
        (row["mean"], row["region"], row["target"])
        for row in table.to_dict("records")
        if row["region"] not in (row["target"], "background")
    ]
    assert list(zip(edges["mean"], edges["region"], edges["target"], strict=True)) == sorted(slow, reverse=True)[:4]
    assert edges["rank"].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: pd.concat([rows, rows[:1]]), "several for c0000"),
        (lambda rows: rows[rows["region"] != "background"], "sum to 1"),
        (lambda rows: rows.drop(columns="kind"), "no column kind"),
        (lambda rows: rows[:0], "no row"),
    ],
)
def test_rows_that_are_none_are_refused(change, words) -> None:
    with pytest.raises(BadInput, match=words):
        checked(change(cohort(5)))


def profile_table(profiles: dict[str, list[float]]) -> DataFrame:
    rows = [
        {"method": "m", "layer": "", "target": t, "kind": "label", "label": b, "region": f"r{b}", "hemisphere": "", "mean": v}
        for t, values in profiles.items()
        for b, v in enumerate(values)
    ]
    return DataFrame(rows)


def test_classes_that_look_alike_cluster() -> None:
    table = profile_table({"a": [0.9, 0.1, 0], "b": [0, 0.1, 0.9], "c": [0.88, 0.1, 0.02], "d": [0.01, 0.12, 0.87]})
    found = analysis.classes(table).set_index("target")
    assert found.loc["a", "cluster"] == found.loc["c", "cluster"] != found.loc["b", "cluster"] == found.loc["d", "cluster"]
    assert found["cluster"].nunique() == 2
    order = found["order"].to_dict()
    assert abs(order["a"] - order["c"]) == abs(order["b"] - order["d"]) == 1
    assert found["cophenetic"].iloc[0] > 0.95


def test_the_tree_is_average_linkage_of_jensen_shannon() -> None:
    p = np.random.default_rng(1).dirichlet([1, 1, 1], 5)
    table = profile_table({f"t{i}": row.tolist() for i, row in enumerate(p)})
    entropy = lambda q: -sum(x * math.log2(x) for x in q if x)  # noqa: E731
    distance = np.array([[math.sqrt(max(0, entropy((a + b) / 2) - (entropy(a) + entropy(b)) / 2)) for b in p] for a in p])
    merges = analysis.merges(table)
    members = {i: [i] for i in range(5)}
    for row in merges.itertuples():
        left, right = members[row.left], members[row.right]
        assert row.distance == pytest.approx(np.mean([distance[i, j] for i in left for j in right]))
        members[5 + row.merge] = left + right
    # The cophenetic distance of two classes is that of the merge that first holds both.
    first = np.array([[0 if i == j else next(r.distance for r in merges.itertuples() if {i, j} <= set(members[5 + r.merge]))
                       for j in range(5)] for i in range(5)])  # fmt: skip
    slow = np.corrcoef(squareform(first), squareform(distance, checks=False))[0, 1]
    assert analysis.classes(table)["cophenetic"].iloc[0] == pytest.approx(slow)


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_classes_are_one_cluster(count) -> None:
    table = profile_table({f"t{i}": [0.5 + i / 10, 0.5 - i / 10] for i in range(count)})
    found = analysis.classes(table)
    assert found["cluster"].tolist() == [1] * count
    assert found["cophenetic"].isna().all()


def test_no_case_is_scored_by_a_fit_that_saw_it(monkeypatch) -> None:
    rows = checked(several(30))
    patients = {f"c{i:04d}": f"p{i // 2}" for i in range(30)}  # two cases each
    seen: list[tuple[set, set]] = []
    plain = anomalies._fit_and_score

    def spy(profile, fit, scored, trees, seed):
        units = np.array(profile.units)
        seen.append(({patients[c] for c in units[fit]}, {patients[c] for c in units[scored]}))
        return plain(profile, fit, scored, trees, seed)

    monkeypatch.setattr(anomalies, "_fit_and_score", spy)
    table = analysis.anomaly(rows, patients=patients, trees=5)
    assert len(seen) == 3 * 5
    assert all(not fit & scored for fit, scored in seen)
    assert table["forest"].notna().all()
    assert len(table) == 3 * 30
    seen.clear()
    half = [f"c{i:04d}" for i in range(25)]  # patient p12 has a case on either side
    table = analysis.anomaly(rows, reference=half, patients=patients, trees=5)
    assert all(not fit & scored for fit, scored in seen)
    outside = table[~table["case"].isin(half)]
    assert (outside["fold"] == -1).all()
    assert (outside["n_fit"] == 24).all()
    assert (table[table["case"].isin(half)]["fold"] >= 0).all()


def test_forest_is_the_mean_depth_of_liu_zhou_and_higher_is_stranger() -> None:
    from sklearn.ensemble import IsolationForest

    rng = np.random.default_rng(0)
    masses = rng.dirichlet([30, 30, 30], 40)
    masses[7] = [0.02, 0.08, 0.9]
    table = analysis.anomaly(checked(rows_of(masses, ["background", "liver", "lung"])), folds=4, trees=50)
    assert "c0007" in table.sort_values("forest")["case"].tolist()[-3:]  # beyond all that a forest saw, depth says no more
    assert table.sort_values("mahalanobis")["case"].iloc[-1] == "c0007"
    assert table.set_index("case").loc["c0007", "strangest"] == "lung"
    assert table.set_index("case").loc["c0007", "strangest_z"] > 3
    fold = table["fold"].to_numpy()
    forest = IsolationForest(n_estimators=50, random_state=0).fit(masses[fold != 2])
    n = int((fold != 2).sum())
    c = lambda n: 2 * (sum(1 / i for i in range(1, n))) - 2 * (n - 1) / n if n > 1 else 0.0  # noqa: E731
    depths = []
    for tree in forest.estimators_:
        paths = np.asarray(tree.decision_path(masses[fold == 2].astype(np.float32)).sum(1)).ravel() - 1
        left = tree.tree_.n_node_samples[tree.apply(masses[fold == 2].astype(np.float32))]
        depths.append(paths + [c(k) for k in left])
    slow = 2 ** (-np.mean(depths, 0) / c(n))
    # scikit-learn takes ln(n - 1) + Euler's constant for the harmonic number
    assert table["forest"].to_numpy()[fold == 2] == pytest.approx(slow, rel=0.02)


def test_mahalanobis_does_not_depend_on_the_basis_or_the_region_that_is_dropped() -> None:
    masses = np.random.default_rng(0).dirichlet([8, 4, 3, 2], 60)
    fitted = anomalies.Distance.fit(masses, 0)
    assert fitted.covariance == "mcd"
    z = anomalies.log_ratios(masses, fitted.least)
    clr = np.log(masses) - np.log(masses).mean(1, keepdims=True)
    assert np.linalg.norm(z[3] - z[5]) == pytest.approx(np.linalg.norm(clr[3] - clr[5]))
    # Additive log-ratios are a linear map of them, under which the distance of a covariance does not change.
    alr = np.log(masses[:, :-1] / masses[:, -1:])
    to = np.linalg.lstsq(z, alr, rcond=None)[0]
    covariance = to.T @ np.linalg.inv(fitted.precision) @ to
    centred = alr - fitted.location @ to
    slow = np.sqrt(np.einsum("nd,de,ne->n", centred, np.linalg.inv(covariance), centred))
    assert fitted(masses) == pytest.approx(slow)


def test_few_cases_for_their_number_of_regions_are_shrunk_and_fewer_are_refused() -> None:
    r = np.random.default_rng(0)
    masses = r.dirichlet(np.full(8, 5), 20)
    masses[:, 4] = 0
    masses /= masses.sum(1, keepdims=True)
    table = analysis.anomaly(checked(rows_of(masses, [f"r{i}" for i in range(8)], target="r1")), trees=5)
    assert (table["covariance"] == "ledoit-wolf").all()
    assert np.isfinite(table["mahalanobis"]).all()
    few = analysis.anomaly(checked(cohort(10)), trees=5)  # of 11, each is scored by a fit on the 10 others
    assert few["forest"].isna().all()
    assert few["reason"].str.fullmatch("not enough cases: [89] to fit on, 10 are needed").all()


def test_cases_that_are_mostly_alike_have_a_distance_too() -> None:
    masses = np.tile([0.0, 1.0, 0.0], (30, 1))
    masses[::7] = [0.1, 0.8, 0.1]
    table = analysis.anomaly(checked(rows_of(masses, NAMES[:3])), trees=10)
    strange = table["case"].isin([f"c{i:04d}" for i in range(0, 30, 7)])
    for score in ("forest", "mahalanobis"):
        assert table[strange][score].min() > table[~strange][score].max()


def test_the_order_of_rows_changes_nothing() -> None:
    rows, cases, about = several(24), quality_of(several(24)), manifest(24)
    settings = Settings(trees=5, reference='site != "C"')
    one = analyse(rows, cases, about, settings)
    other = analyse(shuffled(rows), shuffled(cases), shuffled(about), settings)
    assert set(one.tables) >= {"importance", "classes", "anomaly", "anomaly_quality", "bias", "drift", "laterality"}
    for name, table in one.tables.items():
        assert len(table), name
        assert_frame_equal(table, other.tables[name])
    assert one.as_dict() == other.as_dict()


def quality_of(rows: DataFrame) -> DataFrame:
    r = np.random.default_rng(2)
    cases = rows[["case", "target"]].drop_duplicates().assign(score=1.0)
    return cases.assign(dice=r.random(len(cases)), iou=r.random(len(cases)), hd95_mm=np.nan)


def test_anomaly_quality_finds_that_strange_cases_are_segmented_worse() -> None:
    rows = checked(cohort(40))
    table = analysis.anomaly(rows, trees=20)
    cases = DataFrame({"case": table["case"], "target": "liver", "dice": 1 - table["forest"], "hd95_mm": 10 * table["forest"]})
    cases.loc[:4, "dice"] = np.nan
    found = analysis.anomaly_quality(table, cases).set_index(["score", "quality"])
    assert found.loc[("forest", "dice"), ["rho", "n", "missing"]].tolist() == [-1, 35, 5]
    assert found.loc[("forest", "hd95_mm"), ["rho", "n"]].tolist() == [1, 40]
    assert found["verdict"].str.startswith("anomalous cases are segmented worse").iloc[[0, 1]].all()
    assert ("forest", "iou") not in found.index
    few = analysis.anomaly_quality(table, cases.iloc[:12])
    assert few.iloc[0]["verdict"] == "not enough cases: 7 with both numbers, 10 are needed"


def test_laterality_in_closed_form() -> None:
    masses = np.array([[0.2, 0.2, 0.5, 0.1], [0.2, 0.4, 0.3, 0.1], [0.3, 0.6, 0.1, 0.0], [0.5, 0.5, 0.0, 0.0]])
    sides = analysis.sides(checked(rows_of(masses)))
    assert sides["pair"].unique().tolist() == ["kidney"]
    assert sides["index"].tolist() == pytest.approx([4 / 6, 0.5, 1, np.nan], nan_ok=True)
    few = analysis.laterality(sides).iloc[0]
    assert (few["n"], few["missing"], few["verdict"]) == (3, 1, "not enough cases: 3, 6 are needed")
    many = analysis.laterality(analysis.sides(checked(cohort(20, (5, 5, 20, 1))))).iloc[0]
    assert many["effect"] == 1
    assert many["p"] == pytest.approx(2 / 2**20)  # exact: all ranks are positive
    assert many["verdict"].startswith("more left than right")


@pytest.mark.parametrize(
    ("left", "right"),
    [("Left-Hippocampus", "Right-Hippocampus"), ("kidney_left", "kidney_right"), ("ctx-lh-insula", "ctx-rh-insula"),
     ("lung upper L", "lung upper R"), ("LeftLung", "RightLung")],
)  # fmt: skip
def test_pairs_are_found_by_name(left, right) -> None:
    rows = rows_of(np.full((2, 4), 0.25), ["background", left, right, "liver left lobe"]).assign(hemisphere="")
    found = analysis.sides(checked(rows))
    assert found["pair"].nunique() == 1
    assert found["index"].tolist() == [0, 0]
    assert analysis.sides(checked(rows), [(right, "liver left lobe")])["pair"].unique() == [f"{right} / liver left lobe"]
    with pytest.raises(BadInput, match="pairs of names of regions"):
        analysis.sides(checked(rows), [("spleen", left)])


def test_pairs_are_found_by_hemisphere() -> None:
    rows = rows_of(np.full((2, 4), 0.25), ["background", "insula", "insula", "stem"])
    rows["hemisphere"] = np.tile(["", "left", "right", "midline"], 2)
    assert analysis.sides(checked(rows))["pair"].tolist() == ["insula", "insula"]
    (profile,) = profiles(checked(rows))
    assert profile.names == ["background", "insula left", "insula right", "stem"]


def test_queries_compare_and_run_nothing() -> None:
    table = DataFrame(
        {"case": list("abcd"), "age": [50, 60, np.nan, 70], "site": ["A", "B", "A", None], "ill": [True, False, None, True]}
    )
    assert selected(table, "age < 70") == {"a", "b"}
    assert selected(table, 'site == "A" and age >= 50') == {"a"}
    assert selected(table, "site != A") == {"b"}  # what is missing fulfils nothing
    assert selected(table, "ill == true and age > 60") == {"d"}
    for query in ("@__import__('os')", "height > 3", "age > old", "site < B", "age"):
        with pytest.raises(BadInput, match="expected"):
            selected(table, query)


def test_a_class_whose_region_has_another_name_is_pointed_out() -> None:
    rows = several(12).replace({"target": {"liver": "Liver"}})  # as a table of names of one's own may have it
    text = "no region is called Liver: what lies in such a class itself counts as context"
    cases = quality_of(rows)
    assert text in "\n".join(analyse(rows, cases.assign(voxels_predicted=5), manifest(12), Settings(trees=2)).notes)
    for others in (cases, cases.assign(voxels_predicted=None)):  # no segmentation: a class has no region
        assert "is called" not in "\n".join(analyse(rows, others, manifest(12), Settings(trees=2)).notes)


def test_analysis_counts_and_notes() -> None:
    rows = several(24)
    rows = rows[~((rows["target"] == "liver") & (rows["case"] < "c0003"))]
    about = manifest(26).assign(patient=[f"p{i // 2}" for i in range(26)])
    found = analyse(rows, quality_of(rows), about, Settings(trees=5))
    assert found.counts == {"cases": 24, "patients": 12, "manifest": 26, "groups": 3, "reference": 0}
    text = "\n".join(found.notes)
    assert "2 cases of the manifest have no rows" in text
    assert "12 cases are further ones of a patient" in text
    assert "liver (Gradient) has a map in 21 of 24 cases" in text
    assert set(found.tables["bias"]["covariate"]) == {"sex", "age", "site"}
    assert found.tables["drift"].empty
    other = analyse(rows, quality_of(rows), about, Settings(trees=5), against=rows.assign(case="x" + rows["case"]))
    drift = other.tables["drift"]  # the same rows under other names; only the patients of the first are averaged
    assert (drift["q"] > 0.9).all()
    assert (drift["difference"].dropna().abs() < 0.02).all()


def test_drift_counts_the_patients_of_each_study_by_its_own_manifest() -> None:
    """Both have cases of the same names, which are other people's."""
    rows, about = several(24), manifest(24)
    pairs = {f"c{i:04d}": f"q{i // 2}" for i in range(24)}
    found = analyse(rows, quality_of(rows), about, Settings(trees=2), against=rows, against_patients=pairs)
    assert set(found.tables["drift"]["n_a"]) == {12}
    assert set(found.tables["drift"]["n_b"]) == {24}
    theirs = about.assign(patient=list(pairs.values()))
    other = analyse(rows, quality_of(rows), theirs, Settings(trees=2), against=rows)
    assert set(other.tables["drift"]["n_a"]) == {24}
    assert set(other.tables["drift"]["n_b"]) == {12}


@pytest.mark.parametrize("wrong", [{"level": 1.0}, {"alpha": 0}, {"folds": 1}, {"trees": 0}])
def test_settings_that_mean_nothing(wrong) -> None:
    with pytest.raises(BadInput, match=next(iter(wrong))):
        Settings(**wrong)
