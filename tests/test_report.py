"""The report, opened as a user opens it: from the disk, offline, in a real browser."""

import base64
import gzip
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import Page

from radiolucent import Explanation, Parcellation, Volume, write_report
from radiolucent.io.tables import Name
from radiolucent.methods import GradCAM, Gradient
from radiolucent.report import figures
from radiolucent.report.picture import background, picture

HOSTILE = '</script><script>document.title="owned"</script><img src=x onerror=alert(1)>'


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's folder, made by its command from another folder."""
    where = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-W", "ignore", "-c", "from radiolucent.cli import main; main()", "demo", "--json"]
    done = subprocess.run(command, cwd=where, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (case,) = json.loads(done.stdout)["cases"]
    return where / case["folder"]


def coloured(image: np.ndarray) -> int:
    """Pixels that are clearly not grey."""
    return int((np.ptp(image, axis=2) > 60).sum())


@pytest.mark.parametrize(("anchor", "engine", "selector"), [("", "niivue", "#stage"), ("#plain", "canvas", "#slices")])
def test_the_demo_s_report_draws_offline(demo: Path, browser: Any, anchor: str, engine: str, selector: str) -> None:
    page = Page(browser, demo / "report.html", anchor)
    if engine == "niivue" and not page.page.evaluate("!!document.createElement('canvas').getContext('webgl2')"):
        pytest.skip("this Chromium has no WebGL2, not even in software")
    assert page.page.evaluate("radiolucent.engine") == engine
    image = page.picture(selector)
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 200, "the viewer shows next to nothing"
    drawn = coloured(image)
    assert drawn > 2000, "no map over the scan"
    page.page.evaluate("const t = document.getElementById('threshold'); t.value = 95; t.dispatchEvent(new Event('input'))")
    assert coloured(page.picture(selector)) < 0.7 * drawn, "the threshold does nothing"
    page.page.evaluate("const t = document.getElementById('threshold'); t.value = 20; t.dispatchEvent(new Event('input'))")
    page.page.evaluate("const t = document.getElementById('opacity'); t.value = 0; t.dispatchEvent(new Event('input'))")
    assert coloured(page.picture(selector)) < 0.3 * drawn, "the opacity does nothing"
    page.page.select_option("#map", "3")
    assert page.page.evaluate("radiolucent.map") == 3
    outside = [r for r in page.requests if not r.startswith(("file:", "data:", "blob:"))]
    assert not outside
    assert not page.errors


def test_the_demo_s_folder_is_whole(demo: Path) -> None:
    text = (demo / "report.html").read_text("utf-8")
    assert 1 < len(text) / 2**20 < 8
    assert not re.findall(r"""(?:src|href)=["']?https?:""", text)
    summary = json.loads((demo / "summary.json").read_text())
    assert set(summary["targets"]) == {"anterior hippocampus", "posterior hippocampus"}
    assert set(summary["maps"]) == {"hires-cam", "integrated-gradients", "smooth-grad"}
    loaded = Explanation.load(demo / "smooth-grad")
    assert loaded.targets == ("anterior hippocampus", "posterior hippocampus")
    rows = (demo / "regions.csv").read_text().splitlines()
    assert len(rows) == 1 + 3 * 2 * 3


def test_the_demo_s_segmentation_is_anatomically_plausible(demo: Path) -> None:
    """Anterior before posterior, each in one piece, on the right side, of a size that hippocampi have."""
    from scipy.ndimage import label

    from radiolucent.io import read_labels

    labels = read_labels(demo / "segmentation.nii.gz")
    centres = {}
    for value in (1, 2):
        inside = labels.data[0] == value
        pieces = np.bincount(label(inside)[0].ravel())[1:]
        assert pieces.max() > 0.97 * pieces.sum()
        assert 1000 < inside.sum() < 3500, "mm3"
        centres[value] = (labels.affine @ np.array([*np.argwhere(inside).mean(0), 1]))[:3]
    assert centres[1][1] > centres[2][1] + 10
    assert 20 < centres[1][0] < 35
    assert -30 < centres[1][2] < centres[2][2] < 0


def planted(has_world: bool = True, axes: int = 3) -> tuple[Volume, Explanation]:
    """Relevance at the patient's right, front and top, against the target at the left."""
    shape = (20, 24, 16)[:axes]
    rng = np.random.default_rng(0)
    scan = Volume(rng.random((1, *shape), dtype=np.float32), np.diag([-2.0, 2, 2, 1]), has_world)  # axis 0 runs to the left
    relevance = np.zeros((1, *shape), np.float32)
    relevance[(0, *(slice(2, 6), slice(18, 22), slice(11, 14))[:axes])] = 3.0
    relevance[(0, *(slice(14, 17), slice(3, 6), slice(2, 4))[:axes])] = -1.5
    return scan, Explanation((scan.like(relevance),), ("lesion",), (1.25,), Gradient(), {"radiolucent": "test"})


def test_pictures_are_the_right_way_round() -> None:
    scan, explanation = planted()
    drawn = picture(explanation.relevance[0])
    figure = figures.slices(background(scan), drawn, "score")
    sagittal, coronal, axial = (a for a in figure.axes if a.images)
    for axis, upper in ((sagittal, "S"), (coronal, "S"), (axial, "A")):
        pixels = np.asarray(axis.images[0].get_array())
        row, column = np.argwhere(np.ptp(pixels, axis=2) > 0.2).mean(0)
        assert axis.images[0].origin == "lower"
        assert row > pixels.shape[0] / 2, f"{upper} is up"
        assert column > pixels.shape[1] / 2, "to the right or the front in the voxels"
        shown = {t.get_text(): t.get_position()[0] for t in axis.texts}
        assert axis.xaxis_inverted() == (axis is not sagittal), "the radiological convention"
        assert shown.get("R", 0) < 0.5 < shown.get("L", 1)
        assert shown.get("P", 0) <= 0.5 <= shown.get("A", 1)
        assert {t.get_text() for t in axis.texts} == {"L", "R", "P", "A", "I", "S"} - {"A": {"I", "S"}}.get(upper, set()) - (
            {"L", "R"} if axis is sagittal else {"P", "A"} if axis is coronal else set()
        )


def test_a_file_without_a_world_gets_no_orientation_marks() -> None:
    scan, explanation = planted(has_world=False)
    figure = figures.slices(background(scan), picture(explanation.relevance[0]), "score")
    assert not [t for axis in figure.axes for t in axis.texts]


def test_the_legend_tells_scale_and_sign() -> None:
    _, explanation = planted()
    drawn = picture(explanation.relevance[0])
    assert drawn.signed
    assert drawn.scale == pytest.approx(3.0)
    positive = picture(Volume(np.abs(explanation.relevance[0].data)))
    assert not positive.signed


def test_profiles_show_millimetres_of_the_world_on_an_oblique_grid() -> None:
    turn = np.deg2rad(20)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    affine[:3, 3] = -affine[:3, :3] @ [50, 50, 50]
    scan = Volume(np.ones((1, 101, 101, 101), np.float32), affine)
    figure = figures.profiles(scan, scan)
    for axis in figure.axes:
        low, high = axis.dataLim.x0, axis.dataLim.x1
        assert abs(low + high) < 1e-6, "the middle slice lies at 0 mm"


def test_labels_below_zero_keep_their_colours() -> None:
    from radiolucent.report.viewed import _labels

    data = np.array([-3, 0, 5, 5], np.int32).reshape(1, 2, 2, 1)
    volume = Volume(data)
    names = {-3: Name("below", colour="#010203"), 5: Name("above", colour="#040506")}
    made = _labels(Parcellation(volume, names), volume, data[0])
    assert made is not None
    raw = gzip.decompress(base64.b64decode(made["image"]))
    dense = np.frombuffer(raw[352:], np.uint8).reshape(2, 2, 1, order="F")
    table = made["table"]
    colours = {int(v): (table["R"][d], table["labels"][d]) for v, d in zip(data.ravel(), dense.ravel(), strict=True)}
    assert colours == {-3: (1, "below"), 0: (0, "background"), 5: (4, "above")}


def test_hostile_names_stay_text(tmp_path: Path, browser: Any) -> None:
    scan, explanation = planted()
    hostile = Explanation(explanation.relevance, (HOSTILE,), (1.0,), GradCAM(HOSTILE), {"model": HOSTILE})
    labels = Volume((explanation.relevance[0].data != 0).astype(np.int32), scan.affine)
    regions = Parcellation(labels, {1: Name(HOSTILE)})
    path = write_report(
        tmp_path / "report.html", scan, [hostile], title=HOSTILE, notes=[HOSTILE], parcellation=regions, parcellation_name=HOSTILE
    )
    page = Page(browser, path)
    assert not page.errors
    assert page.page.inner_text("h1") == HOSTILE
    assert "owned" not in page.page.title().replace(HOSTILE, "")
    assert page.page.locator("img[src=x]").count() == 0


def test_a_2d_report_draws(tmp_path: Path, browser: Any) -> None:
    scan, explanation = planted(has_world=False, axes=2)
    page = Page(browser, write_report(tmp_path / "report.html", scan, [explanation], title="radiograph"))
    assert page.page.evaluate("radiolucent.engine") == "canvas"
    assert coloured(page.picture("#slices canvas")) > 200
    assert not page.errors
