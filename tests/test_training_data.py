"""What is trained on: recipes, tables, folders, MedMNIST, splits, labels, augmentation; and words for what is wrong."""

import hashlib
import re
import runpy
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from scipy.ndimage import affine_transform
from trainings import SIZE, images, recipe, world

from radiolucent import Preprocessing, Volume, io
from radiolucent.errors import BadInput, InputWarning
from radiolucent.training import medmnist, read_recipe, splits
from radiolucent.training.augmentation import Augmentation, warp
from radiolucent.training.cases import read_cases
from radiolucent.training.drawing import balancing, batches, order, share, variant, views
from radiolucent.training.images import prepare
from radiolucent.training.recipe import from_tables

LEAST: dict[str, Any] = {"data": {"table": "cases.csv"}, "model": {"network": "monai:resnet10"}}


def changed(**tables: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **LEAST,
        **{name: {**LEAST.get(name, {}), **table} if isinstance(table, dict) else table for name, table in tables.items()},
    }


def test_a_whole_recipe_survives_toml(tmp_path: Path) -> None:
    (tmp_path / "first.pt").touch()
    (tmp_path / "recipe.toml").write_text("""
preset = "paper"
[training]
name = "all"
task = "multi-label"
seeds = [3, 4]
[data]
table = "cases.csv"
label = ["a", "b"]
image = "t1"
[preprocessing]
preset = "abdomen-ct"
orientation = "LPS"
[augmentation]
flip = [0]
rotation = 10
[model]
network = "radiolucent:Some"
arguments = { encoder = { name = "monai:resnet10" }, file = "first.pt", widths = [1, 2] }
[optimiser]
epochs = 20
[machine]
precision = "bf16"
""")
    read = read_recipe(tmp_path / "recipe.toml")
    assert read.data.table == tmp_path / "cases.csv"
    assert read.data.image == ("t1",)
    assert (read.optimiser.kind, read.optimiser.rate, read.optimiser.frozen_epochs, read.optimiser.epochs) == ("nadam", 2e-4, 2, 20)
    assert read.preprocessing.size == (224, 224, 128)
    assert read.preprocessing.orientation == "LPS"
    assert read.model.arguments["file"] == str(tmp_path / "first.pt")
    again = from_tables(tomllib.loads(read.to_toml()), Path("/elsewhere"))
    assert again == read
    assert repr(again.optimiser) == repr(read.optimiser)  # types too: 2 is not 2.0
    assert read_recipe(tmp_path / "recipe.toml", "fast").optimiser.kind == "adamw"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preset": "papers"}, "presets among: paper, fast, anatomy; got 'papers'. Did you mean paper"),
        ({"optimizer": {}}, "tables of a recipe among: .*Did you mean optimiser"),
        ({"optimiser": {"epoch": 3}}, r"keys of \[optimiser\].*Did you mean epochs"),
        ({"optimiser": {"rate": "fast"}}, "float for optimiser.rate; got 'fast'"),
        ({"optimiser": {"rate": 0.0}}, "rates above 0"),
        ({"optimiser": {"frozen_epochs": -2}}, "frozen_epochs from 0 or -1"),
        ({"optimiser": {"kind": "rmsprop"}}, "kind nadam, adam, adamw or sgd"),
        ({"optimiser": {"accumulate": 65}}, "accumulate from 1 to batch"),
        ({"data": {"folder": "f"}}, r"exactly one of medmnist, folder and table in \[data\]; got folder, table"),
        ({"data": {"validation": 0.5, "test": 0.5}}, "together below 1"),
        ({"data": {"table": ""}}, "a path for data.table"),
        ({"training": {"task": "segmentation"}}, "a task among classification, multi-label, regression"),
        ({"training": {"seeds": [1, 1]}}, "each once"),
        ({"training": {"seeds": [-1]}}, "seeds from 0"),
        ({"augmentation": {"flip": [3]}}, "flips of axes 0 to 2"),
        ({"preprocessing": {"preset": "ct"}}, "abdomen-ct"),
        ({"preprocessing": {"around": "mask"}}, 'a size with fit "centre"'),
        ({"stopping": {"keep": "all"}}, "keep last or best"),
        ({"machine": {"precision": "fp8"}}, "precision no, fp16 or bf16"),
        ({"machine": []}, r"a table \[machine\]"),
    ],
)
def test_words_for_what_is_wrong_with_a_recipe(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        from_tables(changed(**change), Path("/"))


def test_the_example_in_the_documentation_is_a_recipe(tmp_path: Path) -> None:
    (text,) = re.findall(r"^```toml\n(.*?)^```", (REPOSITORY / "docs" / "training.md").read_text("utf-8"), re.M | re.S)
    read = from_tables(tomllib.loads(text), tmp_path)
    assert (read.optimiser.kind, read.optimiser.frozen_epochs, read.augmentation.views) == ("adamw", 0, 4)


def test_the_benchmark_keeps_the_presets_frozen_epochs() -> None:
    found = runpy.run_path(str(REPOSITORY / "benchmarks" / "medmnist3d.py"))
    for given, wanted in ((["--epochs", "10"], (10, -1)), (["--frozen", "3"], (20, 3))):
        o = found["options"](["--out", "x", "--preset", "fast", *given])
        asked = found["recipe"]("mean", "adrenal", o).optimiser
        assert (asked.epochs, asked.frozen_epochs) == wanted


def test_a_recipe_needs_a_network() -> None:
    with pytest.raises(BadInput, match=r"the key network in \[model\]"):
        from_tables({"data": {"table": "a.csv"}}, Path("/"))


# Cases


def test_a_table_gives_cases_classes_and_splits_by_patient(tmp_path: Path) -> None:
    patients = [f"p{n // 3}" for n in range(60)]
    table = world(tmp_path, 60, patient=patients)
    cases = read_cases(recipe(table))
    again = read_cases(recipe(table))
    assert (cases.classes, cases.splits) == (("bare", "cube"), again.splits)
    assert cases.splits != read_cases(recipe(table, data={"split_seed": 1})).splits
    by_patient = {p: {s for q, s in zip(cases.patients, cases.splits, strict=True) if q == p} for p in patients}
    assert all(len(found) == 1 for found in by_patient.values())
    assert [len(cases.part(s)) for s in ("train", "val", "test")] == pytest.approx([39, 9, 12], abs=4)
    shares = [cases.labels[cases.part(s)].mean() for s in ("train", "val", "test")]
    assert max(shares) - min(shares) < 0.25
    assert cases.notes == ()


def test_given_splits_are_taken_by_their_usual_names(tmp_path: Path) -> None:
    names = ["training", "train", "Validation", "val", "test", "testing"] * 5
    cases = read_cases(recipe(world(tmp_path, 30, split=names)))
    assert set(cases.splits) == {"train", "val", "test"}
    assert len(cases.part("val")) == 10


def test_a_folder_per_class_with_and_without_splits(tmp_path: Path) -> None:
    data, labels = images(30)
    for n, (image, label) in enumerate(zip(data, labels, strict=True)):
        for top in (tmp_path / "plain", tmp_path / "split" / ("train", "val", "test")[n // 10]):
            folder = top / ("bare", "cube")[label]
            folder.mkdir(parents=True, exist_ok=True)
            io.write(folder / f"{n}.nii.gz", Volume(image[None]))
    (tmp_path / "plain" / "bare" / "notes.txt").touch()
    for was, now in (("train", "Training"), ("val", "dev"), ("test", "ts")):
        (tmp_path / "split" / was).rename(tmp_path / "split" / now)
    plain = read_cases(recipe(tmp_path / "x", data={"table": None, "folder": str(tmp_path / "plain")}))
    assert plain.classes == ("bare", "cube")
    assert len(plain.ids) == 30
    split = read_cases(recipe(tmp_path / "x", data={"table": None, "folder": str(tmp_path / "split")}))
    assert [len(split.part(s)) for s in ("train", "val", "test")] == [10, 10, 10]
    assert np.array_equal(split.read(0).data, io.read(tmp_path / "split" / split.ids[0]).data)


def test_several_columns_of_images_become_channels_and_a_mask_crops(tmp_path: Path) -> None:
    table = world(tmp_path, 24, t2=[f"{(n + 2) % 24:03d}.npy" for n in range(24)], mask=["mask.npy"] * 24)
    mask = np.zeros(SIZE, np.uint8)
    mask[3:5, 1:3, 0:2] = 1
    np.save(tmp_path / "mask.npy", mask)
    asked = recipe(table, data={"image": ["image", "t2"]}, preprocessing={"size": [2, 2, 2], "around": "mask"})
    cases = read_cases(asked)
    data, _ = images(24)
    assert np.array_equal(cases.read(5).data, np.stack([data[5], data[7]])[:, 3:5, 1:3, 0:2])


@pytest.mark.parametrize(
    ("columns", "change", "message"),
    [
        ({"label": ["a"] * 23 + ["b"]}, {}, "at least 2 cases in train.*b: "),
        ({"label": ["a"] * 24}, {}, "two or more classes"),
        ({"label": [None, *["a", "b"] * 11, "a"]}, {}, "a label for each case; got none for 000.npy"),
        ({}, {"data": {"classes": ["bare"]}}, "labels among the classes bare; got cube"),
        ({}, {"data": {"label": "diagnosis"}}, "the columns diagnosis in cases.csv; got image, label"),
        ({}, {"training": {"task": "regression"}}, "a number in label of 000.npy; got 'bare'"),
        ({"label": [1.0] * 24}, {"training": {"task": "regression"}}, "outputs that vary in train; got label"),
        ({"label": [0, 2] * 12}, {"training": {"task": "multi-label"}}, "0 or 1 in each column of labels; got 2 in label"),
        ({"label": [0] * 24}, {"training": {"task": "multi-label"}}, "present in some cases of train"),
        ({"patient": ["p"] * 24, "split": ["train", "train", "val", "test"] * 6}, {}, r"each patient in one split only; got p \("),
        ({"split": ["train"] * 24}, {}, "cases for train, val and test; got none for val, test"),
        ({"split": ["train"] * 23 + ["holdout"]}, {}, "splits among train, .*got 'holdout'"),
        ({"split": ["train"] * 23 + [None]}, {}, "a split for each case, or for none"),
        ({"image": ["000.npy"] * 24}, {}, "cases, each once; got twice: 000.npy"),
        ({"patient": ["p", "q"] * 12}, {}, "enough patients for training, validation and test"),
        ({}, {"data": {"table": "none.csv"}}, "a table .CSV, TSV or Parquet"),
        ({}, {"preprocessing": {"size": [2, 2, 2], "around": "mask"}}, "a mask of 000.npy to crop around; got none"),
    ],
)
def test_words_for_what_is_wrong_with_cases(columns: dict[str, Any], change: dict[str, Any], message: str, tmp_path: Path) -> None:
    table = world(tmp_path, 24, **columns)
    with pytest.raises(BadInput, match=message):
        read_cases(recipe(table, **change)).read(0)


def test_broken_files_are_named_before_anything_is_trained_or_left_out(tmp_path: Path) -> None:
    table = world(tmp_path, 24)
    data, _ = images(24)
    data[3, 0, 0, 0] = np.nan
    np.save(tmp_path / "003.npy", data[3])
    np.save(tmp_path / "004.npy", data[4][:5])
    (tmp_path / "005.npy").unlink()
    asked = recipe(table)
    cases, said = read_cases(asked), []
    with pytest.raises(
        BadInput, match=r"003.npy: expected finite voxels.*004.npy: expected images of one shape.*005.npy.*leave_out"
    ):
        prepare(cases, asked.augmentation, "memory", tmp_path / "p", False, said.append)
    left = prepare(cases, asked.augmentation, "memory", tmp_path / "p", True, said.append)
    assert len(said) == 3
    assert len(left) == 21
    number = left.cases.ids.index("006.npy")
    assert torch.equal(left[(number, -1)][0][0], torch.from_numpy(data[6]))
    assert left.cases.labels[number] == cases.labels[6]
    with pytest.raises(BadInput, match=r"003.npy.*004.npy.*005.npy"):
        prepare(cases, asked.augmentation, "nothing", tmp_path / "p", False, said.append)
    assert len(prepare(cases, asked.augmentation, "nothing", tmp_path / "p", True, said.append)) == 21
    on_disk = prepare(cases, asked.augmentation, "disk", tmp_path / "p", True, said.append)
    assert torch.equal(on_disk[(number, -1)][0], left[(number, -1)][0])


@pytest.mark.parametrize("changes", ["000.npy", "mask.npy", "column"])
def test_a_scan_or_a_mask_that_changes_is_another_case(changes: str, tmp_path: Path) -> None:
    masks = ["mask.npy"] * 24
    table, mask = world(tmp_path, 24, mask=masks), np.ones(SIZE, np.uint8)
    for name in ("mask.npy", "other.npy"):
        np.save(tmp_path / name, mask)
    before = read_cases(recipe(table)).origin
    assert read_cases(recipe(table)).origin == before
    if changes == "column":
        world(tmp_path, 24, mask=["other.npy", *masks[1:]])
    else:
        content = (tmp_path / changes).read_bytes()
        (tmp_path / changes).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # of the same size
    after = read_cases(recipe(table)).origin
    assert after["000.npy"] != before["000.npy"]
    assert (after["001.npy"] != before["001.npy"]) == (changes == "mask.npy")


def test_images_that_were_read_otherwise_are_not_taken_from_the_disk(tmp_path: Path) -> None:
    table = world(tmp_path, 24)
    data, _ = images(24)
    data[3, 0, 0, 0] = np.nan
    np.save(tmp_path / "003.npy", data[3])
    zero = recipe(table, data={"nonfinite": "zero"})
    with pytest.warns(InputWarning, match="replaced by 0"):
        prepare(read_cases(zero), zero.augmentation, "disk", tmp_path / "p", False, print)
    refuse = recipe(table)
    with pytest.raises(BadInput, match=r"003.npy: expected finite voxels"):
        prepare(read_cases(refuse), refuse.augmentation, "disk", tmp_path / "p", False, print)


# MedMNIST


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with MedMNIST's arrays, known by its MD5."""
    draw, path = np.random.default_rng(0), tmp_path / "web" / "vesselmnist3d.npz"
    path.parent.mkdir()
    counts = {"train": 12, "val": 4, "test": 4}
    arrays = {f"{s}_images": draw.integers(0, 255, (n, *SIZE), np.uint8) for s, n in counts.items()}
    np.savez(path, **arrays, **{f"{s}_labels": (np.arange(n) % 2)[:, None].astype(np.uint8) for s, n in counts.items()})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("RADIOLUCENT_DATA", raising=False)
    monkeypatch.setattr(medmnist, "_URL", f"file://{path.parent}/{{}}")
    known = medmnist.Known(("vessel", "aneurysm"), {28: hashlib.md5(path.read_bytes()).hexdigest()})
    monkeypatch.setitem(medmnist.KNOWN, "vesselmnist3d", known)
    return path


def test_medmnist_is_downloaded_once_and_found_from_then_on(tiny: Path, tmp_path: Path) -> None:
    said: list[str] = []
    found = medmnist.read_medmnist("vesselmnist3d", say=said.append)
    assert (len(found.images), found.splits.count("train"), found.classes) == (20, 12, ("vessel", "aneurysm"))
    tiny.unlink()
    assert np.array_equal(medmnist.read_medmnist("vesselmnist3d", say=said.append).images, found.images)
    assert len(said) == 1
    tables = {"data": {"medmnist": "vesselmnist3d"}, "preprocessing": {"preset": "eight-bit"}, "model": {"network": "x:y"}}
    cases = read_cases(from_tables(tables, tmp_path))
    assert cases.ids[12] == "val-0000"
    assert np.allclose(cases.read(3).data[0], found.images[3] / 255)
    assert [len(cases.part(s)) for s in ("train", "val", "test")] == [12, 4, 4]


def test_a_wrong_checksum_is_refused_and_nothing_kept(tiny: Path, tmp_path: Path) -> None:
    tiny.write_bytes(tiny.read_bytes() + b"?")
    with pytest.raises(BadInput, match=r"with the MD5 .* Nothing was kept"):
        medmnist.find("vesselmnist3d", 28)
    assert not list((tmp_path / "cache").rglob("*.npz"))
    medmnist.cache().mkdir(parents=True)
    (medmnist.cache() / tiny.name).write_bytes(b"half a file")
    with pytest.raises(BadInput, match="damaged or another version"):
        medmnist.find("vesselmnist3d", 28)
    tiny.unlink()
    (medmnist.cache() / tiny.name).unlink()
    with pytest.raises(BadInput, match=r"no answer\. Fetch it by hand"):
        medmnist.find("vesselmnist3d", 28)
    with pytest.raises(BadInput, match="a data set among organmnist3d"):
        medmnist.find("lungmnist3d", 28)


@pytest.mark.parametrize("name", ["adrenalmnist3d", "vesselmnist3d"])
def test_the_real_files(name: str, data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (data_folder / "medmnist3d" / f"{name}.npz").exists():
        pytest.skip(f"no MedMNIST3D in {data_folder}")
    monkeypatch.setenv("RADIOLUCENT_DATA", str(data_folder))
    found = medmnist.read_medmnist(name)
    wanted = {"adrenalmnist3d": (1188, 98, 298), "vesselmnist3d": (1335, 191, 382)}[name]
    assert tuple(found.splits.count(s) for s in ("train", "val", "test")) == wanted
    assert found.images.shape[1:] == (28, 28, 28)


# Splits and drawing


def test_made_splits_keep_patients_together_and_classes_in_proportion() -> None:
    draw = np.random.default_rng(0)
    patients = [f"p{n}" for n in draw.integers(0, 200, 600)]
    labels = draw.integers(0, 3, 600)
    found = splits.make(labels, patients, 0.15, 0.2, 0)
    splits.check(found, patients, patients)
    parts = {s: labels[np.asarray(found) == s] for s in splits.SPLITS}
    assert len(parts["test"]) == pytest.approx(120, rel=0.1)
    assert len(parts["val"]) == pytest.approx(90, rel=0.2)
    for part in parts.values():
        assert np.bincount(part, minlength=3) / len(part) == pytest.approx(np.bincount(labels) / 600, abs=0.06)


@pytest.mark.parametrize(("validation", "test"), [(0.15, 0.2), (0.1, 0.3), (0.15, 0.4), (0.15, 0.45), (0.1, 0.7), (0.1, 0.03)])
def test_made_splits_have_the_shares_that_were_asked_for(validation: float, test: float) -> None:
    found = splits.make(np.arange(3000) % 3, [str(n) for n in range(3000)], validation, test, 0)
    assert found.count("test") / 3000 == pytest.approx(test, rel=0.101)
    assert found.count("val") / 3000 == pytest.approx(validation, rel=0.17)  # a tenth of it, and what the test takes less or more


def test_an_epoch_is_a_function_of_seed_and_epoch() -> None:
    numbers = np.arange(10, 30)
    assert sorted(order(numbers, None, 0, 0)) == list(numbers)
    assert order(numbers, None, 0, 0) == order(numbers, None, 0, 0) != order(numbers, None, 0, 1)
    assert order(numbers, None, 0, 0) != order(numbers, None, 1, 0)


def test_weighted_sampling_draws_classes_equally_often() -> None:
    labels = np.array([0] * 90 + [1] * 9 + [2])
    weights = balancing(labels, "classification")
    drawn = np.concatenate([labels[order(np.arange(100), weights, 0, epoch)] for epoch in range(60)])
    assert np.bincount(drawn) / len(drawn) == pytest.approx([1 / 3] * 3, abs=0.02)
    both = np.stack([np.arange(100) < 10, np.arange(100) < 90], 1).astype(float)
    weights = balancing(both, "multi-label")
    assert weights is not None
    assert 0.25 < float(weights @ both[:, 0]) < 0.5  # drawn more often than its 10 %
    assert balancing(both, "regression") is None


def test_batches_and_shares() -> None:
    draws = [(n, -1) for n in range(9)]
    assert [len(b) for b in batches(draws, 4, 2)] == [4, 5]
    assert [len(b) for b in batches(draws, 4, 1)] == [4, 4, 1]
    parts = [share(draws[:7], rank, 2, 2) for rank in (0, 1)]
    assert [[(len(piece), counting) for piece, counting in mine] for mine in parts] == [[(2, 2), (2, 2)], [(2, 2), (2, 1)]]
    assert [len(piece) for piece, _ in share([(n, -1) for n in range(10)], 0, 1, 4)] == [2, 3, 2, 3]
    assert len(share(draws[:2], 0, 1, 4)) == 2
    counted = [draw for mine in parts for piece, counting in mine for draw in piece[:counting]]
    assert sorted(counted) == draws[:7]


def test_fixed_views_come_again_and_endless_ones_do_not() -> None:
    some = Augmentation(flip=(0,), views=3)
    found = views(some, np.arange(4))
    assert found is not None
    assert len(set(found)) == 12
    assert {variant(some, 2, seed, epoch) for seed in (0, 1) for epoch in range(6)} == {d for d in found if d[0] == 2}
    endless = Augmentation(flip=(0,))
    assert views(endless, np.arange(4)) is None
    assert len({variant(endless, 2, seed, epoch) for seed in (0, 1) for epoch in range(6)}) == 12
    assert variant(Augmentation(), 2, 0, 0) == (2, -1)


# Augmentation


@pytest.mark.parametrize("shape", [(7, 9), (5, 8, 6)])
def test_warp_is_scipys_affine_transform(shape: tuple[int, ...]) -> None:
    draw = np.random.default_rng(0)
    image = draw.normal(size=shape).astype(np.float32)
    image = np.pad(image, 3)  # so that what lies outside is 0 in both
    matrix = np.eye(len(shape)) + draw.normal(0, 0.15, (len(shape), len(shape)))
    shift = draw.normal(0, 0.7, len(shape))
    centre = (np.array(image.shape) - 1) / 2
    wanted = affine_transform(image, matrix, centre + shift - matrix @ centre, order=1, mode="grid-constant")
    got = warp(torch.from_numpy(image)[None], torch.from_numpy(matrix), torch.from_numpy(shift))[0]
    np.testing.assert_allclose(got.numpy(), wanted, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 8, 10), (2, 6, 8, 10)])
def test_an_augmentation_repeats_itself_and_moves_no_more_than_asked(shape: tuple[int, ...]) -> None:
    image = torch.from_numpy(np.random.default_rng(0).normal(size=shape).astype(np.float32))
    every = Augmentation((0, 1), rotation=15, translation=0.1, shear=0.1, scale=0.2, crop=0.2)
    assert torch.equal(every(image, 3), every(image, 3))
    assert not torch.equal(every(image, 3), every(image, 4))
    assert every(image, 3).shape == image.shape
    flips = Augmentation(flip=(0,))
    seen = {bool(torch.equal(flips(image, seed), image)) for seed in range(20)}
    assert seen == {True, False}
    assert all(torch.equal(flips(image, s), image) or torch.equal(flips(image, s), image.flip(1)) for s in range(20))
    # A bright voxel in the middle stays within the largest shift.
    point = torch.zeros(1, 21, 21)
    point[0, 10, 10] = 1
    for seed in range(10):
        moved = Augmentation(translation=0.1)(point, seed)[0]
        centre = np.array([float((moved.sum(1 - a) * torch.arange(21)).sum() / moved.sum()) for a in (0, 1)])
        assert np.abs(centre - 10).max() <= 2.1 + 1e-4
    square = torch.ones(1, 16, 16)
    cropped = [Augmentation(crop=0.5)(square, seed) for seed in range(10)]
    assert all(c.min() > 0.99 for c in cropped)  # a crop never leaves the image
    with pytest.raises(BadInput, match="flips of axes 0 to 1"):
        Augmentation(flip=(2,))(square, 0)
    assert not Augmentation()
    assert every


def test_rotation_keeps_lengths_on_grids_whose_axes_differ() -> None:
    """A disc stays one."""
    i, j = np.mgrid[:40, :20]
    disc = torch.from_numpy(((i - 19.5) ** 2 + (j - 9.5) ** 2 < 49).astype(np.float32))[None]
    for seed in range(5):
        turned = Augmentation(rotation=90)(disc, seed)
        assert float((turned - disc).abs().mean()) < 0.03


# Crops around a mask


def test_a_crop_is_centred_on_the_mask_and_prepared_as_in_training() -> None:
    draw = np.random.default_rng(0)
    affine = np.diag([-1.0, 1, 2, 1])  # left, anterior, superior; slices of 2 mm
    scan = Volume(draw.normal(size=(1, 20, 18, 12)).astype(np.float32), affine)
    mask = Volume(np.zeros((1, 20, 18, 12), np.int32), affine)
    mask.data[0, 12:15, 4:7, 7:10] = 1
    asked = Preprocessing("RAS", (1.0, 1.0, 2.0), (3, 3, 3), around="mask")
    crop = asked.crop(scan, mask)
    assert np.array_equal(crop.data[0], scan.data[0, 12:15, 4:7, 7:10][::-1])
    assert asked(crop) == crop
    with pytest.raises(BadInput, match=r"a crop of \(3, 3, 3\) voxels.*crop\(scan, mask\)"):
        asked(scan)
    with pytest.raises(BadInput, match="a mask with voxels above 0"):
        asked.crop(scan, Volume(np.zeros_like(mask.data), affine))
    assert Preprocessing.from_dict(asked.as_dict()) == asked
    assert "around" not in Preprocessing().as_dict()
