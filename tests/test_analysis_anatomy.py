"""Structures of a regression's outputs: worlds in which the model looks at itself, at its mirror, at both, or at nothing."""

import math
from typing import get_args, get_type_hints

import numpy as np
import pandas as pd
import pytest
from pandas import DataFrame
from scipy import stats
from simulated import rows_of

from radiolucent import analysis, sided
from radiolucent.analysis import Settings, analyse, checked
from radiolucent.errors import BadInput
from radiolucent.report.anatomy_figures import asymmetry_panels
from radiolucent.report.figures import png
from radiolucent.statistics import intraclass_correlation

REGIONS = ("background", "Hippocampus (left)", "Hippocampus (right)", "Ventricle (left)", "Ventricle (right)", "Stem")
TARGETS = ("left hippocampus", "right hippocampus", "left ventricle", "right ventricle", "stem")
VOLUMES = [500, 100, 100, 200, 200, 100]


def world(masses: np.ndarray, target: str = TARGETS[0], volumes=VOLUMES) -> DataFrame:
    """Region rows of one target from masses (cases, 6 regions), with regions of known volumes, (6,) or (cases, 6)."""
    rows = rows_of(masses, REGIONS, target)
    rows["hemisphere"] = np.where(rows["region"].str.contains("left"), "L", np.where(rows["region"].str.contains("right"), "R", ""))
    rows["voxels"] = np.broadcast_to(np.asarray(volumes), masses.shape).reshape(-1).astype(int)
    rows["volume_mm3"] = rows["voxels"] * 1.0
    return rows


def looks(own: float, mirror: float, n: int = 12, noise: float = 0.0, **options: object) -> DataFrame:
    """n cases: so much of the left hippocampus' relevance lies in it and in its mirror, the rest in the stem."""
    r = np.random.default_rng(0)
    masses = np.zeros((n, 6))
    masses[:, 1] = own + noise * r.uniform(-1, 1, n)
    masses[:, 2] = mirror + noise * r.uniform(-1, 1, n)
    masses[:, 5] = 1 - masses.sum(1)
    return checked(world(masses, **options))


def outputs(targets=TARGETS, mean=math.nan, spread=math.nan, unit: str = "mm3", source: str = "the model card") -> DataFrame:
    return DataFrame({"target": targets, "mean": mean, "spread": spread, "source": source, "unit": unit})


def test_targets_are_matched_by_name_and_side() -> None:
    rows = looks(0.5, 0.5)
    found = {m.target: m for m in analysis.matches(rows, [*TARGETS, "Hippocampus", "Stem", "liver", "Lh-Ventricle"])}
    assert (found["left hippocampus"].structure, found["left hippocampus"].opposite) == REGIONS[1:3]
    assert (found["right ventricle"].structure, found["right ventricle"].opposite) == (REGIONS[4], REGIONS[3])
    assert found["Lh-Ventricle"].structure == REGIONS[3]
    assert (found["stem"].structure, found["stem"].opposite) == ("Stem", "")
    assert found["Hippocampus"].structure == "Hippocampus (left) + Hippocampus (right)"  # of both sides
    assert not found["Hippocampus"].mirror
    assert found["liver"].reason == "no region is called so: name one in structures of [analysis]"


def test_given_structures_and_pairs_go_before_names() -> None:
    rows = looks(0.5, 0.5)
    given = [("left hippocampus", "Stem"), ("left ventricle", "Stem"), ("left ventricle", "Ventricle (left)")]
    found = {m.target: m for m in analysis.matches(rows, TARGETS, given, [("Stem", "Ventricle (right)")])}
    assert (found["left hippocampus"].structure, found["left hippocampus"].opposite) == ("Stem", "Ventricle (right)")
    assert found["left ventricle"].structure == "Stem + Ventricle (left)"
    assert found["right ventricle"].opposite == "Stem"
    twice = analysis.matches(rows, TARGETS, [("left hippocampus", "Stem")] * 2)
    assert analysis.own(rows, twice)["own"].tolist() == pytest.approx([0] * 12)  # not NaN
    for wrong in ([("spleen", "Stem")], [("stem", "Spleen")]):
        with pytest.raises(BadInput, match=r"structures as \(target, region\)"):
            analysis.matches(rows, TARGETS, wrong)


def test_two_regions_of_one_name_are_no_match() -> None:
    rows = looks(0.5, 0.5).replace({"region": {"Stem": "left-hippocampus"}}).assign(hemisphere="")
    (found,) = analysis.matches(checked(rows), ["Left Hippocampus"])
    assert found.reason.startswith("2 regions are called so")


def test_density_is_share_over_volume_share() -> None:
    masses = np.array([[0.5, 0.2, 0.1, 0.1, 0.1, 0.0], [0.0, 0.3, 0.1, 0.2, 0.2, 0.2]])
    rows = checked(world(masses))
    found = analysis.matches(rows, TARGETS)
    table = analysis.density(rows, found).set_index("region")
    brain, volume = masses[:, 1:] / masses[:, 1:].sum(1, keepdims=True), np.array(VOLUMES[1:]) / 700
    assert table["density"].to_dict() == pytest.approx(dict(zip(REGIONS[1:], (brain / volume).mean(0), strict=True)))
    assert table["role"].to_dict() == dict(zip(REGIONS[1:], ["own", "mirror", "other", "other", "other"], strict=True))
    scan = analysis.density(rows, found, within="scan").set_index("region")
    slow = (masses / (np.array(VOLUMES) / 1200)).mean(0)
    assert scan["density"].to_dict() == pytest.approx(dict(zip(REGIONS, slow, strict=True)))
    assert scan.loc["background", "role"] == "outside"
    even = analysis.density(checked(world(np.array([VOLUMES]) / 1200)), found)
    assert even["density"].tolist() == pytest.approx([1] * 5)  # no preference
    with pytest.raises(BadInput, match="within"):
        analysis.density(rows, found, within="brain")


def test_a_region_that_some_scans_lack_is_left_out_there() -> None:
    masses = np.array([[0, 0.5, 0.5, 0, 0, 0], [0, 1.0, 0, 0, 0, 0]])
    rows = world(masses)
    rows = checked(rows[~((rows["case"] == "c0001") & (rows["label"] == 2))])
    found = analysis.matches(rows, TARGETS[:1])
    table = analysis.density(rows, found).set_index("region")
    assert table.loc[REGIONS[2], ["n", "n_present", "density"]].tolist() == [1, 1, pytest.approx(0.5 / (100 / 700))]
    own = analysis.own(rows, found)
    assert own["index"].tolist() == pytest.approx([0, np.nan], nan_ok=True)
    assert own["own"].tolist() == [0.5, 1]


def test_a_region_is_present_also_where_all_relevance_is_outside() -> None:
    masses = np.array([[0, 0.5, 0.5, 0, 0, 0], [1.0, 0, 0, 0, 0, 0], [0, 1.0, 0, 0, 0, 0]])
    volumes = np.array([VOLUMES, VOLUMES, [500, 100, 0, 200, 200, 100]])  # the last scan holds no right hippocampus
    rows = checked(world(masses, volumes=volumes))
    table = analysis.density(rows, analysis.matches(rows, TARGETS[:1])).set_index("region")
    assert table.loc[list(REGIONS[1:3]), ["n", "n_present"]].values.tolist() == [[2, 3], [1, 2]]
    patients = {"c0000": "p", "c0001": "q", "c0002": "p"}
    table = analysis.density(rows, analysis.matches(rows, TARGETS[:1]), patients=patients).set_index("region")
    assert table.loc[REGIONS[2], ["n", "n_present"]].tolist() == [1, 2]


def test_relevance_outside_of_all_regions_has_no_density() -> None:
    rows = checked(world(np.array([[1.0, 0, 0, 0, 0, 0]] * 8)))
    found = analysis.matches(rows, TARGETS[:1])
    assert analysis.density(rows, found)["density"].isna().all()
    table = analysis.mirror(analysis.own(rows, found)).iloc[0]
    assert (table["inside"], table["n"], table["missing"]) == (0, 0, 8)
    assert table["verdict"] == "not enough cases: 0, 6 are needed"


@pytest.mark.parametrize(
    ("own", "mirror", "index", "verdict"),
    [
        (1.0, 0.0, 1, "more in the target itself than in its mirror (mean index +1.00, n = 12)"),
        (0.0, 0.8, -1, "more in its mirror than in the target itself (mean index -1.00, n = 12)"),
        (0.3, 0.3, 0, "equally in the target itself and in its mirror: the index is within ±0.1 (mean index +0.00, n = 12)"),
        (0.42, 0.38, 0.05, "more in the target itself than in its mirror (mean index +0.05, n = 12), but by less than the margin"),
    ],
)  # fmt: skip
def test_target_and_mirror_in_closed_form(own, mirror, index, verdict) -> None:
    rows = looks(own, mirror)
    found = analysis.own(rows, analysis.matches(rows, TARGETS[:1]))
    assert found["index"].tolist() == pytest.approx([index] * 12)
    assert found["own_volume"].tolist() == pytest.approx([100 / 700] * 12)
    assert found["index_by_volume"].tolist() == [0] * 12
    (row,) = analysis.mirror(found).to_dict("records")
    assert (row["structure"], row["opposite"]) == REGIONS[1:3]
    assert (row["own"], row["mirror"], row["mean"]) == pytest.approx((own, mirror, index))
    assert row["verdict"].removesuffix(" of 0.1") == verdict


def test_no_difference_found_is_not_equality() -> None:
    rows = looks(0.3, 0.3, n=8, noise=0.25)
    (row,) = analysis.mirror(analysis.own(rows, analysis.matches(rows, TARGETS[:1]))).to_dict("records")
    assert row["q"] > 0.05
    assert row["q_equal"] > 0.05
    assert row["verdict"].startswith("no evidence of a side (n = 8), nor that both are equal (index from ")
    index = analysis.own(rows, analysis.matches(rows, TARGETS[:1]))["index"]
    one_sided = [stats.wilcoxon(index + 0.1, alternative="greater").pvalue, stats.wilcoxon(index - 0.1, alternative="less").pvalue]
    assert row["p_equal"] == max(one_sided)
    assert row["p"] == stats.wilcoxon(index).pvalue
    wide = analysis.mirror(analysis.own(rows, analysis.matches(rows, TARGETS[:1])), margin=0.9).iloc[0]
    assert wide["verdict"].startswith("equally in the target itself and in its mirror: the index is within ±0.9")


def test_laterality_of_the_same_rows_says_the_same() -> None:
    table = analysis.laterality(analysis.sides(looks(0.3, 0.3))).set_index("pair")
    assert table.loc["hippocampus", "verdict"] == "equally left and right: the index is within ±0.1 (mean index +0.00, n = 12)"
    assert table.loc["ventricle", "verdict"] == "not enough cases: 0, 6 are needed"  # no relevance in either
    few = analysis.mirror(analysis.own(looks(1, 0, n=1), analysis.matches(looks(1, 0), TARGETS[:1]))).iloc[0]
    assert few["verdict"] == "not enough cases: 1, 6 are needed"


def test_a_target_without_a_mirror_has_its_share_alone() -> None:
    rows = looks(0.2, 0.2, target="stem")
    (row,) = analysis.mirror(analysis.own(rows, analysis.matches(rows, ["stem"]))).to_dict("records")
    assert row["own"] == pytest.approx(0.6)
    assert math.isnan(row["mirror"])
    assert row["verdict"] == "no mirror: the structure has no other side"


def test_shares_of_patients_not_cases() -> None:
    masses = np.array([[0, 1.0, 0, 0, 0, 0], [0, 0, 1.0, 0, 0, 0], [0, 0.25, 0.75, 0, 0, 0]])
    rows = checked(world(masses))
    patients = {"c0000": "p", "c0001": "p", "c0002": "q"}
    (row,) = analysis.mirror(analysis.own(rows, analysis.matches(rows, TARGETS[:1])), patients=patients).to_dict("records")
    assert (row["own"], row["mean"], row["n"]) == pytest.approx(((0.5 + 0.25) / 2, (0 - 0.5) / 2, 2))


# Variability.


def varied(density: np.ndarray, cv: np.ndarray) -> DataFrame:
    """A structure per number."""
    names = [f"s{i}" for i in range(len(cv))]
    columns = {"method": "m", "layer": "", "target": names, "structure": names, "unit": names, "density": density, "cv": cv}
    return DataFrame(columns | {"low": density, "high": density, "n": 9, "source": "the model card", "reason": ""})


def test_variability_in_closed_form() -> None:
    x = np.arange(1.0, 11)
    (row,) = analysis.variability(varied(x**2, x)).to_dict("records")
    assert (row["rho"], row["p"], row["n"]) == (1, 1e-4, 10)
    assert row["verdict"] == "relevance is denser on structures that vary more (rho = +1.00, n = 10 structures)"
    (row,) = analysis.variability(varied(-x, x)).to_dict("records")
    assert row["verdict"].startswith("relevance is less dense on structures that vary more (rho = -1.00")
    r = np.random.default_rng(3)
    a, b = r.random(12), r.random(12)
    (row,) = analysis.variability(varied(a, b)).to_dict("records")
    assert row["rho"] == pytest.approx(stats.spearmanr(a, b).statistic)
    assert row["p"] == pytest.approx(stats.spearmanr(a, b).pvalue, abs=0.02)
    assert row["low"] < row["rho"] < row["high"]
    assert row["verdict"].startswith("no evidence of a relation with variability")


def test_variability_needs_structures_that_differ() -> None:
    x = np.arange(1.0, 6)
    assert analysis.variability(varied(x, x))["verdict"].tolist() == [
        "not enough structures: 5 with a density and a coefficient, 6 are needed"
    ]
    x = np.arange(1.0, 9)
    assert analysis.variability(varied(x, x * 0 + 1))["verdict"].tolist() == ["all coefficients of variation are equal"]
    assert analysis.variability(varied(x * 0, x))["verdict"].tolist() == ["all densities are equal"]


def test_left_and_right_of_a_structure_count_once() -> None:
    x = np.arange(1.0, 7)
    once = varied(x, x)
    both = pd.concat([once.assign(density=x - 0.1, target="left " + once["target"]), once.assign(density=x + 0.1)])
    assert analysis.variability(both)[["rho", "p", "n"]].equals(analysis.variability(once)[["rho", "p", "n"]])
    assert analysis.variability(both)["targets"].tolist() == [12]


def test_the_unit_is_the_structures_not_the_targets() -> None:
    rows = looks(0.5, 0.3)
    given = [("vol_a", REGIONS[1]), ("vol_b", REGIONS[2]), ("x", REGIONS[3]), ("y", REGIONS[5])]
    found = analysis.matches(rows, ["vol_a", "vol_b", "Hippocampus", "right hippocampus", "x", "y"], given)
    units = ["hippocampus", "hippocampus", "hippocampus (both sides)", "hippocampus", "ventricle", "stem"]
    assert [match.unit for match in found] == units
    named = checked(rows.replace({"region": dict(zip(REGIONS[1:3], ("A1", "A2"), strict=True))}).assign(hemisphere=""))
    found = analysis.matches(named, ["a", "b"], [("a", "A1"), ("b", "A2")], [("A1", "A2")])
    assert [match.unit for match in found] == ["a1 / a2"] * 2
    every = checked(pd.concat([named.assign(target=target) for target in ("a", "b")]))
    cv = DataFrame({"target": ["a", "b"], "cv": 0.1, "source": "", "reason": ""})
    assert analysis.variation(analysis.own(every, found), cv)["unit"].tolist() == ["a1 / a2"] * 2


def test_coefficients_are_the_cards_or_else_the_cohorts() -> None:
    volumes = np.tile(VOLUMES, (8, 1))
    volumes[:, 1] = [80, 90, 100, 110, 120, 100, 95, 105]
    rows = checked(world(np.full((8, 6), 1 / 6), volumes=volumes))
    found = analysis.matches(rows, TARGETS)
    card = outputs(mean=[100, 100, 400, -400, 0], spread=[10, 20, 100, 100, 1])
    table = analysis.coefficients(card, rows, found).set_index("target")
    assert table["cv"].tolist() == pytest.approx([0.1, 0.2, 0.25, 0.25, np.nan], nan_ok=True)
    assert set(table["source"]) == {"the model card"}
    assert table.loc["stem", "reason"] == "a mean of 0 has no coefficient of variation"
    table = analysis.coefficients(outputs(spread=3.0), rows, found).set_index("target")
    assert table.loc[TARGETS[0], "cv"] == pytest.approx(np.std(volumes[:, 1], ddof=1) / 100)
    assert table.loc["stem", "cv"] == 0
    assert set(table["source"]) == {"region volumes of this cohort"}
    few = analysis.coefficients(outputs(), rows[rows["case"] < "c0003"], found)
    assert few["reason"].tolist() == ["not enough cases: 3 with the structure, 6 are needed"] * 5


# Asymmetry.


def audited(slope: float, n: int = 30, noise: float = 0.0, shift: float = 0.0, size: float = 1.0) -> DataFrame:
    """A pair of outputs whose predicted asymmetry is slope x the true one + shift, and whose total is right."""
    r = np.random.default_rng(1)
    total, t = size * r.normal(7000, 600, n), r.normal(50, 200, n)
    d = slope * t + shift + noise * r.normal(0, 1, n)
    cases = [f"c{i:04d}" for i in range(n)]
    parts = [
        DataFrame({"case": cases, "target": side, value: (whole + sign * difference) / 2})
        for whole, difference, value in ((total, d, "score"), (total, t, "true"))
        for side, sign in (("left hippocampus", -1), ("right hippocampus", 1))
    ]
    predicted, true = pd.concat(parts[:2]), pd.concat(parts[2:]).assign(source="region volumes")
    return analysis.asymmetries(predicted, true, [("hippocampus", "left hippocampus", "right hippocampus")])


@pytest.mark.parametrize(
    ("slope", "noise", "verdict"),
    [
        (1.0, 1, "sees the asymmetry (slope 1.00, r = +1.00, n = 30)"),
        (0.8, 1, "sees the asymmetry, but makes it weaker (slope 0.80"),
        (1.5, 1, "sees the asymmetry, but makes it stronger (slope 1.50"),
        (0.1, 1, "sees the asymmetry, but makes it much weaker: less than half of the true one (slope 0.10"),
        (0.0, 30, "sees no asymmetry beyond chance: less than half of the true one (slope"),
        (0.0, 0, "sees no asymmetry: the model gives all cases the same"),
        (-0.7, 1, "predicts the opposite asymmetry (slope -0.70"),
        (0.0, 900, "no evidence of a relation of predicted with true asymmetry"),
    ],
)
def test_the_asymmetry_that_a_model_sees(slope, noise, verdict) -> None:
    (row,) = analysis.asymmetry(audited(slope, noise=noise)).to_dict("records")
    assert row["verdict"].startswith(verdict)
    assert ("while the totals agree (r = +1.00)" in row["verdict"]) == (slope in (0.0, 0.1) and noise > 0)


def test_the_numbers_of_asymmetry_by_hand() -> None:
    rows = audited(0.4, noise=50, shift=30)
    d, t = rows["predicted"].to_numpy(), rows["true"].to_numpy()
    (row,) = analysis.asymmetry(rows, unit="mm3").to_dict("records")
    assert row["slope"] == pytest.approx(np.polyfit(t, d, 1)[0])
    assert row["low"] < row["slope"] < row["high"]
    assert row["bias"] == pytest.approx((d - t).mean())
    assert row["bias_low"] < row["bias"] < row["bias_high"]
    assert (row["r"], row["p"]) == pytest.approx(tuple(stats.pearsonr(d, t)))
    assert row["r_low"] < row["r"] < row["r_high"]
    assert row["icc"] == pytest.approx(intraclass_correlation(np.stack([t, d], 1), "ICC(2,1)"))
    assert (row["sd_true"], row["sd_predicted"]) == pytest.approx((t.std(ddof=1), d.std(ddof=1)))
    assert (row["r_total"], row["unit"], row["source"]) == (pytest.approx(1), "mm3", "region volumes")
    assert (rows["true_total"] > 4000).all()


def test_asymmetry_that_cannot_be_audited() -> None:
    assert analysis.asymmetry(audited(1, n=9))["verdict"].tolist() == ["not enough cases: 9 with both numbers, 10 are needed"]
    rows = audited(1)
    assert analysis.asymmetry(rows.assign(true=3.0))["verdict"].tolist() == ["all cases have the same true asymmetry"]
    rows.loc[:4, "true"] = np.nan
    (row,) = analysis.asymmetry(rows).to_dict("records")
    assert (row["n"], row["missing"]) == (25, 5)
    assert analysis.asymmetry(rows[:0]).empty
    alone = DataFrame({"case": ["a"], "target": "left hippocampus", "score": 1.0, "true": 1.0, "source": ""})
    assert analysis.asymmetries(alone, alone, [("hippocampus", "left hippocampus", "right hippocampus")]).empty


def test_several_cases_of_a_patient_are_one() -> None:
    rows = audited(1, n=24, noise=20)
    patients = {case: f"p{int(case[1:]) // 2}" for case in rows["case"]}
    (row,) = analysis.asymmetry(rows, patients=patients).to_dict("records")
    assert row["n"] == 12


def test_a_visit_without_a_prediction_is_left_out_with_its_truth() -> None:
    rows = audited(1, n=48, noise=5)
    patients = {case: f"p{int(case[1:]) // 2}" for case in rows["case"]}
    rows.loc[::2, ["predicted", "predicted_total"]] = np.nan
    (row,) = analysis.asymmetry(rows, patients=patients).to_dict("records")
    assert (row["n"], row["missing"]) == (24, 24)
    whole = analysis.asymmetry(rows[1::2]).iloc[0]
    assert (row["slope"], row["r"]) == pytest.approx((whole["slope"], whole["r"]))
    rows.loc[1::2, "true"] = np.nan  # no visit has both
    table = analysis.asymmetry(rows, patients=patients)
    assert table[["n", "missing"]].values.tolist() == [[0, 48]]
    assert png(asymmetry_panels(rows, table)).startswith(b"\x89PNG")


def test_true_values_are_columns_or_volumes() -> None:
    rows = looks(0.5, 0.5, n=2)
    found = analysis.matches(rows, TARGETS)
    manifest = DataFrame({"case": ["c0000", "c0001"], "left hippocampus": [1.0, 2], "vol right hippocampus": ["3", "x"]})
    both = manifest.assign(**{"right hippocampus": [3.0, 4]})
    by_name = analysis.truths(rows, both, found, "", "")
    assert by_name[["target", "true"]].values.tolist() == [[TARGETS[0], 1], [TARGETS[0], 2], [TARGETS[1], 3], [TARGETS[1], 4]]
    assert analysis.truths(rows, manifest, found, "", "").empty  # of one side alone
    mixed = analysis.truths(rows, both, found, "", "mm3").drop_duplicates("target").set_index("target")["source"]
    assert mixed.to_dict() == dict(zip(TARGETS, ["columns of the manifest"] * 2 + ["region volumes"] * 3, strict=True))
    score = DataFrame({"case": "c0000", "target": TARGETS, "score": 1.0})
    audits = analysis.asymmetries(score, analysis.truths(rows, both, found, "", "mm3"), analysis.output_pairs(found))
    assert audits[["pair", "true", "source"]].values.tolist() == [
        ["hippocampus", 2, "columns of the manifest"],
        ["ventricle", 0, "region volumes"],
    ]
    pattern = analysis.truths(rows, manifest, found, "vol {target}", "mm3")
    assert pattern["true"].tolist() == pytest.approx([3, np.nan], nan_ok=True)
    for unit, size in (("mm3", 200), ("", 200), ("ml", 0.2), ("cm³", 0.2)):
        volumes = analysis.truths(rows, manifest, found, "volumes", unit).set_index(["target", "case"])["true"]
        assert volumes["left ventricle", "c0001"] == pytest.approx(size)
    with pytest.raises(BadInput, match="outputs in mm3, cm3, ml to compare with volumes"):
        analysis.truths(rows, manifest, found, "volumes", "years")
    plain = manifest[["case"]]
    assert len(analysis.truths(rows, plain, found, "", "mm³")) == 10
    assert analysis.truths(rows, plain, found, "", "ml")["true"].max() == 0.2
    assert analysis.truths(rows, plain, found, "", "years").empty
    with pytest.raises(BadInput, match="columns of true values"):
        analysis.truths(rows, manifest, found, "true {target}", "mm3")


def test_outputs_are_paired_by_name_or_by_their_structures() -> None:
    rows = looks(0.5, 0.5)
    given = [("a", "Ventricle (right)"), ("b", "Ventricle (left)")]
    found = analysis.matches(rows, [*TARGETS, "a", "b"], given)
    named = [("hippocampus", *TARGETS[:2]), ("ventricle", *TARGETS[2:4])]
    assert analysis.output_pairs(found) == sorted([*named, ("b / a", "b", "a")])
    rows = checked(rows.replace({"region": {"Ventricle (left)": "A1", "Ventricle (right)": "A2"}}).assign(hemisphere=""))
    given, pairs = [("oA", "A1"), ("oB", "A2")], [("A1", "A2"), ("Stem", "Hippocampus (left)")]
    found = analysis.matches(rows, ["oB", "oA"], given, pairs)  # whose names say no side: the pair does
    assert analysis.output_pairs(found) == [("oA / oB", "oA", "oB")]
    swapped = analysis.matches(rows, ["oB", "oA"], given, [("A2", "A1")])
    assert analysis.output_pairs(swapped) == [("oB / oA", "oB", "oA")]
    assert sided.pairs([("x", "left x", ""), ("y", "Left-X", ""), ("z", "x R", "")]) == []


# All together.


def cohort(n: int = 14, unit: str = "mm3") -> tuple[DataFrame, DataFrame, DataFrame]:
    """Both hippocampi look at the left one; the model gives both the same volume."""
    r = np.random.default_rng(2)
    volumes = np.tile(VOLUMES, (n, 1))
    volumes[:, 1:3] += r.integers(-20, 21, (n, 2))
    parts = []
    for target in TARGETS[:2]:
        masses = r.dirichlet([4, 40, 2, 2, 2, 2], n)
        parts.append(world(masses, target, volumes))
    cases = DataFrame({"case": [f"c{i:04d}" for i in range(n)] * 2, "target": np.repeat(TARGETS[:2], n)})
    cases["score"] = np.tile(volumes[:, 1:3].mean(1), 2)
    return pd.concat(parts), cases, DataFrame({"case": [f"c{i:04d}" for i in range(n)]})


def test_the_whole_analysis_of_a_regression() -> None:
    rows, cases, about = cohort()
    found = analyse(rows, cases, about, Settings(trees=2), outputs=outputs(TARGETS[:2]))
    mirror = found.tables["mirror"].set_index("target")["verdict"]
    assert mirror["left hippocampus"].startswith("more in the target itself than in its mirror")
    assert mirror["right hippocampus"].startswith("more in its mirror than in the target itself")
    (audit,) = found.tables["asymmetry"].to_dict("records")
    assert audit["verdict"] == "sees no asymmetry: the model gives all cases the same"
    assert found.tables["variability"]["verdict"].tolist() == [
        "not enough structures: 1 with a density and a coefficient, 6 are needed"
    ]
    roles = found.tables["importance"].set_index(["target", "region"])["role"]
    assert roles["left hippocampus", "Hippocampus (left)"] == "itself"
    assert "Hippocampus (left)" not in set(found.tables["edges"].query("target == 'left hippocampus'")["region"])
    assert not [note for note in found.notes if "asymmetry" in note or "structure" in note]
    without = analyse(rows, cases, about, Settings(trees=2))
    assert not {"mirror", "asymmetry", "density"} & set(without.tables)
    assert found.as_dict()["settings"]["training"] == ""


def test_what_cannot_be_answered_is_said_in_words() -> None:
    rows, cases, about = cohort()
    rows = rows.replace({"target": {"left hippocampus": "age", "right hippocampus": "dose"}})
    found = analyse(rows, cases.iloc[:0], about, Settings(trees=2), outputs=outputs(("age", "dose"), unit="years"))
    assert found.tables["mirror"].empty
    assert found.tables["variability"].empty
    text = "\n".join(found.notes)
    assert "age, dose without a structure of its own: no region is called so" in text
    assert "asymmetry was not audited: no two outputs are a left and a right" in text
    rows, cases, about = cohort()
    found = analyse(rows, cases, about, Settings(trees=2), outputs=outputs(TARGETS[:2], unit=""))
    assert "asymmetry was not audited: there are no true values" in "\n".join(found.notes)
    nothing = DataFrame(columns=["case", "target"])
    found = analyse(rows, nothing, about, Settings(trees=2, truth="volumes"), outputs=outputs(TARGETS[:2], unit=""))
    assert "asymmetry was not audited for hippocampus: predictions or true values of a side are missing" in found.notes


def test_columns_of_true_values_are_no_covariates() -> None:
    rows, cases, about = cohort()
    about = about.assign(age=np.arange(14.0), **dict.fromkeys(TARGETS[:2], 5.0))
    found = analyse(rows, cases, about, Settings(trees=2), outputs=outputs(TARGETS[:2]))
    assert set(found.tables["bias"]["covariate"]) == {"age"}
    assert found.tables["asymmetry"]["verdict"].tolist() == ["all cases have the same true asymmetry"]
    named = Settings(trees=2, covariates=("left hippocampus",))
    assert set(analyse(rows, cases, about, named, outputs=outputs(TARGETS[:2])).tables["bias"]["covariate"]) == {TARGETS[0]}


def test_an_output_that_is_called_like_a_covariate_is_no_truth_of_the_others() -> None:
    rows, cases, about = cohort()
    about = about.assign(age=np.arange(14.0))
    found = analyse(rows, cases, about, Settings(trees=2), outputs=outputs((*TARGETS[:2], "age", "case")))
    assert found.tables["asymmetry"][["pair", "n", "source"]].values.tolist() == [["hippocampus", 14, "region volumes"]]
    assert set(found.tables["bias"]["covariate"]) == {"age"}
    assert not [note for note in found.notes if "asymmetry" in note]
    swapped = rows.replace({"target": {"left hippocampus": "case"}}), cases.replace({"left hippocampus": "case"})
    given = Settings(trees=2, structures=(("case", REGIONS[1]),))
    found = analyse(*swapped, about, given, outputs=outputs(("case", TARGETS[1])))
    assert found.tables["asymmetry"]["pair"].tolist() == ["case / right hippocampus"]


def test_settings_and_tables_know_the_same_shares() -> None:
    kinds = [get_type_hints(Settings)["within"], get_type_hints(analysis.density)["within"], get_type_hints(analysis.own)["within"]]
    assert {get_args(kind) for kind in kinds} == {("regions", "scan")}


@pytest.mark.parametrize("wrong", [{"margin": 0.0}, {"within": "brain"}, {"truth": "column"}])
def test_settings_that_mean_nothing(wrong) -> None:
    with pytest.raises(BadInput, match=next(iter(wrong))):
        Settings(**wrong)
