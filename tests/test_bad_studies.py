"""The list of bad inputs for studies: what a cohort, a recipe or a folder may be, each by its number."""

import html
import re
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from cohorts import change, enter_world, program, run, write_case
from torch import nn

from radiolucent.analysis.effects import numeric
from radiolucent.errors import BadInput, InputWarning
from radiolucent.study import Study, read_cohort, read_recipe
from radiolucent.study.analysing import analyse_study
from radiolucent.study.cohort import read_manifest
from radiolucent.study.recipe import Source
from radiolucent.study.reporting import write_study_report
from radiolucent.tiling import Tiled

pytestmark = pytest.mark.filterwarnings("ignore:.*no world space.*:radiolucent.errors.InputWarning")


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = enter_world(tmp_path, monkeypatch)
    change(path, '{ method = "smooth-grad", samples = 3 }, { method = "grad-cam", layer = "blur" }', "")
    return path


def save(path: Path, data: np.ndarray, spacing: tuple[float, ...] = (2.0, 1, 1, 1)) -> None:
    nib.save(nib.Nifti1Image(data, np.diag(spacing)), path)


def only(recipe: Path, name: str = "case_1") -> str:
    """Why this one case failed, while the others were done; nothing of it is kept."""
    result = run(recipe)
    assert list(result.failed) == [name]
    assert len(result.done) == 3
    assert not (recipe.parent / "study/cases" / name).exists()
    return str(result.failed[name])


@pytest.mark.parametrize(
    ("values", "spacing", "message"),
    [
        (np.zeros((12, 12, 5), np.uint8), (2.0, 1, 1, 1), "a label on the grid of the scan.*12 x 12 x 5"),
        (np.zeros((12, 12, 12), np.uint8), (2.0, 1, 1.5, 1), "a label on the grid of the scan.*1.5 mm"),
        (np.full((12, 12, 12), 0.5, np.float32), (2.0, 1, 1, 1), "whole numbers"),
        (np.full((12, 12, 12), np.nan, np.float32), (2.0, 1, 1, 1), "NaN|whole numbers|finite"),
        (np.full((12, 12, 12), -1, np.int16), (2.0, 1, 1, 1), r"\[-1\]"),
    ],
    ids=["shape", "spacing", "half", "NaN", "negative"],
)
def test_17_and_19_a_label_that_does_not_fit_fails_its_case(
    recipe: Path, values: np.ndarray, spacing: tuple[float, ...], message: str
) -> None:
    save(recipe.parent / "labels/case_1.nii.gz", values, spacing)
    reason = only(recipe)
    assert re.search(message, reason), reason


def test_18_an_empty_label_has_no_distance_and_says_why(recipe: Path) -> None:
    save(recipe.parent / "labels/case_1.nii.gz", np.zeros((12, 12, 12), np.uint8))
    assert not run(recipe).failed
    cases = Study.open(recipe.parent / "study").cases().set_index(["case", "target"])
    row = cases.loc[("case_1", "label 1")]
    assert np.isnan(row["hd95_mm"])
    assert row["reason"] == "not in the label"


def test_20_a_parcellation_beside_the_image_is_fatal(recipe: Path) -> None:
    affine = np.diag([2.0, 1, 1, 1])
    affine[:3, 3] = 1000
    for n in range(4):
        (recipe.parent / "atlas").mkdir(exist_ok=True)
        data = np.ones((12, 12, 12), np.uint8)
        nib.save(nib.Nifti1Image(data, affine if n == 1 else np.diag([2.0, 1, 1, 1])), recipe.parent / f"atlas/case_{n}.nii.gz")
    change(recipe, "[regions]", '[regions]\nparcellation = "atlas/{case}.nii.gz"')
    change(recipe, 'joined = { ball = ["label 1", "label 2"] }', "")
    assert "overlaps the image" in only(recipe)


@pytest.mark.parametrize(
    "write",
    [Path.unlink, lambda p: p.write_bytes(b""), lambda p: p.write_text("<html>"), lambda p: (p.unlink(), p.mkdir())],
    ids=["missing", "empty", "page", "folder"],
)
def test_15_an_image_that_is_none_fails_its_case_alone(recipe: Path, write) -> None:  # type: ignore[no-untyped-def]
    write(recipe.parent / "images/case_1.nii.gz")
    assert "expected" in only(recipe)


def test_1_and_4_scans_with_nan_or_two_axes_fail_alone(recipe: Path) -> None:
    scan = nib.load(recipe.parent / "images/case_1.nii.gz").get_fdata().astype(np.float32)
    broken = scan.copy()
    broken[3, 3, 3] = np.nan
    save(recipe.parent / "images/case_1.nii.gz", broken)
    save(recipe.parent / "images/case_2.nii.gz", np.stack([scan, scan], -1))
    result = run(recipe)
    assert "finite voxels in case_1.nii.gz" in result.failed["case_1"]
    assert "4D data of shape (12, 12, 12, 2)" in result.failed["case_2"]
    assert result.done == ["case_0", "case_3"]


def test_49_what_every_case_fails_of_stops_the_run_early(recipe: Path) -> None:
    for n in range(4, 8):
        write_case(recipe.parent, f"case_{n}", n)
    lines = [f"case_{n},images/case_{n}.nii.gz" for n in range(8)]
    (recipe.parent / "cases.csv").write_text("case,image\n" + "\n".join(lines) + "\n")
    change(recipe, '["1", "2"]', '["99"]')
    with pytest.raises(BadInput, match=r"the first 5 all failed: expected targets from 0 to 2; got '99'"):
        run(recipe)
    assert len(Study.open(recipe.parent / "study").status().failed) == 5
    assert not list((recipe.parent / "study/cases").iterdir())


def test_34_a_model_that_gives_nan_for_a_scan_fails_there_and_is_no_success(recipe: Path) -> None:
    network = recipe.parent / "tinynet.py"
    change(network, "return self.classes(self.blur(x))", "y = self.classes(self.blur(x)); return y if x.max() < 5 else y / 0 * 0")
    write_case(recipe.parent, "case_1", 1, brightness=50)
    assert re.search(r"numbers as the model's output; got 5184 NaN of 5184", only(recipe))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[explain]", 'device = "warp"\n[explain]', "a device that PyTorch has here.*'warp'"),
        ("[explain]", 'device = "cuda:99"\n[explain]', "a device that PyTorch has here.*'cuda:99'"),
        ('["1", "2"]', '["1", "01"]', "each target once"),
        ('["1", "2"]', '["-1"]', "a target that the model has"),
        ("[regions]", '[regions]\nnames = "absent.tsv"', "a table of names at"),
        ("[regions]", '[regions]\nnames = "cases.csv"', "the columns index and name in cases.csv"),
        ("[explain]", 'weights = ""\n[explain]', "a path for model.weights; got ''"),
        ('"tinynet:Net"', '""', "a path for model.model; got ''"),
        ('"cases.csv"', '""', "a path for cohort.manifest; got ''"),
        ("[regions]", '[regions]\nparcellation = ""', "a path for regions.parcellation"),
        ("[regions]", '[regions]\nparcellation = "a\\u0000b"', "a path for regions.parcellation"),
        ("[2.0]", "[nan]", "distances above 0 mm"),
        ("[2.0]", "[inf]", "distances above 0 mm"),
        ("{ ball =", '{ "" =', "a name and regions for each of joined"),
        ('["label 1", "label 2"]', "[]", "a name and regions for each of joined"),
        ('name = "balls"', "seed = -1", "a seed from 0"),
        ('name = "balls"', "seed = 4294967296", "a seed from 0"),
        ("[keep]", "[analysis]\nalpha = 0\n[keep]", "alpha=0"),
        ("[keep]", "[analysis]\nalpha = nan\n[keep]", "alpha=nan"),
    ],
)
def test_49_recipes_that_no_case_can_mend_are_refused_before_any(recipe: Path, old: str, new: str, message: str) -> None:
    change(recipe, old, new)
    with pytest.raises(BadInput, match=message):
        run(recipe)
    assert not (recipe.parent / "study").exists()


def test_49_regions_that_no_image_can_have_are_refused_where_names_are_known(recipe: Path) -> None:
    (recipe.parent / "names.tsv").write_text("index\tname\n1\tgrey\n2\twhite\n")
    change(recipe, "[regions]", '[regions]\nnames = "names.tsv"')
    with pytest.raises(BadInput, match="one of the regions background, grey, white; got 'label 1'"):
        run(recipe)
    change(recipe, '{ ball = ["label 1", "label 2"] }', '{ grey = ["grey", "white"] }')
    with pytest.raises(BadInput, match="grey twice"):
        run(recipe)
    assert not (recipe.parent / "study").exists()


def test_49_a_recipe_that_is_nested_without_end(tmp_path: Path) -> None:
    (tmp_path / "deep.toml").write_text("a = " + "[" * 5000 + "]" * 5000)
    with pytest.raises(BadInput, match="a recipe in TOML"):
        read_recipe(tmp_path / "deep.toml")


def manifest(folder: Path, text: str, name: str = "cases.csv") -> Path:
    for image in ("a.nii", "b.nii"):
        (folder / image).touch()
    (folder / name).write_text(text)
    return folder / name


def test_42_ids_that_no_folder_can_have_stay_apart_and_inside(recipe: Path) -> None:
    ids = ["../up", "NUL", "Case", "case"]
    lines = [f"{i},images/case_{n}.nii.gz,labels/case_{n}.nii.gz" for n, i in enumerate(ids)]
    (recipe.parent / "cases.csv").write_text("case,image,label\n" + "\n".join(lines) + "\n")
    assert run(recipe).done == ids
    folders = {p.name for p in (recipe.parent / "study/cases").iterdir()}
    assert len({f.casefold() for f in folders}) == 4
    assert all(f.startswith("case-") for f in folders)
    study = Study.open(recipe.parent / "study")
    assert set(study.rows()["case"]) == set(ids)
    assert study.status().done == tuple(ids)
    assert not (recipe.parent / "study/up").exists()
    assert not (recipe.parent / "up").exists()


@pytest.mark.parametrize(
    ("text", "ages"),
    [
        ("case\timage\tage\n1\ta.nii\t3\n2\tb.nii\t4\n", [3, 4]),
        ("case;image;age\n1;a.nii;3,5\n2;b.nii;-4,25\n", [3.5, -4.25]),
        ("case;image;age\n1;a.nii;3.5\n2;b.nii;\n", [3.5, None]),
        ("case;image;age\n1;a.nii;3,5\n2;b.nii;a,b\n", ["3,5", "a,b"]),
    ],
    ids=["tabs in a .csv", "decimal commas", "decimal points", "text with commas"],
)
def test_46_tables_as_other_programs_write_them(tmp_path: Path, text: str, ages: list[object]) -> None:
    assert [c.covariates["age"] for c in read_manifest(manifest(tmp_path, text)).cases] == ages


def test_46_numbers_too_large_and_cells_that_are_lists(tmp_path: Path) -> None:
    cohort = read_manifest(manifest(tmp_path, f"case,image,n\n1,a.nii,{10**22}\n2,b.nii,3\n"))
    assert cohort.table().column("n").to_pylist()[1] in (3.0, "3")
    pd.DataFrame({"case": ["1"], "image": ["a.nii"], "n": [[1, 2]]}).to_parquet(tmp_path / "cases.parquet")
    with pytest.raises(BadInput, match=r"one value in each cell of cases.parquet.* in n"):
        read_manifest(tmp_path / "cases.parquet")


def test_47_one_image_as_two_cases_is_said(tmp_path: Path) -> None:
    path = manifest(tmp_path, "case,image\n1,a.nii\n2,a.nii\n")
    with pytest.warns(InputWarning, match=r"the same image is that of several cases: .*a\.nii"):
        assert len(read_cohort(Source(manifest=path)).cases) == 2


@pytest.mark.parametrize("name", ["x" * 5000, "images/a\0b.nii"], ids=["long", "NUL"])
def test_47_a_path_that_no_system_can_have_is_refused(recipe: Path, name: str) -> None:
    change(recipe.parent / "cases.csv", "images/case_1.nii.gz", name)
    with pytest.raises(BadInput, match="file names that the system can have; got others for case_1"):
        run(recipe)


def bids(folder: Path, participants: str) -> Source:
    for name in ("01", "02"):
        (folder / f"sub-{name}/anat").mkdir(parents=True, exist_ok=True)
        (folder / f"sub-{name}/anat/sub-{name}_T1w.nii.gz").touch()
    (folder / "participants.tsv").write_text(participants)
    return Source(bids=folder)


def test_47_columns_of_bids_do_not_stand_in_for_ours(tmp_path: Path) -> None:
    rows = ["participant_id case image label patient age", "sub-01 x y cancer yes 3", "sub-02 x y none yes 4"]
    source = bids(tmp_path, "\n".join(rows).replace(" ", "\t") + "\n")
    cohort = read_cohort(source)
    assert [(c.id, c.covariates["patient"]) for c in cohort.cases] == [("sub-01", "sub-01"), ("sub-02", "sub-02")]
    table = cohort.table().to_pylist()[0]
    assert (table["case"], Path(table["image"]).name, table["label"]) == ("sub-01", "sub-01_T1w.nii.gz", "")
    assert (table["participants_label"], table["participants_patient"], table["age"]) == ("cancer", "yes", 3)


def test_47_bids_that_is_odd(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"one row for each participant.*several for sub-01"):
        read_cohort(bids(tmp_path, "participant_id\tage\nsub-01\t3\nsub-01\t4\n"))
    source = bids(tmp_path, "participant_id\tage\nsub-01\t3\n")
    (tmp_path / "sub-02/anat/sub-_T1w.nii.gz").touch()
    with pytest.raises(BadInput, match="scans named sub-LABEL"):
        read_cohort(source)


@pytest.mark.slow
def test_38_ctrl_c_ends_with_a_word_and_loses_nothing(recipe: Path) -> None:
    study = recipe.parent / "study"
    process = program("study", "run", recipe, "--out", study, TINY_SLEEP="0.3")
    while process.poll() is None and not list((study / "cases").glob("case_*") if study.exists() else []):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors.rstrip().endswith("radiolucent: interrupted; what is done is kept")
    assert "Traceback" not in errors
    assert not list(study.rglob(".*"))
    assert not list((study / "failed").iterdir())
    assert run(recipe).there >= 1
    assert Study.open(study).status().waiting == ()


HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "=cmd()", "../../etc/passwd"]


def test_43_and_44_hostile_names_are_text_in_the_report_and_the_tables(recipe: Path) -> None:
    sites = ["=1+1", "<b>x</b>"] * 2
    images = [f"images/case_{n}.nii.gz" for n in range(4)]
    pd.DataFrame({"case": HOSTILE, "image": images, "<i>site</i>": sites}).to_csv(recipe.parent / "cases.csv", index=False)
    change(recipe, 'name = "balls"', 'name = "</title><script>alert(3)</script>"')
    change(recipe, "{ ball =", '{ "<svg onload=alert(4)>" =')
    change(recipe, "thumbnails = false", "thumbnails = true\nreports = true")
    (recipe.parent / "images/case_0.nii.gz").write_bytes(b"<script>alert(5)</script>")
    assert list(run(recipe).failed) == HOSTILE[:1]
    study = Study.open(recipe.parent / "study")
    page = write_study_report(study, analyse_study(study)).read_text()
    for text in ("<script>alert", "<img src=x", "<svg onload", "<b>x", "<i>site"):
        assert text not in page
    assert "Content-Security-Policy" in page
    assert "default-src 'none'" in html.unescape(page)
    for table in (study.folder / "analysis").glob("*.csv"):
        assert not re.search(r"(?m)(^|,)\"?=", table.read_text())
    assert not list(recipe.parent.parent.glob("etc"))


def test_37_a_full_disk_leaves_no_half_of_an_analysis(recipe: Path) -> None:
    resource = pytest.importorskip("resource")
    run(recipe)
    study = Study.open(recipe.parent / "study")
    study.compact()
    write_study_report(study, analyse_study(study))
    before = {p: p.read_bytes() for p in study.folder.rglob("*") if p.is_file()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        for write in (study.compact, lambda: analyse_study(study)):
            with pytest.raises(OSError, match="File too large"):
                write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert {p: p.read_bytes() for p in study.folder.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("n", [0, 1, 2])
def test_46_none_one_or_two_cases_give_a_report_or_a_word(recipe: Path, n: int) -> None:
    if n:
        run(recipe, shard=(1, 4))
    if n == 2:
        run(recipe, shard=(2, 4))
    if n == 0:
        for image in (recipe.parent / "images").iterdir():
            image.write_bytes(b"")
        assert len(run(recipe).failed) == 4
    study = Study.open(recipe.parent / "study")
    if not n:
        with pytest.raises(BadInput, match="got no row"):
            analyse_study(study)
        assert not (study.folder / "analysis").exists()
        return
    found = analyse_study(study)
    assert found.counts["cases"] == n
    assert write_study_report(study, found).exists()
    assert found.tables["bias"]["verdict"].str.contains("not enough|all cases").all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Dask's own
def test_40_something_else_at_the_schedulers_address_is_said(recipe: Path) -> None:
    pytest.importorskip("distributed")
    server = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        while True:
            try:
                caller, _ = server.accept()
                caller.sendall(b"HTTP/1.0 400 Bad Request\r\nConnection: close\r\n\r\nnothing for you here, go away" * 4)
                caller.close()
            except OSError:
                return

    threading.Thread(target=answer, daemon=True).start()
    try:
        with pytest.raises(BadInput, match="the address of a running Dask scheduler"):
            run(recipe, scheduler=f"tcp://127.0.0.1:{server.getsockname()[1]}")
    finally:
        server.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": True}, "a window of whole numbers"),
        ({"window": 5, "overlap": "0.5"}, "an overlap from 0"),
        ({"window": 5, "overlap": None}, "an overlap from 0"),
        ({"window": 5, "batch": "2"}, "batch >= 1"),
        ({"window": 5, "batch": 1.5}, "batch >= 1"),
    ],
    ids=str,
)
def test_49_windows_that_are_none(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Tiled(nn.Conv3d(1, 2, 1), **settings)
    with pytest.raises(BadInput, match="a PyTorch model to run in windows; got function"):
        Tiled(lambda x: x, 5)  # type: ignore[arg-type]


def test_46_covariates_beyond_measure() -> None:
    numbers = np.array([1e308, -1e308, 5.0] * 4)
    assert numeric(np.arange(12.0), numbers).n == 12
    assert numeric(np.arange(12.0), np.full(12, np.inf)).reason == "all values are equal"
