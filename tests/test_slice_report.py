"""A model that pools slices, from its card to the case's folder: table, picture, and words beside it."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_model

from radiolucent import Explanation, Volume, load, write
from radiolucent.case import explain_case
from radiolucent.cli import main
from radiolucent.methods import SliceAttention, SliceCAM
from radiolucent.models import SliceModel, VolumeModel
from radiolucent.plan import Plan
from radiolucent.report.picture import background
from radiolucent.report.slices import attention, weights_along, words

ARGUMENTS = {
    "encoder": "monai:ResNet",
    "encoder_arguments": {"block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": [4, 4, 8, 8]},
    "pooling_arguments": {"heads": 2},
    "size": [32, 32],
}
AFFINE = np.array([[0, 0, -2.0, 40], [-3.0, 0, 0, 50], [0, 1.5, 0, -60], [0, 0, 0, 1]])
"""i runs to the back, j upwards, k to the left."""


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    pytest.importorskip("monai")
    folder = tmp_path_factory.mktemp("sliced")
    torch.manual_seed(1)
    save_model(SliceModel(**ARGUMENTS), str(folder / "weights.safetensors"))
    card = {"name": "m", "task": "classification", "network": "radiolucent:SliceModel", "weights": "weights.safetensors"}
    card |= {"arguments": ARGUMENTS, "classes": ["none", "tumour"], "preprocessing": {"orientation": "RAS"}}
    (folder / "card.json").write_text(json.dumps(card))
    write(folder / "scan.nii.gz", Volume(np.random.default_rng(0).random((1, 12, 10, 14), np.float32), AFFINE))
    model, read = load(folder)
    plan = Plan((SliceAttention(), SliceCAM()), targets=("tumour",))
    return folder, explain_case(folder / "scan.nii.gz", folder / "out", model, read, plan)


def test_the_table_has_a_row_for_each_slice_with_its_place(case: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = case
    assert not summary["failed_methods"]
    with (folder / "out" / "slices.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * (12 + 10 + 14)
    weights = [r for r in rows if r["method"] == "slice-attention"]
    assert sum(float(r["weight"]) for r in weights) == pytest.approx(1, abs=1e-5)
    assert [float(r["head_0"]) + float(r["head_1"]) for r in weights] == pytest.approx([2 * float(r["weight"]) for r in weights])
    # In RAS the model's first axis runs to the right: the file's k backwards, in steps of 2 mm from 40 - 13 x 2.
    sagittal = [float(r["x_mm"]) for r in weights if r["axis"] == "i"]
    assert sagittal == pytest.approx([14 + 2 * n for n in range(14)])
    shares = [r for r in rows if r["method"] == "slice-cam"]
    relevance = Explanation.load(folder / "out" / "slice-cam").relevance[0].data
    assert sum(float(r["share"]) for r in shares) == pytest.approx(relevance.sum(), abs=1e-4 * float(np.abs(relevance).sum()))


def test_the_report_shows_the_weights_and_says_what_bears_them_out(case: tuple[Path, dict[str, Any]]) -> None:
    text = (case[0] / "out" / "report.html").read_text("utf-8")
    assert text.count("weights of the slices over the scan") == 1
    assert "The highest weight, " in text
    assert "Rank correlation of a slice&#39;s weight" in text
    assert Explanation.load(case[0] / "out" / "slice-attention").provenance["details"][0]["truth"]["empty_weight"] == 0


def test_weights_lie_where_their_slices_are_drawn() -> None:
    """The model's axes i, j, k run to the back, upwards and to the left; the picture's to the right, front and top."""
    scan = Volume(np.random.default_rng(0).random((1, 12, 10, 14), np.float32), AFFINE)
    shown = background(scan)
    assert shown.grid.shape == (14, 12, 10)
    slices = {}
    for place, (axis, n) in enumerate(zip("ijk", (12, 10, 14), strict=True)):
        index = np.tile([5.5, 4.5, 6.5], (n, 1))
        index[:, place] = np.arange(n)
        weight = np.zeros(n)
        weight[1] = 0.5 if axis == "i" else 0.25
        centres = index @ AFFINE[:3, :3].T + AFFINE[:3, 3]
        slices[axis] = {"weight": weight.tolist(), "heads": [weight.tolist()], "centre_mm": centres.tolist()}
    along = weights_along(shown, slices)
    assert {d: a.axis for d, a in along.items()} == {0: "k", 1: "i", 2: "j"}
    assert [int(along[d].on(n).argmax()) for d, n in enumerate((14, 12, 10))] == [12, 10, 1]
    assert along[1].on(12).sum() == 0.5
    figure = attention(shown, slices)
    titles = [axis.get_title() for axis in figure.subfigs[0].axes]
    # The highest weight is on i = 1, at 50 - 3 mm, a coronal slice.
    assert titles[2].startswith("coronal, y = 47.0 mm\nhighest weight: 0.5")
    overlaid = np.asarray(figure.subfigs[0].axes[0].images[0].get_array())  # the axial slice: (y, x, colour)
    coloured = np.ptp(overlaid, axis=2) > 1e-3
    assert coloured[10].all()
    assert coloured[:, 12].all()
    assert coloured.sum() == 14 + 12 - 1


@pytest.mark.parametrize("axes", [("k",), ("i", "j")])
def test_axes_that_the_model_does_not_cut_are_not_drawn(axes: tuple[str, ...]) -> None:
    scan = Volume(np.random.default_rng(0).random((1, 12, 10, 14), np.float32), np.eye(4), has_world=False)
    own = {
        a: {"weight": [0.1] * n, "heads": [], "centre_mm": np.eye(3)["ijk".index(a)] * np.arange(n)[:, None]}
        for a, n in zip("ijk", (12, 10, 14), strict=True)
    }
    figure = attention(background(scan), {axis: own[axis] for axis in axes})
    panels = [axis for axis in figure.subfigs[0].axes if axis.get_title()]
    assert len(panels) == 2
    profiles = figure.subfigs[1].axes
    assert len(profiles) == len(axes)
    assert {axis.get_ylim()[0] for axis in profiles} == {0}
    count = sum(len(own[axis]["weight"]) for axis in axes)
    (said,) = [text.get_text() for text in profiles[-1].get_legend().get_texts() if "/" in text.get_text()]
    assert said == f"all the same: 1/{count}"
    assert any(list(line.get_ydata()) == [1 / count] * 2 for line in profiles[0].lines)
    assert len(words({"slices": {axis: own[axis] for axis in axes}})) == 1


def model_folder(folder: Path, seed: int, name: str, network: str, arguments: dict[str, Any], classes: list[str]) -> Path:
    torch.manual_seed(seed)
    made = {"SliceModel": SliceModel, "VolumeModel": VolumeModel}[network](**arguments)
    folder.mkdir()
    save_model(made, str(folder / "weights.safetensors"))
    card = {"name": name, "task": "classification", "network": f"radiolucent:{network}", "weights": "weights.safetensors"}
    card |= {"arguments": arguments, "classes": classes, "preprocessing": {"orientation": "RAS"}}
    (folder / "card.json").write_text(json.dumps(card))
    return folder


def test_two_seeds_and_a_3d_model_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("monai")
    monkeypatch.chdir(tmp_path)
    write("scan.nii.gz", Volume(np.random.default_rng(0).random((1, 12, 10, 14), np.float32), AFFINE))
    classes = ["none", "tumour"]
    solid = {"encoder": ARGUMENTS["encoder"], "encoder_arguments": ARGUMENTS["encoder_arguments"], "kind": "3d"}
    for seed in (0, 1):
        model_folder(tmp_path / f"seed-{seed}", seed, "trained", "SliceModel", ARGUMENTS, classes)
    model_folder(tmp_path / "solid", 2, "solid", "VolumeModel", solid, classes[::-1])
    model_folder(tmp_path / "foreign", 2, "foreign", "VolumeModel", solid, ["cyst", "none"])

    def explain(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["radiolucent", "explain", "scan.nii.gz", "--model", "seed-0", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out if "--json" in arguments else said.err

    beside = ["--beside", "seed-1", "--beside", "solid", "--set", "cover=minimum", "--target", "1", "--out", "out", "--json"]
    code, said = explain(*beside)
    assert code == 0
    (done,) = json.loads(said)["cases"]
    assert list(done["beside"]) == ["trained (seed-1)", "solid"]
    assert [list(own["targets"]) for own in done["beside"].values()] == [["tumour"], ["tumour"]]
    assert done["beside"]["solid"]["maps"] == {"beside/2-solid/hires-cam": ["beside/2-solid/hires-cam/target_0.nii.gz"]}
    truth = Explanation.load(tmp_path / "out" / "scan" / "slice-attention").provenance["details"][0]["truth"]
    text = (tmp_path / "out" / "scan" / "report.html").read_text("utf-8")
    assert f"{truth['occlusion']:.2f} when it is covered in the image" in text
    assert "Weights of trained (seed-1): rank correlation " in text
    with (tmp_path / "out" / "scan" / "likeness.csv").open() as file:
        pairs = [(row["beside"], row["beside_method"].split()[0]) for row in csv.DictReader(file)]
    assert pairs == [
        ("trained (seed-1)", "slice-attention"),
        ("solid", "hires-cam"),
        ("solid", "hires-cam"),
    ]

    code, said = explain("--beside", "foreign", "--target", "tumour", "--out", "other")
    assert code == 1
    assert "foreign, which has no 'tumour'" in " ".join(said.split())
    assert not (tmp_path / "other").exists()
    code, said = explain("--beside", "solid", "--layer", "stack", "--method", "hires-cam", "--out", "other")
    assert code == 1
    assert "stack" in said
    assert not (tmp_path / "other").exists()
