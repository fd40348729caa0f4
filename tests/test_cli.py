"""The command line as a user calls it: a process, from another folder, judged by its files and exit code."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from radiolucent.cli import main

DEMO = Path(__file__).resolve().parents[1] / "src" / "radiolucent" / "demo"
MODEL = DEMO / "hippocampus"
SCAN = DEMO / "icbm152-hippocampus.nii.gz"

SPOT = '''
"""A model whose evidence is one bright spot: S = mean of max(0, x - 0.9)."""
import torch
from torch import nn

class Spot(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Conv3d(1, 1, 1)
        with torch.no_grad():
            self.features.weight.fill_(1.0)
            self.features.bias.fill_(-0.9)

    def forward(self, x):
        y = self.features(x).relu().flatten(2).mean(-1)
        return torch.cat([-y, y], 1)
'''


def radiolucent(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", "from radiolucent.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})


def test_explain_writes_the_case_and_says_so_in_json(tmp_path: Path) -> None:
    arguments = ("--method", "grad-cam", "--method", "gradient", "--target", "posterior hippocampus", "--out", "out", "--json")
    done = radiolucent("explain", SCAN, "--model", MODEL, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (case,) = json.loads(done.stdout)["cases"]
    folder = tmp_path / "out" / "icbm152-hippocampus"
    assert case["status"] == "done"
    assert list(case["targets"]) == ["posterior hippocampus"]
    assert {p.name for p in folder.iterdir()} == {
        "grad-cam", "gradient", "regions.csv", "report.html", "segmentation.nii.gz", "summary.json", "trust.json",
    }  # fmt: skip
    saved, given = nib.load(folder / "gradient" / "target_0.nii.gz"), nib.load(SCAN)
    assert saved.shape == given.shape
    assert np.allclose(saved.affine, given.affine)
    assert np.abs(saved.get_fdata()).max() > 0


def test_a_case_that_fails_is_named_and_the_others_are_done(tmp_path: Path) -> None:
    shutil.copy(SCAN, tmp_path / "good.nii.gz")
    (tmp_path / "broken.nii.gz").write_bytes(SCAN.read_bytes()[:3000])
    images = ("broken.nii.gz", "good.nii.gz", "absent.nii.gz")
    done = radiolucent("explain", *images, "--model", MODEL, "--out", "out", "--json", cwd=tmp_path)
    assert done.returncode == 3
    cases = {c["case"]: c for c in json.loads(done.stdout)["cases"]}
    assert {name: c["status"] for name, c in cases.items()} == {"broken": "failed", "good": "done", "absent": "failed"}
    assert "broken.nii.gz" in cases["broken"]["reason"]
    assert "nothing there" in cases["absent"]["reason"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["good"]


def test_a_method_that_fails_is_named_and_the_others_are_done(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(SPOT.replace(".relu()", ".clamp(min=0)"))
    np.save(tmp_path / "scan.npy", np.random.default_rng(0).random((8, 8, 8)))
    methods = ("--method", "guided-backprop", "--method", "gradient")
    done = radiolucent("explain", "scan.npy", "--model", "net:Spot", *methods, "--target", 1, "--out", "out", cwd=tmp_path)
    assert done.returncode == 3
    assert "guided-backprop failed" in done.stdout
    assert (tmp_path / "out" / "scan" / "gradient" / "target_0.nii.gz").exists()


def test_the_part_and_the_task_of_a_model_without_a_card(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(SPOT.replace("return torch.cat([-y, y], 1)", 'return {"volume": y[:, 0], "x": x}'))
    np.save(tmp_path / "scan.npy", np.random.default_rng(0).random((8, 8, 8)))
    arguments = ("explain", "scan.npy", "--model", "net:Spot", "--method", "gradient", "--out", "out", "--json")
    silent = radiolucent(*arguments, cwd=tmp_path)
    assert silent.returncode == 3
    assert "'volume', 'x'" in json.loads(silent.stdout)["cases"][0]["reason"]
    done = radiolucent(*arguments, "--part", "volume", "--task", "regression", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(json.loads(done.stdout)["cases"][0]["targets"]) == ["output 0"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "gradcam"], "grad-cam"),
        (["--set", "sample=3", "--method", "smooth-grad"], "a setting of smooth-grad"),
        (["--set", "smooth-grad.samples=many", "--method", "smooth-grad"], "samples of smooth-grad"),
        (["--target", "anterior"], "1 anterior hippocampus"),
        (["--reduce", "median"], "'sum', 'mean', 'probability'"),
        (["--frame", "first"], "--frame"),
        (["--out", "."], "an output folder apart from the scans"),
        (["--weights", "nowhere.safetensors"], "weights at nowhere.safetensors"),
    ],
    ids=lambda v: v[-1] if isinstance(v, list) else "",
)
def test_wrong_usage_is_refused_before_any_work(tmp_path: Path, arguments: list[str], message: str) -> None:
    shutil.copy(SCAN, tmp_path / "scan.nii.gz")
    before = sorted(p.name for p in tmp_path.iterdir())
    out = [] if "--out" in arguments else ["--out", "out"]
    done = radiolucent("explain", "scan.nii.gz", "--model", MODEL, *arguments, *out, cwd=tmp_path)
    assert done.returncode == 1
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "samples=0", "--method", "rise"], "samples as a whole number >= 1; got 0"),
        (["--set", "layer=nowhere"], "the name of a layer; got 'nowhere'"),
        (["--set", "of=times", "--method", "smooth-grad"], "all fields of times"),
        (["--set", "tokens=nowhere", "--method", "attention-rollout"], "the name of a layer; got 'nowhere'"),
        (["--parcellation", "nowhere.nii.gz"], "nowhere.nii.gz"),
        (["--parcellation", "scan.nii.gz", "--names", "scan.nii.gz"], "a table of names"),
    ],
    ids=lambda v: v[-1] if isinstance(v, list) else "",
)
def test_what_no_scan_can_mend_is_refused_before_the_first(
    tmp_path: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process: the exit code and words of `main`."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(SCAN, "scan.nii.gz")
    monkeypatch.setattr(sys, "argv", ["radiolucent", "explain", "scan.nii.gz", "--model", str(MODEL), "--out", "out", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    assert message in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["scan.nii.gz"]


def test_results_are_not_overwritten_unasked(tmp_path: Path) -> None:
    arguments = ("explain", SCAN, "--model", MODEL, "--target", 1, "--out", "out")
    assert radiolucent(*arguments, cwd=tmp_path).returncode == 0
    kept = tmp_path / "out" / "icbm152-hippocampus" / "mine.txt"
    kept.write_text("mine")
    refused = radiolucent(*arguments, cwd=tmp_path)
    assert refused.returncode == 1
    assert "--overwrite" in refused.stderr
    assert kept.exists()
    assert radiolucent(*arguments, "--overwrite", cwd=tmp_path).returncode == 0
    assert not kept.exists()


def test_nothing_but_earlier_results_is_ever_overwritten(tmp_path: Path) -> None:
    """Neither the scan itself, in a folder of its own name, nor a folder of somebody else's."""
    scan = tmp_path / "data" / "case1" / "case1.nii.gz"
    scan.parent.mkdir(parents=True)
    shutil.copy(SCAN, scan)
    refused = radiolucent("explain", scan, "--model", MODEL, "--out", "data", "--overwrite", cwd=tmp_path)
    assert refused.returncode == 1
    assert "holds an input" in refused.stderr
    assert scan.read_bytes() == SCAN.read_bytes()
    theirs = tmp_path / "out" / "case1" / "thesis.txt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("years of work")
    refused = radiolucent("explain", scan, "--model", MODEL, "--out", "out", "--overwrite", cwd=tmp_path)
    assert refused.returncode == 1
    assert "holds something else" in refused.stderr
    assert theirs.read_text() == "years of work"


def test_a_model_without_a_card_takes_several_channels(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(SPOT.replace("nn.Conv3d(1, 1, 1)", "nn.Conv3d(3, 1, 1)"))
    np.save(tmp_path / "scan.npy", np.random.default_rng(0).random((3, 8, 8, 8)))
    arguments = ("--model", "net:Spot", "--method", "gradient", "--target", 1, "--out", "out")
    done = radiolucent("explain", "scan.npy", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    saved = json.loads((tmp_path / "out" / "scan" / "gradient" / "explanation.json").read_text())
    assert saved["provenance"]["target"] == "Logits(1)"
    assert nib.load(tmp_path / "out" / "scan" / "gradient" / "target_0.nii.gz").shape == (8, 8, 8, 3)


def test_a_parcellation_cannot_lie_on_a_scan_without_a_world(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(SPOT)
    np.save(tmp_path / "scan.npy", np.random.default_rng(0).random((8, 8, 8)))
    arguments = ("--model", "net:Spot", "--method", "gradient", "--target", 1, "--parcellation", SCAN, "--out", "out")
    done = radiolucent("explain", "scan.npy", *arguments, cwd=tmp_path)
    assert done.returncode == 3
    assert "no world space" in done.stderr


def test_two_scans_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("a", "B"):
        (tmp_path / folder).mkdir()
        shutil.copy(SCAN, tmp_path / folder / "scan.nii.gz")
    done = radiolucent("explain", "a/scan.nii.gz", "B/scan.nii.gz", "--model", MODEL, "--out", "out", cwd=tmp_path)
    assert done.returncode == 1
    assert "names differ" in done.stderr


def test_the_map_overlays_a_psr_scan_voxel_for_voxel(tmp_path: Path, data_folder: Path) -> None:
    """A spot planted at a known voxel of a real P-S-R scan is found there, in the file's own voxels."""
    given = nib.load(next(iter(sorted((data_folder / "ixi" / "t1").glob("*.nii.gz")))))
    assert nib.aff2axcodes(given.affine) == ("P", "S", "R")
    data = np.asarray(given.get_fdata(), np.float32)
    spot = (70, 41, 52)
    data = np.clip(data / data.max() * 0.8, 0, 0.8)
    data[spot] = 2.0
    nib.save(nib.Nifti1Image(data, given.affine), tmp_path / "scan.nii.gz")
    (tmp_path / "net.py").write_text(SPOT)
    card = {
        "name": "spot", "task": "classification", "network": "net:Spot", "weights": "w.pt", "classes": ["no", "spot"],
        "preprocessing": {"orientation": "RAS", "spacing": [2, 2, 2], "size": [88, 104, 96]},
    }  # fmt: skip
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "card.json").write_text(json.dumps(card))
    make = "import sys, torch; sys.path.insert(0, '.'); import net; torch.save(net.Spot().state_dict(), 'model/w.pt')"
    subprocess.run([sys.executable, "-c", make], cwd=tmp_path, check=True)
    arguments = ("--method", "input-x-gradient", "--method", "hires-cam", "--target", "spot", "--out", "out")
    refused = radiolucent("explain", "scan.nii.gz", "--model", "model", *arguments, cwd=tmp_path)
    assert refused.returncode == 1
    assert "--trust-model" in refused.stderr
    done = radiolucent("explain", "scan.nii.gz", "--model", "model", "--trust-model", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    world = given.affine @ (*spot, 1)
    for method in ("input-x-gradient", "hires-cam"):
        saved = nib.load(tmp_path / "out" / "scan" / method / "target_0.nii.gz")
        relevance = saved.get_fdata()
        assert saved.shape == given.shape
        assert np.allclose(saved.affine, given.affine)
        peak = np.unravel_index(np.abs(relevance).argmax(), relevance.shape)
        assert tuple(int(i) for i in peak) == spot
        assert np.allclose(saved.affine @ (*peak, 1), world)
        assert np.count_nonzero(relevance) == 1


def test_layers_lists_what_runs(tmp_path: Path) -> None:
    done = radiolucent("layers", "--model", MODEL, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    shapes = {row["layer"]: row["shape"] for row in answer["layers"]}
    assert shapes["bottleneck"] == [64, 6, 8, 6]
    assert answer["auto"] == "skip_layers"  # gives on what upsamples.2 gave: the last before the output block
    assert shapes["skip_layers"] == shapes["upsamples.2"] == [8, 48, 64, 48]
    plain = radiolucent("layers", "--model", MODEL, cwd=tmp_path)
    rows = {line.split("\t")[0]: line.split("\t") for line in plain.stdout.splitlines()}
    assert rows["bottleneck"] == ["bottleneck", "UnetBasicBlock", "64 x 6 x 8 x 6", "6 x 8 x 6"]
    assert rows["skip_layers"][4] == "auto"


def test_layers_marks_the_card_s_own_and_shows_where_tokens_lie(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        " def __init__(self):\n"
        "  super().__init__()\n"
        "  self.patches, self.norm = torch.nn.Conv2d(1, 4, 4, 4), torch.nn.LayerNorm(4)\n"
        "  self.one, self.two = torch.nn.Conv2d(1, 2, 3), torch.nn.Conv2d(1, 2, 3)\n"
        " def forward(self, x):\n"
        "  h = self.norm(self.patches(x).flatten(2).transpose(1, 2))\n"
        "  return self.one(x).relu().mean((2, 3)), h.mean(1), self.two(x).relu().mean((2, 3))\n"
    )
    folder = tmp_path / "model"
    folder.mkdir()
    card = {"name": "n", "task": "classification", "network": "net:Net", "weights": "w.pt", "layer": "patches", "output": 0}
    (folder / "card.json").write_text(json.dumps(card | {"preprocessing": {"size": [16, 24]}}))
    make = "import sys, torch; sys.path.insert(0, '.'); import net; torch.save(net.Net().state_dict(), 'model/w.pt')"
    subprocess.run([sys.executable, "-c", make], cwd=tmp_path, check=True)
    arguments = ("layers", "--model", "model", "--trust-model")
    done = radiolucent(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {line.split("\t")[0]: line.split("\t")[2:] for line in done.stdout.splitlines()}
    assert rows["patches"] == ["4 x 4 x 6", "4 x 6", "the card's"]
    assert rows["norm"] == ["24 x 4", "4 x 6"]
    assert rows["one"][2:] == ["auto"]  # of the card's part, not "two" that runs last
    answer = json.loads(radiolucent(*arguments, "--part", "1", "--json", cwd=tmp_path).stdout)
    assert (answer["auto"], answer["card"]) == ("norm", "patches")
    assert answer["layers"][1]["cells"] == [4, 6]


def test_methods_lists_and_explains(tmp_path: Path) -> None:
    listed = json.loads(radiolucent("methods", "--json", cwd=tmp_path).stdout)
    assert {"grad-cam", "smooth-grad", "integrated-gradients"} <= {row["name"] for row in listed}
    assert all(row["summary"] and row["equation"] and row["meaning"] for row in listed)
    one = radiolucent("methods", "grad-cam", cwd=tmp_path)
    assert "a[c] = mean_p dS/dA[c, p]" in one.stdout
    wrong = radiolucent("methods", "gradcam", cwd=tmp_path)
    assert wrong.returncode == 1
    assert "Did you mean" in wrong.stderr


def test_help_and_version_need_no_torch(tmp_path: Path) -> None:
    code = "import sys; sys.argv[1:] = ['--help']\ntry:\n from radiolucent.cli import main; main()\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'monai', 'matplotlib', 'nibabel'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True).returncode == 0
    assert radiolucent("--version", cwd=tmp_path).stdout.strip().count(".") == 2


def test_a_long_method_shows_how_far_it_is_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    from radiolucent.cli.terminal import progress
    from radiolucent.scoring import tell

    monkeypatch.setattr(Console, "is_terminal", True)
    with progress(1, quiet=False) as (say, _):
        tell(0, 40)
        tell(30, 40)
        say("a line, with which the bars are drawn")
    tell(35, 40)
    said = capsys.readouterr()
    assert "30 of 40 copies scored" in said.err
    assert "35 of 40" not in said.err
    assert not said.out


def ran(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The exit code and all words of `main`, in this process."""
    monkeypatch.setattr(sys, "argv", ["radiolucent", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr()
    return int(end.value.code or 0), " ".join((said.out + said.err).replace("│", " ").split())


def test_words_for_a_first_time(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran(monkeypatch, capsys, "explain", "-h")[0] == 0
    code, said = ran(monkeypatch, capsys, "layers", "--model", str(MODEL), "--shape", "1,48")
    assert code == 1
    assert "--shape takes channels and a grid of 2 or 3 axes" in said
    assert "of=gradient, samples=25" in ran(monkeypatch, capsys, "methods", "smooth-grad")[1]
    assert "first=METHOD, second=METHOD" in ran(monkeypatch, capsys, "methods", "times")[1]


def test_ctrl_c_that_falls_into_a_del_is_not_lost(tmp_path: Path) -> None:
    code = """
import signal, time
from radiolucent import cli

class Late:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

@cli.app.command()
def work():
    Late()
    for _ in range(500):
        time.sleep(0.01)
    print("all of it done")

cli.main()
"""
    end = subprocess.run([sys.executable, "-c", code, "work"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (end.returncode, end.stdout) == (130, ""), end.stderr
    assert end.stderr.endswith("radiolucent: interrupted; what is done is kept\n")
    assert "Traceback" not in end.stderr
