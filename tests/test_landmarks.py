"""Landmarks: small worlds in which every share, rank and p-value can be counted by hand."""

from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pandas import DataFrame
from scipy.stats import spearmanr, wilcoxon
from torch import nn
from torch.nn.functional import interpolate

from radiolucent import BadInput, Volume
from radiolucent.landmarks import (
    activations,
    border,
    correspondence,
    dissect,
    from_box,
    from_points,
    from_polygons,
    from_volume,
    hunt,
    landmark_table,
    radiograph_parts,
)

GRIDS = [(7, 9), (5, 6, 4)]


def relevance(shape: tuple[int, ...], seed: int = 0) -> Volume:
    return Volume(np.random.default_rng(seed).normal(size=(1, *shape)))


def box(shape: tuple[int, ...], start: int = 1, size: int = 3) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(start, start + size) for _ in shape)] = True
    return mask


@pytest.mark.parametrize("shape", GRIDS)
@pytest.mark.parametrize("part", ["positive", "absolute"])
def test_every_number_counted_by_hand(shape: tuple[int, ...], part: Any) -> None:
    volume, mask = relevance(shape), box(shape)
    a = np.maximum(volume.data[0], 0) if part == "positive" else np.abs(volume.data[0])
    rows = correspondence(volume, {"bone": mask}, annotations={"letter": box(shape, 0, 1)}, part=part)
    assert [(row["landmark"], row["kind"]) for row in rows] == [
        ("bone", "landmark"),
        ("letter", "annotation"),
        ("background", "background"),
        ("border", "border"),
    ]
    row = rows[0]
    assert row["share"] == pytest.approx(a[mask].sum() / a.sum())
    assert row["area"] == mask.mean()
    assert row["enrichment"] == pytest.approx(row["share"] / mask.mean())
    assert row["hit"] == mask.reshape(-1)[a.argmax()]
    largest = np.zeros(a.size, bool)
    largest[np.argsort(-a, axis=None)[: mask.sum()]] = True
    assert row["overlap"] == pytest.approx((largest & mask.reshape(-1)).sum() / mask.sum())
    assert row["rank_correlation"] == pytest.approx(spearmanr(a.reshape(-1), mask.reshape(-1)).statistic)
    shifts = [np.roll(a, s, tuple(range(a.ndim)))[mask].sum() for s in product(*map(range, shape))]
    assert row["p"] == pytest.approx(np.mean([s >= a[mask].sum() - 1e-9 for s in shifts]))
    assert np.mean(shifts) / a.sum() == pytest.approx(row["area"]), "chance is the area"
    assert sum(r["share"] for r in rows[:3]) == pytest.approx(1)
    assert rows[2]["voxels"] == a.size - mask.sum() - 1
    assert rows[3]["voxels"] == a.size - np.prod([n - 2 for n in shape])


def test_a_map_on_its_landmark_is_significant_and_a_flat_one_is_not() -> None:
    mask = box((20, 20), 5, 4)
    on, flat = Volume(mask[None].astype(float)), Volume(np.ones((1, 20, 20)))
    row = correspondence(on, {"m": mask})[0]
    assert (row["share"], row["hit"], row["overlap"], row["rank_correlation"]) == pytest.approx((1, 1, 1, 1))
    assert row["p"] == 1 / 400
    row = correspondence(flat, {"m": mask})[0]
    assert (row["share"], row["overlap"], row["enrichment"]) == pytest.approx((0.04, 0.04, 1))
    assert row["p"] == 1
    assert row["reason"] == "the map is the same everywhere"


def test_what_has_no_value_has_a_reason() -> None:
    volume = relevance((6, 6))
    rows = correspondence(volume, {"empty": np.zeros((6, 6), bool), "all": np.ones((6, 6), bool)})
    assert rows[0]["reason"] == "the mask is empty"
    assert all(np.isnan(rows[0][name]) for name in ("share", "hit", "overlap", "p"))
    assert rows[1]["reason"] == "the mask covers the whole image"
    assert rows[1]["share"] == pytest.approx(1)
    assert rows[2]["reason"] == "the mask is empty", "no background is left"
    against = correspondence(Volume(-np.ones((1, 6, 6))), {"m": box((6, 6))})
    assert against[0]["reason"] == "the map has no positive relevance"


@pytest.mark.parametrize(
    ("landmarks", "annotations", "said"),
    [
        ({}, {}, "landmarks with names of their own, at least one; got none"),
        ({"a": box((6, 6))}, {"a": box((6, 6))}, r"names of their own, at least one; got \['a'\]"),
        ({"border": box((6, 6))}, {}, r"got \['border'\]"),
        ({"a": box((6, 5))}, {}, r"boolean masks of shape \(6, 6\); got bool \(6, 5\) for 'a'"),
        ({"a": box((6, 6)).astype(int)}, {}, "boolean masks"),
    ],
)
def test_landmarks_that_do_not_fit(landmarks: Any, annotations: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        correspondence(relevance((6, 6)), landmarks, annotations=annotations)


def test_points_boxes_and_polygons_by_hand() -> None:
    grid = Volume(np.zeros((1, 5, 6)), np.diag([2.0, 1, 1, 1])).grid  # rows of 2 mm, columns of 1 mm
    found = from_points([(2, 3)], grid, radius_mm=2)
    assert {tuple(p) for p in np.argwhere(found)} == {(2, 1), (2, 2), (2, 3), (2, 4), (2, 5), (1, 3), (3, 3)}
    assert np.argwhere(from_box((1, 2), (2, 3.5), grid)).tolist() == [[1, 2], [1, 3], [2, 2], [2, 3]]
    triangle = from_polygons([[(-0.5, -0.5), (3.3, -0.5), (-0.5, 3.3)]], grid)
    assert triangle.sum() == 6
    assert triangle[0].tolist() == [True, True, True, False, False, False]
    mask = Volume(np.eye(5, 6)[None], grid.affine)
    assert from_volume(mask, grid).sum() == 5
    with pytest.raises(BadInput, match="a mask of one channel on"):
        from_volume(Volume(np.eye(5)[None]), grid)
    with pytest.raises(BadInput, match="points with 2 finite numbers each"):
        from_points([(1, 2, 3)], grid, 1)
    with pytest.raises(BadInput, match="a radius above 0 mm"):
        from_points([(1, 2)], grid, 0)
    with pytest.raises(BadInput, match="from its low corner"):
        from_box((3, 3), (1, 4), grid)
    assert border((10, 20), 0.2).sum() == 200 - 6 * 16
    with pytest.raises(BadInput, match="a border of more than 0"):
        border((10, 10), 0.5)


def test_the_table_is_the_means_and_the_test_of_its_rows() -> None:
    rows: list[dict[str, Any]] = []
    for case in range(12):
        for model in ("a", "b"):
            volume = relevance((8, 8), seed=case)
            if model == "a":
                volume = Volume(np.abs(volume.data) * (1 + 3 * box((8, 8))))
            about = {"case": f"c{case}", "model": model, "class": "hand"}
            rows += [about | row for row in correspondence(volume, {"bone": box((8, 8))})]
    table = landmark_table(rows)
    assert len(table) == 2 * 3
    row = table[(table["model"] == "a") & (table["landmark"] == "bone")].iloc[0]
    mine = DataFrame(rows).query("model == 'a' and landmark == 'bone'")
    assert row["n"] == 12
    for name in ("share", "hit", "overlap", "rank_correlation", "enrichment"):
        assert row[name] == pytest.approx(mine[name].mean())
    assert row["low"] < row["share"] < row["high"]
    assert row["p"] == pytest.approx(wilcoxon(mine["share"] - mine["area"]).pvalue)
    other = DataFrame(rows).query("model == 'b' and landmark == 'bone'")
    assert table.query("model == 'b' and landmark == 'bone'")["p"].item() == pytest.approx(
        wilcoxon(other["share"] - other["area"]).pvalue
    )
    assert row["significant"] == (mine["p"] < 0.05).mean()
    assert row["effect"] == 1
    assert (table["q"] >= table["p"]).all()
    with pytest.raises(BadInput, match="a case and model, class; got no column class"):
        landmark_table(DataFrame(rows).drop(columns="class"))
    with pytest.raises(BadInput, match="one row per case, model and landmark"):
        landmark_table(rows + rows, by=["model"])


def test_several_images_of_a_patient_are_one_in_the_table() -> None:
    rows: list[dict[str, Any]] = []
    owner = {}
    for patient, image in product(range(8), range(3)):
        case = f"c{patient}-{image}"
        if image <= patient % 3:  # 1, 2 or 3 images
            owner[case] = f"p{patient}"
            found = correspondence(Volume(np.abs(relevance((8, 8), seed=patient).data) + image), {"bone": box((8, 8))})
            rows += [{"case": case, "model": "a", "class": "hand"} | row for row in found]
    rows[0] |= dict.fromkeys(("share", "p"), float("nan"))  # of p0's only image
    bone = DataFrame(rows).query("landmark == 'bone'")
    bone = bone.assign(unit=bone["case"].map(owner), above=bone["share"] - bone["area"], less=(bone["p"] < 0.05) * 1.0)
    each = bone.groupby("unit")[["share", "above", "hit", "less"]].mean()
    row = landmark_table(rows, patients=owner).query("landmark == 'bone'").iloc[0]
    assert (row["n"], row["missing"]) == (7, 1)
    assert row["share"] == pytest.approx(each["share"].mean())
    assert row["hit"] == pytest.approx(each["hit"].mean())
    assert row["significant"] == pytest.approx(each["less"][1:].mean())
    assert row["p"] == pytest.approx(wilcoxon(each["above"].dropna()).pvalue)
    apart = landmark_table(rows).query("landmark == 'bone'").iloc[0]
    assert (apart["n"], apart["missing"]) == (len(owner) - 1, 1)
    assert apart["p"] < row["p"], "images that say the same thing again are no new evidence"


class Detectors(nn.Module):
    """Unit 0 is the image itself, unit 1 its negative, unit 2 always 0."""

    def __init__(self, axes: int) -> None:
        super().__init__()
        self.units = {2: nn.Conv2d, 3: nn.Conv3d}[axes](1, 3, 1, bias=False)
        self.units.weight.data[:, 0] = torch.tensor([1.0, -1.0, 0.0]).reshape(3, *[1] * axes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.units(x).flatten(2).mean(2)


@pytest.mark.parametrize("axes", [2, 3])
def test_a_unit_that_is_its_landmark_has_an_overlap_of_one(axes: int) -> None:
    cases = []
    for start in (0, 2, 4):
        mask = box((10, 8, 9)[:axes], start, 3)
        x = torch.from_numpy(mask + 0.1 * np.random.default_rng(start).random(mask.shape)).float()[None, None]
        cases.append((x, {"lesion": mask, "corner": box(mask.shape, 0, 2)} if start else {"lesion": mask}))
    share = float(np.mean([masks["lesion"].mean() for _, masks in cases]))
    table = dissect(Detectors(axes), "units", cases, quantile=share)
    row = table[(table["unit"] == 0) & (table["landmark"] == "lesion")].iloc[0]
    assert row["iou"] > 0.95
    assert row["best"]
    assert row["detector"]
    assert np.isfinite(table["iou"][:4]).all()
    assert not table[table["unit"] == 2]["detector"].any()


def test_dissection_is_its_equation_over_a_coarse_layer() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    rng = np.random.default_rng(0)
    cases = [(torch.rand(1, 1, 12, 10), {"a": rng.random((12, 10)) > 0.7, "b": rng.random((12, 10)) > 0.4}) for _ in range(3)]
    table = dissect(net, "1", cases, quantile=0.1)
    A = [net[:2](x).detach() for x, _ in cases]
    assert torch.equal(activations(net, "1", cases[0][0]), A[0])
    for k in range(4):
        T = np.quantile(np.concatenate([a[0, k].numpy().reshape(-1) for a in A]), 0.9)
        on = [interpolate(a, size=(12, 10), mode="bilinear")[0, k].numpy() > T for a in A]
        for name in ("a", "b"):
            both = sum((m & masks[name]).sum() for m, (_, masks) in zip(on, cases, strict=True))
            either = sum((m | masks[name]).sum() for m, (_, masks) in zip(on, cases, strict=True))
            row = table[(table["unit"] == k) & (table["landmark"] == name)].iloc[0]
            assert row["iou"] == pytest.approx(both / either)
            assert row["threshold"] == pytest.approx(T)
    assert table.groupby("unit")["best"].sum().tolist() == [1] * 4
    with pytest.raises(BadInput, match=r"boolean masks of shape \(12, 10\); got bool \(3, 3\) for 'a'"):
        dissect(net, "1", [(cases[0][0], {"a": np.ones((3, 3), bool)})])
    with pytest.raises(BadInput, match=r"boolean masks of shape \(12, 10\); got uint8 \(12, 10\) for 'a'"):
        dissect(net, "1", [(cases[0][0], {"a": np.full((12, 10), 255, np.uint8)})])  # counted as 255 voxels each otherwise
    with pytest.raises(BadInput, match="landmarks; got none in 2 cases"):
        dissect(net, "1", [(x, {}) for x, _ in cases[:2]])
    with pytest.raises(BadInput, match="a quantile between 0 and 1"):
        dissect(net, "1", cases, quantile=0)


def drawn(bits: int = 8) -> np.ndarray:
    """A limb that gets thicker downwards with two bones in it, and a letter beside it, white as the film."""
    image = np.full((96, 80), 0.02)
    thickness = np.linspace(0.25, 0.6, 96)[:, None]
    image[:, 25:55] = thickness
    image[5:90, 32:37] = thickness[5:90] + 0.2
    image[5:90, 44:48] = thickness[5:90] + 0.2
    image[6:18, 63:73] = 1
    image -= 0.01 * np.random.default_rng(0).random(image.shape)
    return np.round(image * (2**bits - 1))[None]


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("inverted", [False, True])
def test_the_parts_of_a_drawn_radiograph(bits: int, inverted: bool) -> None:
    image = drawn(bits)
    image = 2**bits - 1 - image if inverted else image
    parts = radiograph_parts(Volume(image), inverted=inverted)
    assert list(parts) == ["bone", "soft tissue", "marks", "background"]
    assert (sum(mask.astype(int) for mask in parts.values()) == 1).all(), "each pixel is in one part"
    assert parts["bone"][10:85, 33:36].mean() > 0.95
    assert parts["bone"][10:85, 45:47].mean() > 0.95
    assert not parts["bone"][:, 38:43].any()
    assert parts["soft tissue"][10:85, 39:42].mean() > 0.95
    assert parts["marks"][9:13, 67:69].all()
    assert parts["background"][:, :20].all()
    assert parts["background"][30:, 60:].all()


def test_a_white_edge_of_the_film_is_a_mark_and_no_bone() -> None:
    image = drawn()
    image[:, 90:] = 240  # joined to the limb and to its bones
    parts = radiograph_parts(Volume(image))
    assert parts["marks"][90:].mean() > 0.95
    assert not parts["bone"][90:].any()
    assert parts["bone"][10:80, 33:36].mean() > 0.95


def test_pictures_that_are_no_radiographs_are_refused() -> None:
    with pytest.raises(BadInput, match="a grey image"):
        radiograph_parts(Volume(np.zeros((3, 20, 20))))
    with pytest.raises(BadInput, match="a grey image"):
        radiograph_parts(Volume(np.zeros((1, 20, 20, 20))))
    with pytest.raises(BadInput, match="an image with contrast; got 7 nearly everywhere"):
        radiograph_parts(Volume(np.full((1, 20, 20), 7.0)))
    with pytest.raises(BadInput, match="finite grey values"):
        radiograph_parts(Volume(np.full((1, 20, 20), np.nan)))


def cohort(biased: bool, n: int = 60) -> tuple[list[dict[str, Any]], DataFrame]:
    """Maps of images half of which bear a letter; a biased network's lie on the letter, where there is one."""
    rng, rows, cases = np.random.default_rng(1), [], []
    bone, letter = box((16, 16), 5, 6), box((16, 16), 1, 2)
    for i in range(n):
        marked, wrong = bool(i % 2), i % 5 == 0
        values = rng.random((16, 16)) * 0.2 + bone * (1 + rng.random())
        values = values + 40 * letter * (1 + rng.random()) if biased and marked and not wrong else values
        found = correspondence(Volume(values[None]), {"bone": bone}, annotations={"letter": letter})
        rows += [{"case": f"c{i:02}"} | row for row in found]
        truth = "hand" if rng.random() < 0.5 else "leg"
        predicted = truth if not wrong else {"hand": "leg", "leg": "hand"}[truth]
        cases.append({"case": f"c{i:02}", "truth": truth, "predicted": predicted, "marked": marked, "view": rng.choice(["x", "y"])})
    return rows, DataFrame(cases)


def test_a_planted_bias_is_found_and_no_other() -> None:
    rows, cases = cohort(biased=True)
    found = hunt(rows, cases)
    outside = found.ranking["outside"].to_numpy()
    assert (np.diff(outside) <= 0).all()
    first = found.ranking.iloc[0]
    mine = {row["landmark"]: row["share"] for row in rows if row["case"] == first["case"]}
    assert first["outside"] == pytest.approx(1 - mine["bone"])
    assert first["letter"] == pytest.approx(mine["letter"])
    top = cases.set_index("case").loc[found.ranking["case"][:10]]
    assert top["marked"].all(), "the images with the letter come first"
    tests = found.found()
    assert set(tests["covariate"]) == {"marked"}
    assert {"all", "correct"} <= set(tests["target"])
    assert "misclassified" not in set(tests["target"]), "the letter was not used where it was wrong"
    row = tests[(tests["target"] == "correct") & (tests["quantity"] == "response on") & (tests["region"] == "letter")].iloc[0]
    assert abs(row["effect"]) > 0.5
    clean = hunt(*cohort(biased=False))
    assert clean.found().empty
    assert len(clean.tests) == len(found.tests)


def test_a_hunt_says_what_it_lacks() -> None:
    rows, cases = cohort(biased=False, n=12)
    assert list(hunt(rows, cases, ["view"]).tests["covariate"].unique()) == ["view"]
    with pytest.raises(BadInput, match="got no predicted"):
        hunt(rows, cases.drop(columns="predicted"))
    with pytest.raises(BadInput, match="one map per case"):
        hunt(rows + rows, cases)
    with pytest.raises(BadInput, match="a row of `cases` for each case; got none for c00"):
        hunt(rows, cases[1:])
    with pytest.raises(BadInput, match="one row of `cases` for each case; got several for c00, c01"):
        hunt(rows, pd.concat([cases, cases[:2]]))
    alone = hunt(rows, cases[["case", "truth", "predicted"]])
    assert len(alone.ranking) == 12, "a ranking needs no covariate"
    with pytest.raises(BadInput, match="a hunt with covariates; got one that tested none"):
        alone.found()
    both = [row | {"kind": "landmark"} for row in rows]
    with pytest.raises(BadInput, match="landmarks that do not overlap"):
        hunt(both, cases)
