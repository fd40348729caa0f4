"""A study's folder analysed: all tables or none, the same bytes for the same rows, nothing that a spreadsheet would run."""

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pandas import DataFrame
from simulated import several
from typer.testing import CliRunner

from radiolucent.analysis import Settings, analyse
from radiolucent.cli import app
from radiolucent.errors import BadInput
from radiolucent.study import Study, read_recipe
from radiolucent.study.analysing import analyse_study, read_analysis
from radiolucent.study.cohort import Case, Cohort
from radiolucent.study.reporting import agreement
from radiolucent.study.tables import to_parquet

RECIPE = """
[study]
name = "planted"
seed = 4
[cohort]
manifest = "cases.csv"
[model]
model = "net"
[explain]
methods = [{ method = "gradient" }]
[analysis]
reference = 'scanner == "A"'
covariates = ["scanner", "age"]
alpha = 0.1
"""


def study(folder: Path, n: int = 24, odd: str = "kidney left") -> Study:
    """A study that was run: region rows of a simulated cohort, with a covariate that goes with nothing."""
    folder.mkdir()
    (folder / "recipe.toml").write_text(RECIPE)
    (folder / "net").mkdir()
    image = folder / "image.nii.gz"
    image.touch()
    r = np.random.default_rng(0)
    about = [{"scanner": str(r.choice(["A", "B"])), "age": float(r.normal(60, 9))} for _ in range(n)]
    cases = tuple(Case(f"c{i:04d}", image, None, about[i]) for i in range(n))
    identity = {"model": {"weights_sha256": "0"}, "regions": {"parcellation": "predicted"}}
    found = Study.begin(folder / "study", read_recipe(folder / "recipe.toml"), Cohort(cases, folder), identity, print)
    rows = several(n).replace({"region": {"kidney left": odd}, "target": {"kidney left": odd}})
    for case in cases:
        own = rows[rows["case"] == case.id]
        quality = [
            {"case": case.id, "target": t, "score": 1.0, "voxels_predicted": 5, "volume_mm3_predicted": 5.0, "reason": "no label"}
            for t in own["target"].unique()
        ]
        quality = [row | dict.fromkeys(("dice", "iou", "hd95_mm"), float("nan")) for row in quality]
        new = found.folder / "cases" / case.id
        new.mkdir()
        (new / "regions.parquet").write_bytes(to_parquet("regions", own.to_dict("records")))
        (new / "cases.parquet").write_bytes(to_parquet("cases", quality))
        (new / "costs.parquet").write_bytes(to_parquet("costs", []))
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_tables_and_json_hold_what_the_analysis_found(tmp_path: Path) -> None:
    done = study(tmp_path / "a")
    found = analyse_study(done)
    tables = read_analysis(done)
    assert set(tables) == set(found.tables)
    for name, table in found.tables.items():
        pd.testing.assert_frame_equal(tables[name], table, check_dtype=False)
        with (done.folder / "analysis" / f"{name}.csv").open(newline="") as file:
            lines = list(csv.reader(file))
        assert lines[0] == list(table.columns)  # also of a table without rows
        assert len(lines) == len(table) + 1
    about = json.loads((done.folder / "analysis" / "analysis.json").read_bytes())
    assert about["settings"]["seed"] == 4
    assert about["settings"]["alpha"] == 0.1
    assert about["counts"]["reference"] == about["counts"]["cases"] - (tables["drift"]["n_b"].iloc[0])
    assert set(tables["bias"]["covariate"]) == {"scanner", "age"}
    assert len(tables["anomaly_quality"]) == 0  # there is no label


def test_the_same_cases_give_the_same_bytes(tmp_path: Path) -> None:
    done = study(tmp_path / "a")
    analyse_study(done)
    first = contents(done.folder / "analysis")
    analyse_study(done)
    assert contents(done.folder / "analysis") == first
    assert [p.name for p in done.folder.iterdir() if p.name.startswith(".")] == []


def test_a_failure_leaves_the_tables_that_were_there(tmp_path: Path, monkeypatch) -> None:
    done = study(tmp_path / "a")
    analyse_study(done)
    first = contents(done.folder / "analysis")
    monkeypatch.setattr("radiolucent.study.analysing.write_table", lambda *a, **k: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        analyse_study(done)
    assert contents(done.folder / "analysis") == first


def test_row_44_names_are_no_formulas(tmp_path: Path) -> None:
    done = study(tmp_path / "a", odd="=1+1")
    analyse_study(done)
    for path in (done.folder / "analysis").glob("*.csv"):
        with path.open(newline="") as file:
            assert not any(cell.startswith(("=", "@")) for row in csv.reader(file) for cell in row), path.name


def test_drift_from_another_study(tmp_path: Path) -> None:
    one, other = study(tmp_path / "a"), study(tmp_path / "b", n=12)
    drift = analyse_study(one, against=other).tables["drift"]
    assert (drift["n_a"].iloc[0], drift["n_b"].iloc[0]) == (12, 24)


def test_agreement_counts_patients_not_cases() -> None:
    cases = DataFrame({"case": ["a", "b", "c"], "target": "liver", "dice": [0.2, 0.4, 0.9], "iou": np.nan, "hd95_mm": np.nan})
    table = agreement(cases, {"a": "p", "b": "p", "c": "q"}, Settings())
    assert table[["quality", "mean", "n"]].values.tolist() == [["Dice", pytest.approx((0.3 + 0.9) / 2), 2]]
    assert agreement(cases, None, Settings())["n"].tolist() == [3]


def test_command_line(tmp_path: Path) -> None:
    done = study(tmp_path / "a")
    result = CliRunner().invoke(app, ["study", "analyse", str(done.folder)])
    assert result.exit_code == 0, result.output
    assert "24 cases of 24 patients, tables in" in result.output
    assert "bias: 0 findings in" in result.output
    as_json = CliRunner().invoke(app, ["study", "analyse", str(done.folder), "--json"])
    assert json.loads(as_json.output)["counts"]["cases"] == 24


def test_a_study_without_a_case_or_an_analysis_says_so(tmp_path: Path) -> None:
    done = study(tmp_path / "a", n=1)
    with pytest.raises(BadInput, match="study analyse"):
        read_analysis(done)
    (done.folder / "cases" / "c0000").rename(tmp_path / "gone")
    with pytest.raises(BadInput, match="Run the study"):
        analyse_study(done)


def test_one_case_is_enough_for_means_only(tmp_path: Path) -> None:
    found = analyse_study(study(tmp_path / "a", n=1))
    assert (found.tables["importance"]["n"] == 1).all()
    assert found.tables["anomaly"]["reason"].str.startswith("not enough cases").all()
    assert found.tables["bias"]["p"].isna().all()
    anomaly = found.tables["bias"][found.tables["bias"]["quantity"] == "anomaly (forest)"]
    assert set(anomaly["verdict"]) == {"not enough cases: none has this value"}
    assert analyse(several(1), DataFrame(columns=["case", "target"]), DataFrame({"case": ["c0000"]})).tables["bias"].empty
