"""`radiolucent measure` as a user calls it: a process, judged by its files, words and exit code."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import openpyxl
import pytest
from pyarrow import parquet
from test_cli import MODEL, SCAN, radiolucent
from test_scores import AFFINE, MASK, saved

from radiolucent import io
from radiolucent.cli import main
from radiolucent.methods import GradCAM
from radiolucent.volume import Volume


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two cases of two layers each, and their masks; the second case points at both labels alike."""
    (tmp_path / "masks").mkdir()
    for case, value in (("case1", 0.5), ("case2", 1.0)):
        for layer in ("early", "late"):
            saved(tmp_path / "maps" / case / layer, value, GradCAM(layer))
        io.write(tmp_path / "masks" / f"{case}_seg.nii.gz", Volume(MASK, AFFINE))
    (tmp_path / "names.tsv").write_text("index\tname\n1\thead\n2\ttail\n")
    return tmp_path


def test_measure_writes_tables_and_a_plot_and_prints_means(study: Path) -> None:
    arguments = ("--metric", "energy-pointing-game", "--metric", "iou", "--threshold", "0.4", "--threshold", "0.7")
    done = radiolucent(
        "measure", "maps", "--mask", "masks", "--names", "names.tsv", "--label", "head", *arguments, "--out", "s.xlsx", cwd=study
    )
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in study.iterdir()) == ["maps", "masks", "names.tsv", "s.png", "s.xlsx"]
    book = openpyxl.load_workbook(study / "s.xlsx")
    header, *rows = ([cell.value for cell in row] for row in book["scores"].iter_rows())
    assert len(rows) == 2 * 2 * 2 * 3  # cases, layers, targets, metrics
    first = dict(zip(header, rows[0], strict=True))
    assert (first["case"], first["method"], first["layer"], first["target"], first["region"]) == (
        "case1",
        "grad-cam",
        "early",
        "one",
        "head",
    )
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert ["late", "one", "energy-pointing-game", "0.583", "0.500 to 0.667", "2"] in lines
    assert ["late", "one", "iou@0.7", "0.750", "0.500 to 1.000", "2"] in lines
    assert ["late", "one", "iou@0.4", "0.500", "0.500 to 0.500", "2"] in lines
    assert "2 of 2 cases measured" in done.stdout


def test_what_explain_writes_can_be_measured(tmp_path: Path) -> None:
    """The model's own segmentation of the demo's scan as the mask: each target's relevance lies in its own label."""
    methods = ("--method", "hires-cam", "--method", "gradient", "--target", 1, "--target", 2)
    assert radiolucent("explain", SCAN, "--model", MODEL, *methods, "--out", "out", cwd=tmp_path).returncode == 0
    mask = tmp_path / "out" / "icbm152-hippocampus" / "segmentation.nii.gz"
    arguments = ("measure", "out", "--mask", mask, "--metric", "average-precision", "--json")
    done = radiolucent(*arguments, "--out", "own.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    means = json.loads(done.stdout)["means"]
    pairs = [("anterior hippocampus", 1, "anterior hippocampus"), ("posterior hippocampus", 2, "posterior hippocampus")]
    assert [(row["target"], row["label"], row["region"]) for row in means] == 2 * pairs
    done = radiolucent(*arguments, "--all-pairs", "--out", "s.parquet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["cases"] == [{"case": "icbm152-hippocampus", "status": "done"}]
    score = {(row["method"], row["target"], row["label"]): row["mean"] for row in answer["means"]}
    for method in ("hires-cam", "gradient"):
        for label, target in ((1, "anterior hippocampus"), (2, "posterior hippocampus")):
            assert score[method, target, label] > 2 * score[method, target, 3 - label]
    table = parquet.read_table(tmp_path / "s.parquet").to_pylist()
    assert len(table) == 8
    assert answer["means"][0]["low"] is None  # one case has no interval


def test_real_labels_on_another_grid(tmp_path: Path, data_folder: Path) -> None:
    """A real hippocampus as map and mask; the mask on a grid of half the voxel size is refused, then resampled."""
    labels = io.read_labels(sorted((data_folder / "hippocampus" / "labels").glob("*.nii.gz"))[0])
    io.write(tmp_path / "map.nii.gz", labels.like((labels.data == 1).astype(np.float32)))
    fine = np.kron(labels.data[0], np.ones((2, 2, 2), np.int32))
    affine = labels.affine @ np.diag([0.5, 0.5, 0.5, 1])
    affine[:3, 3] = (labels.affine @ [-0.25, -0.25, -0.25, 1])[:3]
    io.write(tmp_path / "mask.nii.gz", Volume(fine[None], affine))
    arguments = ("measure", "map.nii.gz", "--mask", "mask.nii.gz", "--metric", "iou", "--out", "s.csv")
    refused = radiolucent(*arguments, cwd=tmp_path)
    assert refused.returncode == 3
    assert "--resample" in refused.stderr
    assert not (tmp_path / "s.csv").exists()
    done = radiolucent(*arguments, "--resample", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "note: the mask was resampled" in done.stderr
    assert "label 1\tiou@otsu\t1.000" in done.stdout
    assert "label 2\tiou@otsu\t0.000" in done.stdout


def test_a_case_that_fails_is_named_and_the_others_are_done(study: Path) -> None:
    shifted = AFFINE.copy()
    shifted[0, 3] = 1
    io.write(study / "masks" / "case1_seg.nii.gz", Volume(MASK, shifted))
    done = radiolucent("measure", "maps", "--mask", "masks", "--out", "s.csv", "--json", cwd=study)
    assert done.returncode == 3
    first, second = json.loads(done.stdout)["cases"]
    assert (first["case"], first["status"], second["status"]) == ("case1", "failed", "done")
    assert "a mask on the map's grid" in first["reason"]
    assert "case1" not in (study / "s.csv").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mask", "masks/case1_seg.nii.gz", "--mask", "names.tsv"], "not for case2 (none)"),
        (["--mask", "nowhere"], "nothing at nowhere"),
        (["--mask", "masks", "--metric", "io"], "Did you mean iou"),
        (["--mask", "masks", "--threshold", "best"], "a threshold: otsu"),
        (["--mask", "masks", "--label", "head"], "--names"),
        (["--mask", "masks", "--part", "negative"], "'positive', 'absolute'"),
        (["--mask", "masks", "--out", "s.xls"], ".csv, .parquet, .xlsx"),
        (["--mask", "masks", "--out", "there.csv"], "--overwrite"),
        (["--mask", "masks", "--out", "absent/s.csv"], "a folder that exists"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_wrong_usage_is_refused_before_any_work(
    study: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, as nothing is run: the exit code and words of `main`."""
    monkeypatch.chdir(study)
    (study / "there.csv").write_text("mine")
    before = sorted(p.name for p in study.iterdir())
    out = [] if "--out" in arguments else ["--out", "s.csv"]
    monkeypatch.setattr(sys, "argv", ["radiolucent", "measure", "maps", *arguments, *out])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert sorted(p.name for p in study.iterdir()) == before
    assert (study / "there.csv").read_text() == "mine"


def test_tables_are_replaced_when_asked(study: Path) -> None:
    (study / "s.csv").write_text("old")
    done = radiolucent("measure", "maps", "--mask", "masks", "--metric", "iou", "--out", "s.csv", "--overwrite", cwd=study)
    assert done.returncode == 0, done.stderr
    assert (study / "s.csv").read_text().startswith("case,method,")
    assert (study / "s_means.csv").read_text().startswith("method,")


def test_what_is_undefined_says_why(study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(study)
    arguments = ["measure", "maps", "--mask", "masks", "--metric", "iou", "--label", "7", "--out", "s.csv"]
    monkeypatch.setattr(sys, "argv", ["radiolucent", *arguments])
    with pytest.raises(SystemExit):
        main()
    assert "undefined: label 7 is not in the mask (8 of 8 scores)" in capsys.readouterr().out


def test_metrics_lists_them(tmp_path: Path) -> None:
    listed = json.loads(radiolucent("metrics", "--json", cwd=tmp_path).stdout)
    assert {"ioa@otsu", "pointing-game", "average-precision"} <= {row["metric"] for row in listed}
    assert {"deletion", "parameter-randomisation"} <= {row["metric"] for row in listed if row["needs"] == "the model"}
    assert "higher is better" in radiolucent("metrics", cwd=tmp_path).stdout
    one = radiolucent("metrics", "deletion", cwd=tmp_path).stdout
    assert "faithfulness, lower is better, needs the model" in one
    assert "over=cubes" in one
    assert "Did you mean deletion" in radiolucent("metrics", "delete", cwd=tmp_path).stderr


def test_help_needs_nothing_heavy(tmp_path: Path) -> None:
    code = "import sys; sys.argv[1:] = ['measure', '--help']\n"
    code += "try:\n from radiolucent.cli import main; main()\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'matplotlib', 'nibabel', 'pyarrow', 'openpyxl', 'scipy', 'numpy'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True).returncode == 0
