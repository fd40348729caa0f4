"""Studies: run, killed, resumed, shared, refused; the same rows whatever happened on the way."""

import importlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from cohorts import change, enter_world, program, run, write_case

from radiolucent.errors import BadInput, InputWarning
from radiolucent.study import Study, read_recipe
from radiolucent.study import run as run_study
from radiolucent.study.claims import attempts, claim, is_held
from radiolucent.study.running import read_shard

pytestmark = pytest.mark.filterwarnings("ignore:.*no world space.*:radiolucent.errors.InputWarning")


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return enter_world(tmp_path, monkeypatch)


def compacted(folder: Path) -> dict[str, bytes]:
    """What must be the same byte for byte."""
    Study.open(folder).compact()
    return {name: (folder / "compact" / f"{name}.parquet").read_bytes() for name in ("regions", "cases")}


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def expected_hd95(folder: Path, name: str) -> float:
    """Of label 1, by MONAI, with voxels of 2 x 1 x 1 mm."""
    image, label = (nib.load(folder / part / f"{name}.nii.gz").get_fdata() for part in ("images", "labels"))
    with torch.no_grad():
        seen = importlib.import_module("tinynet").Net()(torch.tensor(image, dtype=torch.float32)[None, None]).argmax(1)
    one, two = (seen == 1).float()[None], torch.tensor(label == 1).float()[None, None]
    metrics = pytest.importorskip("monai.metrics")
    found = metrics.compute_hausdorff_distance(one, two, include_background=True, percentile=95, spacing=[2.0, 1.0, 1.0])
    return pytest.approx(float(found), rel=1e-5)  # type: ignore[return-value]


def test_a_study_from_recipe_to_rows(recipe: Path) -> None:
    said: list[str] = []
    result = run(recipe, say=said.append)
    folder = recipe.parent / "study"
    assert result.done == [f"case_{n}" for n in range(4)]
    assert files(folder) == {"recipe.toml", "study.json", "manifest.parquet"} | {
        f"cases/case_{n}/{name}" for n in range(4) for name in ("regions.parquet", "cases.parquet", "costs.parquet", "summary.json")
    }
    assert "4 of 4 cases to do" in said
    assert "(4/4, " in said[-1]
    assert "cases/min, 0.0 min left)" in said[-1]
    study = Study.open(folder)
    rows = study.rows(covariates=True)
    assert rows.groupby(["method", "layer"]).ngroups == 3
    assert set(rows["layer"]) == {"", "blur"}
    assert rows[["age", "site"]].drop_duplicates().values.tolist() == [[50, "A"], [51, "B"], [52, "A"], [53, "B"]]
    keys = ["case", "method", "layer", "target"]
    assert np.allclose(rows[rows["kind"] == "label"].groupby(keys)["mass_fraction"].sum(), 1)
    assert np.allclose(rows[rows["kind"] == "near"].groupby(keys)["mass_fraction"].sum(), 1)
    balls = rows[rows["kind"] == "joined"].set_index(keys)["mass_fraction"]
    parts = rows[rows["region"].isin(["label 1", "label 2"])].groupby(keys)["mass_fraction"].sum()
    assert np.allclose(balls.sort_index(), parts.sort_index())
    cases = study.cases()
    assert cases["target"].tolist() == ["label 1", "label 2"] * 4
    assert cases["voxels_predicted"].min() > 10
    assert (cases["volume_mm3_predicted"] == 2 * cases["voxels_predicted"]).all()
    first = cases[cases["target"] == "label 1"]
    assert first["dice"].between(0.2, 1).all()
    assert first["hd95_mm"].tolist() == [expected_hd95(recipe.parent, name) for name in first["case"]]
    missing = cases[cases["target"] == "label 2"]
    assert missing["hd95_mm"].isna().all()
    assert set(missing["reason"]) == {"not in the label"}
    assert len(study.costs()) == 12


def test_resuming_touches_nothing(recipe: Path) -> None:
    run(recipe)
    folder = recipe.parent / "study"
    before = {name: (folder / name).stat().st_mtime_ns for name in files(folder)}
    result = run(recipe)
    assert (result.done, result.there) == ([], 4)
    assert {name: (folder / name).stat().st_mtime_ns for name in files(folder)} == before
    assert run_study(read_recipe(folder / "recipe.toml"), folder).there == 4  # its own recipe means the same study


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("samples = 3", "samples = 4", r"explain.methods\[2\].samples: 3, now 4"),
        ('["1", "2"]', '["1"]', r'explain.targets: \["1", "2"\], now \["1"\]'),
        ("near_mm = [2.0]", "near_mm = [3.0]", r"regions.near_mm: \[2.0\], now \[3.0\]"),
        ("thumbnails = false", "maps = true", "keep.maps: false, now true"),
    ],
)
def test_another_recipe_is_refused(recipe: Path, old: str, new: str, message: str) -> None:
    run(recipe, shard=(1, 4))
    before = files(recipe.parent / "study")
    change(recipe, old, new)
    with pytest.raises(BadInput, match=message):
        run(recipe)
    assert files(recipe.parent / "study") == before


def test_other_weights_and_other_cases_are_refused(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(recipe, shard=(1, 4))
    with monkeypatch.context() as other:
        other.setenv("TINY_BIAS", "0.4")
        with pytest.raises(BadInput, match=r"model.weights_sha256: \w+, now"):
            run(recipe)
    table = recipe.parent / "cases.csv"
    table.write_text(table.read_text().replace("case_3,images/case_3", "case_9,images/case_3"))
    with pytest.raises(BadInput, match=r"case case_3: .*, now nothing; case case_9: nothing, now images/case_3"):
        run(recipe)


def test_covariates_and_the_analysis_may_change(recipe: Path) -> None:
    run(recipe, shard=(1, 4))
    table = recipe.parent / "cases.csv"
    table.write_text(table.read_text().replace("50,A", "99,A"))
    recipe.write_text(recipe.read_text() + '[analysis]\ncovariates = ["age"]\n')
    assert run(recipe).there == 1
    study = Study.open(recipe.parent / "study")
    assert study.manifest()["age"].tolist() == [99, 51, 52, 53]
    assert study.recipe.analysis.covariates == ("age",)


def test_a_poison_case_is_put_aside_and_done_again_when_asked(recipe: Path) -> None:
    whole = (recipe.parent / "images/case_1.nii.gz").read_bytes()
    (recipe.parent / "images/case_1.nii.gz").write_bytes(whole[:200])
    result = run(recipe)
    folder = recipe.parent / "study"
    assert (len(result.done), list(result.failed)) == (3, ["case_1"])
    noted = json.loads((folder / "failed/case_1.json").read_bytes())
    assert noted["case"] == "case_1"
    assert noted["attempts"] == 1
    assert "case_1.nii.gz" in noted["reason"]
    status = Study.open(folder).status()
    assert (len(status.done), list(status.failed), status.waiting, status.total) == (3, ["case_1"], (), 4)
    again = run(recipe)
    assert (again.done, again.failed, again.quarantined) == ([], {}, 1)
    assert list(run(recipe, retry=True).failed) == ["case_1"]
    assert json.loads((folder / "failed/case_1.json").read_bytes())["attempts"] == 2
    (recipe.parent / "images/case_1.nii.gz").write_bytes(whole)
    assert run(recipe, retry=True).done == ["case_1"]
    assert not list((folder / "failed").iterdir())
    assert len(Study.open(folder).status().done) == 4


def test_shards_make_the_same_study_in_any_order(recipe: Path) -> None:
    header, *lines = (recipe.parent / "cases.csv").read_text().splitlines()
    (recipe.parent / "cases.csv").write_text("\n".join([header, *reversed(lines)]))
    for i in (3, 1, 2):
        run(recipe, shard=(i, 3))
    assert Study.open(recipe.parent / "study").status().waiting == ()
    run(recipe, "whole")
    one, other = (compacted(recipe.parent / name) for name in ("study", "whole"))
    assert one == other
    table = pq.read_table(recipe.parent / "study/compact/regions.parquet").column("case").to_pylist()
    assert table == sorted(table)
    assert compacted(recipe.parent / "study") == one


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0"])
def test_shards_that_are_none(text: str) -> None:
    assert read_shard("2/2") == (2, 2)
    with pytest.raises(BadInput, match="a shard i/N"):
        read_shard(text)


def test_a_class_without_a_voxel_is_no_failure(recipe: Path) -> None:
    write_case(recipe.parent, "case_1", 1, brightness=0.5)
    write_case(recipe.parent, "case_2", 2, brightness=0.05)
    said: list[str] = []
    assert run(recipe, say=said.append).failed == {}
    study = Study.open(recipe.parent / "study")
    cases, rows = study.cases().set_index(["case", "target"]), study.rows()
    assert cases.loc[("case_1", "label 2"), "voxels_predicted"] == 0
    assert np.isnan(cases.loc[("case_1", "label 2"), "score"])
    assert set(rows[rows["case"] == "case_1"]["target"]) == {"label 1"}
    assert "case_2" not in set(rows["case"])
    assert cases.loc[("case_2", "label 1"), "dice"] == 0
    assert "note: case_1: no voxel predicted of 2: not explained" in said
    assert any("case_2: the model predicts no voxel of any target" in line for line in said)
    compacted(recipe.parent / "study")


def test_labels_that_do_not_fit_are_fatal_for_their_case(recipe: Path) -> None:
    shutil.copy(recipe.parent / "labels/case_0.nii.gz", recipe.parent / "labels/case_1.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((5, 5, 5), np.uint8), np.eye(4)), recipe.parent / "labels/case_2.nii.gz")
    assert "a label on the grid of the scan" in run(recipe).failed["case_2"]


def test_a_method_that_fails_is_told_once_on_the_page_and_in_the_summary(recipe: Path) -> None:
    change(recipe, "thumbnails = false", "thumbnails = false\nreports = true")
    change(recipe, '{ method = "smooth-grad", samples = 3 }', '{ method = "attention-rollout" }')
    run(recipe, shard=(1, 4))
    folder = recipe.parent / "study/cases/case_0"
    assert (folder / "report.html").read_text().count("attention-rollout failed: ") == 1
    notes = json.loads((folder / "summary.json").read_bytes())["notes"]
    assert sum("attention-rollout failed: " in note for note in notes) == 1


def test_everything_is_kept_on_wish(recipe: Path) -> None:
    change(recipe, "thumbnails = false", "thumbnails = true\nmaps = true\nreports = true")
    change(recipe, "[regions]", '[regions]\nparcellation = "label"')
    change(recipe, 'joined = { ball = ["label 1", "label 2"] }', "")
    run(recipe, shard=(1, 4))
    kept = files(recipe.parent / "study/cases/case_0")
    assert {"report.html", "thumbnail.png", "gradient/explanation.json", "smooth-grad/target_1.nii.gz"} <= kept
    assert (recipe.parent / "study/cases/case_0/thumbnail.png").read_bytes().startswith(b"\x89PNG")
    rows = Study.open(recipe.parent / "study").rows()
    assert set(rows[rows["kind"] == "label"]["region"]) == {"background", "label 1"}


def test_the_model_is_loaded_once(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from radiolucent.study import working

    calls = []
    load = working.load
    monkeypatch.setattr(working, "load", lambda *a, **k: calls.append(a) or load(*a, **k))
    run(recipe)
    assert len(calls) == 1


def test_folders_that_are_refused(recipe: Path) -> None:
    (recipe.parent / "other").mkdir()
    (recipe.parent / "other/mine.txt").touch()
    for out, message in (("images", "apart from its inputs"), ("other", "holds something else"), ("cases.csv", "a file")):
        with pytest.raises(BadInput, match=message):
            run(recipe, out)
    with pytest.raises(BadInput, match="a number of workers, or a scheduler"):
        run(recipe, workers=2, scheduler="tcp://127.0.0.1:1")
    assert files(recipe.parent / "other") == {"mine.txt"}
    with pytest.raises(BadInput, match="a study at"):
        Study.open(recipe.parent / "other")


def test_what_no_case_can_mend_is_refused_before_any(recipe: Path) -> None:
    for old, new, message in (('layer = "blur"', 'layer = "blurr"', "blurr"), ('["1", "2"]', '["liver"]', "liver")):
        text = recipe.read_text()
        change(recipe, old, new)
        with pytest.raises(BadInput, match=message):
            run(recipe)
        recipe.write_text(text)
    assert not (recipe.parent / "study").exists()


def test_claims(tmp_path: Path) -> None:
    path = tmp_path / "case.json"
    with claim(path) as mine, claim(path) as yours:
        assert (mine, yours, is_held(path)) == (True, False, True)
    assert not path.exists()
    path.write_text(json.dumps({"begun": 2}))  # as a killed process leaves it
    assert (is_held(path), attempts(path)) == (False, 2)
    with suppress(KeyError), claim(path):
        assert attempts(path) == 3
        raise KeyError
    assert not path.exists()


def test_a_case_of_another_process_is_left_to_it(recipe: Path) -> None:
    run(recipe, shard=(1, 4))
    study = Study.open(recipe.parent / "study")
    with claim(study.mark("case_2")) as ours:
        assert ours
        result = run(recipe)
        assert study.status().running == ("case_2",)
    assert result.elsewhere == ["case_2"]
    assert len(result.done) == 2
    assert run(recipe).done == ["case_2"]


def test_what_was_interrupted_comes_last(recipe: Path) -> None:
    run(recipe, shard=(4, 4))
    study = Study.open(recipe.parent / "study")
    study.mark("case_0").write_text(json.dumps({"begun": 1}))
    assert study.status().interrupted == {"case_0": 1}
    assert run(recipe).done == ["case_1", "case_2", "case_0"]
    assert not study.mark("case_0").exists()


def killed_at_random(command: Callable[[], subprocess.Popen[str]], cases: Path, seed: int) -> bool:
    """Kill the process soon after one more case is there; False if it had ended by itself."""
    process, before, wait = command(), len(list(cases.glob("case_*"))), random.Random(seed).uniform(0, 0.25)
    while process.poll() is None and len(list(cases.glob("case_*"))) == before:
        time.sleep(0.005)
    time.sleep(wait)
    alive = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return alive


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed(recipe: Path) -> None:
    run(recipe, "whole")
    study = recipe.parent / "study"

    def command() -> subprocess.Popen[str]:
        return program("study", "run", recipe, "--out", study, TINY_SLEEP="0.02")

    kills = [killed_at_random(command, study / "cases", seed) for seed in range(2)]
    assert any(kills)
    end = command()
    _, errors = end.communicate()
    assert end.returncode == 0, errors
    assert compacted(study) == compacted(recipe.parent / "whole")
    assert not list(study.rglob(".*"))
    assert not list((study / "running").iterdir())


@pytest.mark.slow
def test_two_processes_on_one_study_do_no_case_twice(recipe: Path) -> None:
    study = recipe.parent / "study"
    both = [program("study", "run", recipe, "--out", study, "--json", TINY_SLEEP="0.02") for _ in range(2)]
    ended = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    done = [case for out, _ in ended for case in json.loads(out)["done"]]
    assert sorted(done) == [f"case_{n}" for n in range(4)]
    run(recipe, "whole")
    assert compacted(study) == compacted(recipe.parent / "whole")


@pytest.mark.slow
def test_a_full_disk_keeps_what_is_done_and_stops_early(recipe: Path) -> None:
    """Simulated by a limit on the size of files, which needs no rights: no file above 5 kB can be written."""
    pytest.importorskip("resource")
    change(recipe, "thumbnails = false", "thumbnails = false\nmaps = true")
    study = recipe.parent / "study"
    run(recipe, shard=(1, 4))
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))"
    process = program("study", "run", recipe, "--out", study, before=limit)
    _, errors = process.communicate()
    assert process.returncode == 1
    assert "the last 3 cases all failed: OSError: [Errno 27] File too large" in errors
    assert {p.name for p in (study / "cases").iterdir()} == {"case_0"}
    assert not list((study / "failed").iterdir())  # it was not the cases' fault: the next run does them
    assert run(recipe).done == ["case_1", "case_2", "case_3"]


@pytest.fixture
def cluster(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A Dask cluster that is running: its address."""
    distributed = pytest.importorskip("distributed")
    monkeypatch.setitem(distributed.config["distributed"]["scheduler"], "allowed-failures", 1)  # fewer restarts
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, memory_limit=0, dashboard_address=None, silence_logs=50
    ) as found:
        yield found.scheduler_address


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Dask's own
def test_a_running_scheduler_gives_the_same_rows_with_poison_and_a_killer(recipe: Path, cluster: str) -> None:
    write_case(recipe.parent, "case_1", 1, brightness=5000)  # kills its worker
    (recipe.parent / "images/case_2.nii.gz").write_bytes(b"poison")
    result = run(recipe, scheduler=cluster)
    # a case may be done when its worker dies beside the killer: it is then found to be there
    assert set(Study.open(recipe.parent / "study").status().done) == {"case_0", "case_3"}
    assert set(result.failed) == {"case_1", "case_2"}
    assert "kills its workers" in result.failed["case_1"]
    assert "case_2.nii.gz" in result.failed["case_2"]
    assert set(Study.open(recipe.parent / "study").status().failed) == {"case_1", "case_2"}
    for name in ("case_1", "case_2"):
        write_case(recipe.parent, name, int(name[-1]))
    assert sorted(run(recipe, scheduler=cluster, retry=True).done) == ["case_1", "case_2"]
    run(recipe, "here")
    assert compacted(recipe.parent / "study") == compacted(recipe.parent / "here")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_local_workers_give_the_same_rows(recipe: Path) -> None:
    run(recipe, workers=2, threads=1)
    run(recipe, "here")
    assert compacted(recipe.parent / "study") == compacted(recipe.parent / "here")
    with pytest.raises(BadInput, match="a running Dask scheduler"):
        run(recipe, "nowhere", scheduler="nonsense://")


def test_the_command_line(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from radiolucent.cli import main

    def called(*arguments: object) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["radiolucent", *map(str, arguments)])
            try:
                main()
            except SystemExit as end:
                return int(end.code or 0)
        return 0

    (recipe.parent / "images/case_1.nii.gz").write_bytes(b"poison")
    assert called("study", "run", recipe, "--out", "study") == 3
    said = capsys.readouterr()
    assert "3 cases done, 1 failed, 0 were there before" in said.out
    assert "case_1 failed: " in said.err
    assert called("study", "status", "study") == 0
    assert "3 of 4 cases done, 1 failed, 0 left" in capsys.readouterr().out
    assert called("study", "status", "study", "--json") == 0
    assert list(json.loads(capsys.readouterr().out)["failed"]) == ["case_1"]
    assert called("study", "compact", "study") == 0
    assert "cases.parquet: 6 rows" in capsys.readouterr().out
    assert called("study", "run", recipe, "--out", "study", "--shard", "0/2") == 1
    assert "a shard i/N" in capsys.readouterr().err


def test_a_warning_of_ours_becomes_a_note(recipe: Path) -> None:
    (recipe.parent / "cases.csv").write_text("case,image\nflat,images/flat.nii.gz\n")
    write_case(recipe.parent, "flat", 0, brightness=0)
    said: list[str] = []
    nib.save(nib.Nifti1Image(np.zeros((12, 12, 12), np.float32), np.eye(4)), recipe.parent / "images/flat.nii.gz")
    run(recipe, say=said.append)
    assert any("constant" in line for line in said)
    assert issubclass(InputWarning, UserWarning)


def test_a_model_window_by_window(recipe: Path) -> None:
    change(recipe, 'model = "tinynet:Net"', 'model = "tinynet:Net"\nwindow = [8, 8, 8]\noverlap = 0.5')
    change(recipe, 'methods = [{ method = "gradient" }', 'methods = [{ method = "gradient" }] #')
    assert run(recipe, shard=(1, 4)).failed == {}
    rows = Study.open(recipe.parent / "study").rows()
    assert np.allclose(rows[rows["kind"] == "label"].groupby("target")["mass_fraction"].sum(), 1)


def test_rows_of_maps_that_are_never_whole_are_those_of_whole_ones(recipe: Path) -> None:
    change(recipe, 'model = "tinynet:Net"', 'model = "tinynet:Net"\nwindow = [8, 8, 8]\noverlap = 0.5')
    change(recipe, ', { method = "grad-cam", layer = "blur" }', "")
    assert run(recipe, shard=(1, 4)).failed == {}
    (recipe.parent / "study").rename(recipe.parent / "whole")
    whole = Study.open(recipe.parent / "whole").rows()
    change(recipe, "near_mm = [2.0]", "near_mm = [2.0]\nstreamed = true")
    assert run(recipe, shard=(1, 4)).failed == {}
    streamed = Study.open(recipe.parent / "study")
    texts = ["case", "method", "layer", "target", "region", "label", "kind", "voxels"]
    assert streamed.rows()[texts].equals(whole[texts])
    assert set(whole["kind"]) == {"label", "joined", "near"}
    numbers = ["mass_fraction", "positive", "negative", "density", "enrichment", "volume_mm3"]
    assert np.allclose(streamed.rows()[numbers], whole[numbers], rtol=1e-4, equal_nan=True)
    assert set(streamed.costs()["method"]) == {"gradient", "smooth-grad(gradient)"}


def test_streamed_rows_need_a_window_and_keep_no_maps(recipe: Path) -> None:
    change(recipe, "near_mm = [2.0]", "near_mm = [2.0]\nstreamed = true")
    with pytest.raises(BadInput, match=r"got none, in the recipe or the card"):
        run(recipe)
    change(recipe, "[keep]", "[keep]\nmaps = true")
    with pytest.raises(BadInput, match=r"got \[keep\] maps"):
        read_recipe(recipe)
