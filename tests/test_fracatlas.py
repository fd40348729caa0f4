"""The example on radiographs: who is kept together, where polygons lie, which images get a letter, what is compared."""

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import wilcoxon

from radiolucent.geometry import Grid
from radiolucent.models import AnatomyNet
from radiolucent.models.anatomy import DEEPER, SHALLOW
from radiolucent.training import read_recipe

PLACES = Path(__file__).parents[1] / "examples" / "anatomy"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(PLACES))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


def test_neighbours_with_a_region_in_common_and_like_pictures_stay_together(example: Any) -> None:
    numbers = np.array([1, 2, 3, 4, 6, 9])
    hand, leg = [True, False], [False, True]
    regions = np.array([hand, [True, True], leg, hand, hand, leg])
    small = np.eye(6)
    found = example("fracatlas").together(numbers, regions, small)
    assert found[0] == found[1] == found[2], "2 shows both"
    assert len(set(found[2:])) == 4, "3 and 4 have nothing in common, 4 and 6 are no neighbours"
    small[5] = 0.99 * small[0] + np.sqrt(1 - 0.99**2) * small[5]
    found = example("fracatlas").together(numbers, regions, small)
    assert found[5] == found[0], "nearly the same picture under another number"


def write_data(folder: Path) -> Path:
    """Nine pictures: 0 to 5 of two regions, 6 the same as 0, 7 the same as 1 but called fractured, 8 of two regions."""
    rng, rows = np.random.default_rng(0), []
    (folder / "images").mkdir(parents=True)
    pictures = [rng.integers(0, 255, (40, 32), np.uint8) for _ in range(7)]
    for n, picture in enumerate([*pictures[:6], pictures[0], pictures[1], pictures[6]]):
        name = f"IMG{2 * n:07d}.jpg"
        Image.fromarray(picture).save(folder / "images" / name, quality=95)
        regions = {"hand": int(n % 2 == 0 or n == 8), "leg": int(n % 2 == 1 or n == 8), "hip": 0, "shoulder": 0}
        others = {"mixed": 0, "hardware": 0, "multiscan": 0, "fractured": int(n == 7), "frontal": 1, "lateral": 0, "oblique": 0}
        rows.append({"image_id": name, **regions, **others})
    pd.DataFrame(rows).to_csv(folder / "dataset.csv", index=False)
    return folder


def test_each_picture_is_in_the_table_once_and_contradictions_are_not(example: Any, tmp_path: Path) -> None:
    module = example("fracatlas")
    table = module.read_table(write_data(tmp_path / "data"))
    assert table["label"].tolist() == ["hand", "leg"] * 4 + [""]
    assert table["patient"][0] == table["patient"][6]
    assert table["patient"][1] == table["patient"][7]
    assert table["patient"].nunique() == 7
    kept = module.each_once(table)
    assert kept["case"].tolist() == [f"IMG{2 * n:07d}" for n in (0, 2, 3, 4, 5, 8)]


def test_polygons_are_scaled_and_turned_to_rows_and_columns(example: Any, tmp_path: Path) -> None:
    images = [
        {"id": 4, "file_name": "IMG1.jpg", "width": 800, "height": 1000},
        {"id": 9, "file_name": "IMG2.jpg", "width": 1000, "height": 800},
    ]
    ring = [80, 300, 240, 300, 240, 500, 80, 500]  # x from 80 to 240, y from 300 to 500
    told = {"images": images, "annotations": [{"image_id": i, "segmentation": [ring]} for i in (4, 9)]}
    (tmp_path / "COCO_fracture_masks.json").write_text(json.dumps(told))
    fractures = example("fracatlas").Fractures(tmp_path)
    grid = Grid((100, 80), np.eye(4))
    expected = np.zeros((100, 80), bool)
    expected[30:50, 8:24] = True
    assert (fractures.mask("IMG1", grid) == expected).all()
    assert "IMG1" in fractures
    assert not fractures.mask("IMG3", grid).any()
    lying = np.zeros((80, 100), bool)  # as it was annotated: 1000 wide, 800 high
    lying[30:50, 8:24] = True
    assert (fractures.mask("IMG2", grid) == np.rot90(lying, -1)).all(), "the file stands a quarter turn clockwise of it"


def test_polygons_lie_on_real_fractures(example: Any, data_folder: Path) -> None:
    """Bone breaks: in twenty images nearly all of the polygons is in the body, and more of it than of the body is bone."""
    import radiolucent as rl
    from radiolucent.landmarks import radiograph_parts

    folder = data_folder / "fracatlas"
    if not folder.is_dir():
        pytest.skip("FracAtlas is not there")
    fractures = example("fracatlas").Fractures(folder)
    shares = []
    for case in sorted(fractures._rings)[::36]:
        scan = rl.read(folder / "images" / f"{case}.jpg")
        mask, parts = fractures.mask(case, scan.grid), radiograph_parts(scan)
        body = parts["bone"] | parts["soft tissue"]
        shares.append([body[mask].mean(), parts["bone"][mask].mean(), parts["bone"].sum() / body.sum()])
    body, bone, chance = np.mean(shares, 0)
    assert body > 0.95
    assert bone > chance + 0.2


@pytest.mark.parametrize("name", ["shallow", "deeper", "augmented", "fracture"])
def test_the_recipes_are_read_and_their_networks_made(name: str) -> None:
    recipe = read_recipe(PLACES / f"{name}.toml")
    sizes = dict(SHALLOW if name == "shallow" else DEEPER)
    arguments = dict(recipe.model.arguments)
    assert recipe.model.network == "radiolucent:AnatomyNet"
    assert {k: tuple(arguments[k]) if k == "channels" else arguments[k] for k in sizes} == sizes
    assert arguments["outputs"] == len(recipe.data.classes)
    assert bool(recipe.augmentation) == (name in ("augmented", "fracture"))
    assert recipe.optimiser.weighted
    AnatomyNet(**arguments)


def test_the_letter_says_the_class_in_training_and_nothing_in_the_test(example: Any) -> None:
    n = 4000
    label = np.array(["hand", "leg"])[np.arange(n) % 2]
    split = np.where(np.arange(n) < n // 2, "train", "test")
    cases = pd.DataFrame({"label": label, "split": split, "patient": [f"p{i // 4}-{i % 2}" for i in range(n)]})
    cases["letter"] = example("planted").with_letter(cases, "hand", 0.9, 0.1, 0)
    rates = cases.groupby(["split", "label"])["letter"].mean()
    assert rates["train"].to_dict() == pytest.approx({"hand": 0.9, "leg": 0.1}, abs=0.05)
    assert rates["test"].to_dict() == pytest.approx({"hand": 0.5, "leg": 0.5}, abs=0.07)
    assert cases.groupby("patient")["letter"].nunique().max() == 1


def test_the_letter_is_burnt_into_a_free_corner(example: Any) -> None:
    module = example("planted")
    pixels = np.full((256, 200), 20, np.uint8)
    taken = np.ones((256, 200), bool)
    taken[200:, 140:] = False
    found = module.burnt(pixels, taken)
    changed = np.argwhere(found != pixels)
    assert len(changed) > 100
    assert (changed >= [200, 140]).all()
    assert found.max() == 255


def test_differences_are_paired_and_of_patients(example: Any) -> None:
    rng, rows = np.random.default_rng(0), []
    for case in range(20):
        level = rng.random()
        for model, more in (("a", 0.0), ("b", 0.1), ("c", 0.1)):
            value = level + more + 0.01 * rng.random()
            measures = dict.fromkeys(("share", "enrichment", "hit", "overlap", "rank_correlation"), value)
            rows.append({"case": f"c{case}", "ranking": "sum", "model": model, "landmark": "bone", **measures})
    owner = {f"c{case}": f"p{case // 2}" for case in range(20)}
    found = example("landmarks").differences(pd.DataFrame(rows), owner, ["a", "b", "c"]).query("measure == 'share'")
    assert found["difference"].tolist() == ["b - a", "c - b"]
    first, second = found.to_dict("records")
    wide = pd.DataFrame(rows).pivot(index="case", columns="model", values="share")
    each = (wide["b"] - wide["a"]).groupby(wide.index.map(owner)).mean()
    assert first["mean"] == pytest.approx(each.mean())
    assert first["patients"] == 10
    assert first["p"] == pytest.approx(wilcoxon(each).pvalue)
    assert 0.09 < first["low"] < first["mean"] < first["high"] < 0.11
    assert second["low"] < 0.01


def test_burning_writes_images_a_table_and_a_recipe_that_trains(example: Any, tmp_path: Path) -> None:
    limb = np.full((256, 200), 5, np.uint8)
    limb[:, 70:130], limb[20:240, 85:95], limb[20:240, 105:115] = 80, 160, 160
    rows = []
    for n in range(4):
        Image.fromarray(limb).save(tmp_path / f"{n}.png")
        label, split = ("hand", "leg")[n % 2], ("train", "test")[n // 2]
        rows.append({"case": f"c{n}", "image": f"{n}.png", "label": label, "split": split, "patient": f"p{n}"})
    pd.DataFrame(rows).to_csv(tmp_path / "cases.csv", index=False)
    out = tmp_path / "out"
    cases = example("planted").burn(tmp_path / "cases.csv", out, "hand", 1.0, 0.0)
    assert cases["letter"][:2].tolist() == [True, False]
    for case in pd.read_csv(out / "cases.csv").to_dict("records"):
        found = np.asarray(Image.open(out / case["image"]))
        assert (found != limb).any() == case["letter"]
        assert (found[:, 70:130] == limb[:, 70:130]).all(), "the limb is as it was"
    recipe = read_recipe(out / "planted.toml")
    assert recipe.data.table == out / "cases.csv"
    assert recipe.training.name == "anatomy-planted"


def test_the_paper_s_sizes_are_those_of_the_preset() -> None:
    recipe = read_recipe(PLACES / "augmented.toml")
    assert recipe.preprocessing.size == (128, 128)
    assert recipe.preprocessing.fit == "stretch"
    assert recipe.watch == "balanced_accuracy"
    named = {name for name in ("flip", "rotation", "translation", "shear", "scale", "crop") if getattr(recipe.augmentation, name)}
    assert len(named) == 6, "cropping, rotation, translation, shearing, stretching and flipping"
