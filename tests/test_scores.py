"""Scores of many maps: collecting, means, tables and plot; finding maps and masks on disk."""

import csv
import json
from pathlib import Path

import numpy as np
import openpyxl
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from worlds import ConvNet, Segmenter, image

from radiolucent import io
from radiolucent.errors import BadInput
from radiolucent.evaluation import Map, evaluate, find_maps, labels_of, pair, with_thresholds
from radiolucent.explanation import Explanation
from radiolucent.injection import inject
from radiolucent.methods import GradCAM, Gradient, SmoothGrad
from radiolucent.report.depth import by_depth
from radiolucent.report.figures import png
from radiolucent.scores import Scores, titles
from radiolucent.volume import Volume

AFFINE = np.diag([-1.0, 2, 3, 1])
MASK = np.zeros((1, 6, 5, 4), np.int32)
MASK[0, :2] = 1
MASK[0, 4:] = 2


def explanation(method: object, value: float, **provenance: object) -> Explanation:
    """Two targets: mass 1 in label 1 and `value` in label 2, and the other way round."""
    maps = []
    for inside in (1, 2):
        data = np.where(inside == MASK, 1, np.where(MASK == 0, 0, value))
        maps.append(Volume(data.astype(np.float32), AFFINE))
    return Explanation(tuple(maps), ("one", "two"), (0.5, 0.25), method, provenance)  # type: ignore[arg-type]


def filled() -> Scores:
    scores = Scores()
    for case, value in (("a", 0.5), ("b", 1.0)):
        for place, layer in ((7, "late"), (2, "early")):
            scores.measure(
                case, explanation(GradCAM(layer), value, depth=place), Volume(MASK, AFFINE), metrics=["energy-pointing-game"]
            )
    return scores


def test_rows_say_what_they_are_about() -> None:
    rows = filled().rows()
    assert len(rows) == 2 * 2 * 2 * 2  # cases, layers, targets, labels
    assert list(rows[0]) == [
        "case", "method", "settings", "layer", "target", "label", "region", "metric", "value", "threshold", "reason",
    ]  # fmt: skip
    first = rows[0]
    assert (first["case"], first["method"], first["layer"], first["target"], first["label"]) == ("a", "grad-cam", "late", "one", 1)
    assert first["value"] == pytest.approx(1 / 1.5)


def test_a_segmentation_s_target_is_measured_at_its_own_label_under_the_class_s_name() -> None:
    def found(**options: object) -> set[tuple[str, int, str]]:
        scores, about = Scores(), {"labels": [2, 1], "label_names": ["background", "head", "tail"]}
        scores.measure("a", explanation(GradCAM("late"), 0.5, **about), Volume(MASK, AFFINE), metrics=["iou"], **options)
        return {(row["target"], row["label"], row["region"]) for row in scores.rows()}

    assert found() == {("one", 2, "tail"), ("two", 1, "head")}
    everything = {("one", 1, "head"), ("one", 2, "tail"), ("two", 1, "head"), ("two", 2, "tail")}
    assert found(all_pairs=True) == everything
    assert found(labels=[1]) == {("one", 1, "head"), ("two", 1, "head")}
    assert found(names={1: "x", 2: "y"}) == {("one", 2, "y"), ("two", 1, "x")}


def test_an_own_label_that_the_mask_lacks_says_so() -> None:
    scores = Scores()
    scores.measure("a", explanation(GradCAM("late"), 0.5, labels=[5, 1]), Volume(MASK, AFFINE), metrics=["iou"])
    assert [row["reason"] for row in scores.rows()] == ["label 5 is not in the mask", ""]


def test_means_over_cases_in_the_order_of_the_layers() -> None:
    scores = filled()
    assert scores.layers == ["early", "late"]
    means = scores.means()
    assert [row["layer"] for row in means] == ["early"] * 4 + ["late"] * 4
    (one,) = [row for row in means if (row["layer"], row["target"], row["label"]) == ("late", "one", 1)]
    assert one["mean"] == pytest.approx((1 / 1.5 + 1 / 2) / 2)
    assert (one["low"], one["high"], one["n"], one["missing"]) == (pytest.approx(0.5), pytest.approx(1 / 1.5), 2, 0)
    scores.measure("a", explanation(Gradient(), 0.5), Volume(MASK, AFFINE), metrics=["iou"])
    assert scores.layers == ["", "early", "late"]  # the input comes first
    given = Scores(["", "late", "early"])
    given.take(scores)
    assert given.layers == ["", "late", "early"]
    assert given.rows() == scores.rows()


def test_save_writes_every_format_and_the_plot(tmp_path: Path) -> None:
    scores = filled()
    folder = scores.save(tmp_path / "new" / "scores")
    assert {p.name for p in folder.iterdir()} == {
        "scores.csv", "scores_means.csv", "scores.parquet", "scores_means.parquet", "scores.xlsx", "scores.png",
    }  # fmt: skip
    with (folder / "scores.csv").open(newline="") as file:
        assert [float(row["value"]) for row in csv.DictReader(file)] == [row["value"] for row in scores.rows()]
    assert parquet.read_table(folder / "scores_means.parquet")["mean"].to_pylist() == [row["mean"] for row in scores.means()]
    book = openpyxl.load_workbook(folder / "scores.xlsx")
    assert [book[name].max_row for name in ("scores", "means")] == [17, 9]
    with Image.open(folder / "scores.png") as image:
        assert image.width > 600


def test_no_plot_where_no_method_has_two_layers(tmp_path: Path) -> None:
    scores = Scores()
    for method in (Gradient(), GradCAM("late")):
        scores.measure("a", explanation(method, 0.5), Volume(MASK, AFFINE))
    assert [p.name for p in scores.write(tmp_path / "s.csv")] == ["s.csv"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.csv", "s_means.csv"]


def test_the_plot_shows_means_and_intervals_in_order() -> None:
    layers = [f"block.{i}" for i in range(120)]
    rows = [
        {
            "metric": metric,
            "layer": layer,
            "method": method,
            "target": "t",
            "mean": i / 120,
            "low": i / 120 - 0.1,
            "high": i / 120 + 0.1,
        }
        for metric in ("iou", "auroc")
        for method in ("x", "y")
        for i, layer in reversed(list(enumerate(layers)))
        if (method, i) != ("y", 60)
    ]
    figure = by_depth(rows, layers, ["method"], ["target"])
    assert [axis.get_ylabel() for axis in figure.axes] == ["iou", "auroc"]
    x, y = figure.axes[0].lines
    np.testing.assert_allclose(x.get_ydata(), np.arange(120) / 120)
    assert np.flatnonzero(np.isnan(np.asarray(y.get_ydata()))).tolist() == [60]
    assert [line.get_label() for line in figure.axes[0].lines] == ["x", "y"]  # the target is the same everywhere
    assert figure.legends[0].get_title().get_text() == "target t"
    band = figure.axes[1].collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (pytest.approx(-0.1), pytest.approx(119 / 120 + 0.1))
    names = [label.get_text() for label in figure.axes[-1].get_xticklabels()]
    assert names[:2] == ["block.0", "block.1"]
    many = by_depth(rows, layers, ["method"], ["metric"])  # two columns have less room
    names = [label.get_text() for label in many.axes[-1].get_xticklabels()]
    assert names[:2] == ["block.0", "block.2"]


def row(method: str, layer: str, target: str = "t", mean: float = 0.5) -> dict[str, object]:
    about = {"method": method, "settings": f"of {method}", "layer": layer, "target": target, "region": target}
    return {**about, "metric": "iou", "mean": mean, "low": mean - 0.1, "high": mean + 0.2}


def test_each_target_has_its_column_and_a_method_on_the_input_stands_beside_the_layers() -> None:
    rows = [row("cam", layer, t, 0.5) for layer in ("a", "b") for t in ("x", "y")]
    rows += [row("gradient", "", t, m) for t, m in (("x", 0.3), ("y", 0.7))]
    figure = by_depth(rows, ["", "a", "b"], ["method", "settings"], ["target", "region"])
    assert [axis.get_title() for axis in figure.axes] == ["x", "y"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["cam"]
    for axis, height in zip(figure.axes, (0.3, 0.7), strict=True):
        assert [label.get_text() for label in axis.get_xticklabels()] == ["gradient", "a", "b"]
        (bar,) = axis.patches
        assert (bar.get_x() + bar.get_width() / 2, bar.get_height()) == (pytest.approx(0), pytest.approx(height))
        (line,) = (line for line in axis.lines if line.get_label() == "cam")
        assert list(line.get_xdata()) == [1, 2]


def test_of_many_targets_and_methods_the_best_are_drawn_and_that_is_said() -> None:
    rows = [row(f"m{m}", layer, f"t{t}", t / 10 + m / 1000) for m in range(10) for t in range(7) for layer in "ab"]
    figure = by_depth(rows, ["a", "b"], ["method", "settings"], ["target", "region"])
    assert [axis.get_title() for axis in figure.axes] == ["t3", "t4", "t5", "t6"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [f"m{m}" for m in range(2, 10)]
    said = figure.legends[0].get_title().get_text()
    assert said.startswith("the 4 of 7 with the highest iou by target; all are in the table; the 8 of 10")


def test_any_text_can_stand_in_the_plot() -> None:
    rows = [
        {"metric": "$x^", "layer": layer, "target": target, "mean": 0.5, "low": float("nan"), "high": float("nan")}
        for layer in ("_a$b", "$\\frac{$")
        for target in ("_hidden $5 to $6", "<b>$")
    ]
    figure = by_depth(rows, ["_a$b", "$\\frac{$"], ["target"])
    assert png(figure)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [r" _hidden \$5 to \$6", r"<b>\$"]


def test_methods_in_columns() -> None:
    assert titles(GradCAM("layer4")) == ("grad-cam", "", "layer4")
    name, settings, layer = titles(SmoothGrad(GradCAM("layer4"), samples=5))
    assert (name, layer) == ("smooth-grad(grad-cam)", "layer4")
    assert "samples=5" in settings


# On disk.


def saved(folder: Path, value: float = 0.5, method: object = None) -> Path:
    return explanation(method or GradCAM("late"), value).save(folder)


def test_cases_of_maps(tmp_path: Path) -> None:
    saved(tmp_path / "out" / "a" / "grad-cam")
    saved(tmp_path / "out" / "a" / "grad-cam-10")
    saved(tmp_path / "out" / "a" / "grad-cam-2")
    (tmp_path / "out" / "a" / "summary.json").write_text(json.dumps({"case": "scan a"}))
    saved(tmp_path / "out" / "b")
    saved(tmp_path / "out" / ".hidden.tmp")
    assert [(m.case, m.path.name) for m in find_maps([tmp_path / "out"])] == [
        ("scan a", "grad-cam"), ("scan a", "grad-cam-2"), ("scan a", "grad-cam-10"), ("b", "b"),
    ]  # fmt: skip
    assert find_maps([tmp_path / "out" / "a" / "grad-cam"])[0].case == "scan a"
    assert find_maps([tmp_path / "out" / "b"])[0].case == "b"
    assert len(find_maps([tmp_path / "out", tmp_path / "out" / "b"])) == 4  # each map once


def test_maps_that_are_files(tmp_path: Path) -> None:
    data = Volume(np.ones((1, 3, 3, 3), np.float32))
    for folder in ("ig", "cam"):
        (tmp_path / folder).mkdir()
        for name in ("a.nii.gz", "b.nii"):
            io.write(tmp_path / folder / name, data)
    assert find_maps([tmp_path / "ig"]) == [Map("a", tmp_path / "ig" / "a.nii.gz"), Map("b", tmp_path / "ig" / "b.nii")]
    both = find_maps([tmp_path / "ig", tmp_path / "cam"])
    assert {(m.case, m.method) for m in both} == {("a", "ig"), ("a", "cam"), ("b", "ig"), ("b", "cam")}
    (tmp_path / "x" / "ig").mkdir(parents=True)
    io.write(tmp_path / "x" / "ig" / "a.nii.gz", data)
    with pytest.raises(BadInput, match="maps whose names or folders differ"):
        find_maps([tmp_path / "ig", tmp_path / "x" / "ig"])
    with pytest.raises(BadInput, match="nothing there"):
        find_maps([tmp_path / "none"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=r"neither explanation.json nor a NIfTI file"):
        find_maps([tmp_path / "empty"])


def test_an_injected_model_s_maps(tmp_path: Path) -> None:
    """Its table says what they are: two layers, two targets, a batch of two, on a grid without a world."""
    torch.manual_seed(0)
    injected = inject(ConvNet(3), "hires-cam", layer=["conv1", "conv2"], target=[0, 1], output_dir=tmp_path / "maps")
    x = image(3)
    injected(x)
    mask = np.zeros(x.shape[1:], np.int32)
    mask[:, :4, :4, :4] = 1
    np.save(tmp_path / "mask.npy", mask[0])
    maps = find_maps([tmp_path / "maps"])
    assert len(maps) == len(list((tmp_path / "maps").rglob("*.nii.gz"))) == 8
    scores, failed = evaluate(maps, pair([m.case for m in maps], [tmp_path / "mask.npy"]), metrics=["auroc"])
    assert not failed
    assert scores.layers == ["conv1", "conv2"]
    assert {row["method"] for row in scores.rows()} == {"hires-cam"}
    assert len({row["target"] for row in scores.rows()}) == len({row["case"] for row in scores.rows()}) == 2
    segmenter = inject(Segmenter(3), "hires-cam", layer="norm", target=[1, 2], output_dir=tmp_path / "seg")
    segmenter(x)
    maps = find_maps([tmp_path / "seg"])
    assert {(m.target, m.label) for m in maps} == {("label 1", 1), ("label 2", 2)}
    mask[:, 4:] = 2
    np.save(tmp_path / "mask.npy", mask[0])
    for all_pairs, pairs in (
        (False, {("label 1", 1), ("label 2", 2)}),
        (True, {(f"label {t}", l) for t in (1, 2) for l in (1, 2)}),
    ):
        masks = pair([m.case for m in maps], [tmp_path / "mask.npy"])
        scores, _ = evaluate(maps, masks, metrics=["auroc"], all_pairs=all_pairs)
        assert {(row["target"], row["label"]) for row in scores.rows()} == pairs
    (tmp_path / "maps" / "maps.csv").write_text("name,map\na,b\n")
    with pytest.raises(BadInput, match=r"a list of maps in .*maps.csv"):
        find_maps([tmp_path / "maps"])


def test_masks_are_paired_by_name_or_not_at_all(tmp_path: Path) -> None:
    for name in (
        "case_1.nii.gz",
        "case_1_old.nii.gz",
        "case_2_seg.nii.gz",
        "case_2_3.nii.gz",
        "patient-7.mgz",
        "notes.txt",
        ".case_9.nii.gz",
    ):
        (tmp_path / name).touch()
    found = pair(["case_1", "case_2", "case_2_3", "patient-7_0000"], [tmp_path])
    assert {case: path.name for case, path in found.items()} == {
        "case_1": "case_1.nii.gz",
        "case_2": "case_2_seg.nii.gz",
        "case_2_3": "case_2_3.nii.gz",
        "patient-7_0000": "patient-7.mgz",
    }
    with pytest.raises(BadInput, match=r"not for case_9 \(none\); case_2 \(several: case_2_3.nii.gz, case_2_seg.nii.gz\)"):
        pair(["case_9", "case_2"], [tmp_path])
    one = tmp_path / "case_1.nii.gz"
    assert pair(["x", "y"], [one]) == {"x": one, "y": one}
    with pytest.raises(BadInput, match="not for x"):
        pair(["x", "case_1"], [one, tmp_path / "patient-7.mgz"])
    with pytest.raises(BadInput, match=r"nothing at .*absent"):
        pair(["x"], [tmp_path / "absent.nii"])


def test_a_case_that_fails_leaves_nothing_and_the_others_go_on(tmp_path: Path) -> None:
    good, bad = saved(tmp_path / "good" / "cam"), saved(tmp_path / "bad" / "cam")
    saved(tmp_path / "bad" / "zam", method=Gradient())
    (tmp_path / "bad" / "zam" / "target_1.nii.gz").write_bytes(b"")
    mask = io.write(tmp_path / "mask.nii.gz", Volume(MASK, AFFINE))
    scores, failed = evaluate(find_maps([tmp_path]), {"good": mask, "bad": mask}, metrics=["iou"])
    assert {row["case"] for row in scores.rows()} == {"good"}
    assert list(failed) == ["bad"]
    assert "target_1.nii.gz" in str(failed["bad"])
    assert good.exists()
    assert bad.exists()


def test_a_2d_image_s_map_and_its_mask_as_png(tmp_path: Path) -> None:
    pixels = np.zeros((8, 6), np.uint8)
    pixels[2:4, 1:5] = 255
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    scan = io.read(tmp_path / "mask.png")
    maps = (scan.like((pixels[None] / 255).astype(np.float32)),)
    folder = Explanation(maps, ("class 1",), (1.0,), Gradient(), {}).save(tmp_path / "maps" / "xray")
    for found in (Map("xray", folder), Map("xray", folder / "target_0.tiff")):
        scores, failed = evaluate([found], {"xray": tmp_path / "mask.png"}, metrics=["iou"])
        assert not failed
        assert [(row["label"], row["value"]) for row in scores.rows()] == [(255, 1)]


def test_thresholds_and_labels_from_the_command_line() -> None:
    assert with_thresholds(["iou", "auroc", "ioa@p90"], ["otsu", "0.5"]) == ["iou@otsu", "iou@0.5", "auroc", "ioa@p90"]
    assert with_thresholds([], ["0.5"])[:2] == ["ioa@0.5", "wioa@0.5"]
    names = {1: "left, inner", 2: "right"}
    assert labels_of(["1,2"], None) == [1, 2]
    assert labels_of(["left, inner", "right,7"], names) == [1, 2, 7]
    assert labels_of([], names) is None
    with pytest.raises(BadInput, match="labels among left, inner, right; got 'middle'"):
        labels_of(["middle"], names)
    with pytest.raises(BadInput, match="--names"):
        labels_of(["right"], None)
