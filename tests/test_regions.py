"""Relevance added up by anatomy: against a mask for each region, in pieces, joined, masked, and by distance."""

import csv
from itertools import pairwise

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from radiolucent import io
from radiolucent.errors import BadInput
from radiolucent.explanation import Explanation
from radiolucent.io.tables import Name, read_names
from radiolucent.methods import GradCAM, SmoothGrad
from radiolucent.parcellation import Parcellation
from radiolucent.regions import Regions, RegionSums, by_region, region_rows
from radiolucent.regions.prepared import compact
from radiolucent.regions.shells import shells
from radiolucent.volume import Volume

AFFINE = np.diag([-2.0, 1.5, 3, 1])
NAMES = {17: Name("Hippocampus", "left"), 18: Name("Hippocampus", "right"), 2035: Name("Insula", "right")}
NUMBERS = ("mass_fraction", "positive", "negative", "density", "enrichment", "voxels", "volume_mm3")
seeds = st.integers(0, 10_000)


def labelled(shape: tuple[int, ...] = (4, 5, 6), affine: np.ndarray = AFFINE, seed: int = 0, coarse: int = 1) -> Parcellation:
    """Random labels, in blocks of `coarse` voxels."""
    cells = [-(-n // coarse) for n in shape]
    labels = np.random.default_rng(seed).choice(np.array([0, 17, 18, 2035], np.int32), cells)
    for axis in range(len(shape)):
        labels = labels.repeat(coarse, axis)
    return Parcellation(Volume(labels[None, *(slice(n) for n in shape)], affine), NAMES)


def noise(shape: tuple[int, ...], seed: int = 0, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(channels, *shape)).astype(np.float32)


def box(shape: tuple[int, ...], *slices: slice, affine: np.ndarray = AFFINE) -> Volume:
    data = np.zeros((1, *shape), bool)
    data[0][slices] = True
    return Volume(data, affine)


def slowly(relevance: np.ndarray, inside: np.ndarray, voxel_mm3: float) -> dict[str, float]:
    """The definitions, with a mask and nothing shared."""
    whole = np.abs(relevance.astype(np.float64)).sum()
    e = relevance[np.broadcast_to(inside, relevance.shape)].astype(np.float64)
    voxels = int(inside.sum())
    mass = np.abs(e).sum() / whole
    return {
        "mass_fraction": mass,
        "positive": e[e > 0].sum() / whole,
        "negative": -e[e < 0].sum() / whole,
        "density": np.abs(e).sum() / voxels if voxels else np.nan,
        "enrichment": mass / (voxels / inside.size) if voxels else np.nan,
        "voxels": voxels,
        "volume_mm3": voxels * voxel_mm3,
    }


def agree(row: dict, relevance: np.ndarray, inside: np.ndarray, voxel_mm3: float = 9.0) -> None:
    expected = slowly(relevance, inside, voxel_mm3)
    np.testing.assert_allclose([row[key] for key in NUMBERS], [expected[key] for key in NUMBERS], rtol=1e-9, atol=1e-15)


def by_name(rows: list[dict]) -> dict[str, dict]:
    named = {row["region"]: row for row in rows}
    assert len(named) == len(rows)
    return named


def explained(*maps: np.ndarray, method=None, targets: tuple[str, ...] = ("a", "b", "c")) -> Explanation:
    volumes = tuple(Volume(m, AFFINE) for m in maps)
    return Explanation(volumes, targets[: len(maps)], (1.0,) * len(maps), method or SmoothGrad(), {})


# One map, one label image.


@given(seeds, st.integers(1, 3), st.booleans(), st.integers(1, 4))
def test_each_row_is_what_a_mask_gives(seed, channels, flat, coarse):
    parcellation = labelled((8, 5) if flat else (8, 5, 6), seed=seed, coarse=coarse)
    relevance = noise(parcellation.labels.grid.shape, seed, channels)
    rows = by_region(Volume(relevance, AFFINE), parcellation)
    assert [row["label"] for row in rows] == parcellation.values
    for row in rows:
        agree(row, relevance, parcellation.labels.data[0] == row["label"])
        assert row["region"] == parcellation.titles[row["label"]]
        assert row["kind"] == "label"
        assert row["hemisphere"] == {0: "", 17: "L"}.get(row["label"], "R")
    for share in (sum(r["mass_fraction"] for r in rows), sum(r["positive"] + r["negative"] for r in rows)):
        assert share == pytest.approx(1, abs=1e-12)
    assert sum(r["voxels"] for r in rows) == parcellation.labels.data.size


@given(seeds, st.permutations(range(3)), st.sets(st.integers(0, 2)))
def test_turning_and_mirroring_the_voxels_changes_nothing(seed, axes, flipped):
    parcellation = labelled((5, 6, 7), seed=seed, coarse=2)
    relevance = noise((5, 6, 7), seed)
    masks = {"mask": Volume(noise((5, 6, 7), seed + 1) > 0, AFFINE)}
    regions = Regions(parcellation, masks=masks, targets=masks["mask"], near_mm=[2, 4])

    def turned(volume: Volume) -> Volume:
        affine = volume.affine.copy()
        for axis in flipped:
            affine[:3, 3] += affine[:3, axis] * (volume.data.shape[1 + axis] - 1)
            affine[:3, axis] *= -1
        data = np.flip(volume.data, [1 + axis for axis in flipped]).transpose(0, *(1 + a for a in axes))
        return Volume(data, affine[:, [*axes, 3]], volume.has_world)

    masks = {"mask": turned(masks["mask"])}
    after = Regions(Parcellation(turned(parcellation.labels), NAMES), masks=masks, targets=masks["mask"], near_mm=[2, 4])
    before = by_region(Volume(relevance, AFFINE), regions)
    for one, other in zip(before, by_region(turned(Volume(relevance, AFFINE)), after), strict=True):
        assert {k: v for k, v in one.items() if k not in NUMBERS} == {k: v for k, v in other.items() if k not in NUMBERS}
        np.testing.assert_allclose([one[k] for k in NUMBERS], [other[k] for k in NUMBERS], rtol=1e-12, atol=1e-14)


def test_small_values_count_beside_large_ones():
    labels = np.zeros((1, 300, 300), np.int32)
    labels[0, 150:] = 1
    relevance = np.full((1, 300, 300), 1e-4, np.float32)
    relevance[0, 0, 0] = 1e6
    rows = by_region(Volume(relevance), Parcellation(Volume(labels), {1: Name("half")}))
    assert rows[1]["density"] == pytest.approx(np.float64(np.float32(1e-4)), rel=1e-12)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_map_of_one_sign_has_exactly_nothing_of_the_other(sign):
    relevance = sign * np.abs(noise((40, 40, 40)))
    for row in by_region(Volume(relevance, AFFINE), labelled((40, 40, 40), coarse=7)):
        assert row["negative" if sign > 0 else "positive"] == 0
        assert row["positive" if sign > 0 else "negative"] == row["mass_fraction"]


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.int64])
@pytest.mark.parametrize("spread", ["small", "wide"])
def test_labels_of_any_kind_become_codes(dtype, spread):
    most = np.iinfo(dtype).max if spread == "wide" else 5
    least = np.iinfo(dtype).min if spread == "wide" else 0
    values = np.random.default_rng(0).choice(np.array([least, 0, 3, most], dtype), (3, 4, 5))
    if spread == "wide" and dtype == np.int64:
        values //= 4
    found, codes = compact(values)
    np.testing.assert_array_equal(found, np.unique(values))
    np.testing.assert_array_equal(found[codes], values)
    assert codes.dtype == np.uint8
    inside = np.random.default_rng(1).random((3, 4, 5)) > 0.5
    both, codes = compact(codes, inside)
    np.testing.assert_array_equal(found[both[codes] >> 1], values)
    np.testing.assert_array_equal(both[codes] & 1, inside)


# Joined regions and masks of one's own.


@given(seeds, st.integers(1, 3))
def test_joined_regions_are_the_sum_of_their_parts(seed, coarse):
    parcellation = labelled(seed=seed, coarse=coarse)
    relevance = noise((4, 5, 6), seed)
    joined = {"both": ["Hippocampus"], "right": ["Hippocampus (right)", 2035], "all": ["background", "Hippocampus", "Insula"]}
    rows = by_name(by_region(Volume(relevance, AFFINE), parcellation, joined=joined))
    for name, parts in {"both": [17, 18], "right": [18, 2035], "all": [0, 17, 18, 2035]}.items():
        assert (rows[name]["kind"], rows[name]["label"], rows[name]["hemisphere"]) == ("joined", -1, "")
        agree(rows[name], relevance, np.isin(parcellation.labels.data[0], parts))
    assert rows["all"]["mass_fraction"] == pytest.approx(1, abs=1e-12)


@given(seeds, st.integers(0, 4), st.integers(1, 3))
def test_masks_may_overlap_one_another_and_the_labels(seed, number, coarse):
    parcellation = labelled(seed=seed, coarse=coarse)
    relevance = noise((4, 5, 6), seed)
    kinds = (bool, np.uint8, np.float32, np.int16)
    masks = {f"m{i}": Volume((noise((4, 5, 6), seed + 1 + i) > i - 1).astype(kinds[i]), AFFINE) for i in range(number)}
    rows = by_region(Volume(relevance, AFFINE), parcellation, masks=masks, joined={"both": ["Hippocampus"]})
    for row in rows:
        if row["kind"] == "mask":
            agree(row, relevance, masks[row["region"]].data[0] != 0)
        elif row["kind"] == "label":
            agree(row, relevance, parcellation.labels.data[0] == row["label"])
        else:
            agree(row, relevance, np.isin(parcellation.labels.data[0], [17, 18]))
    assert sum(row["kind"] == "mask" for row in rows) == number


def test_what_has_no_voxel_has_no_density_and_no_share():
    labels = np.zeros((1, 4, 5, 6), np.int32)
    labels[0, 0] = 17
    rows = by_name(
        by_region(
            Volume(noise((4, 5, 6)), AFFINE),
            Parcellation(Volume(labels, AFFINE), NAMES),
            joined={"insula": ["Insula"]},
            masks={"nowhere": box((4, 5, 6), slice(0, 0))},
        )
    )
    assert list(rows) == ["background", "Hippocampus (left)", "insula", "nowhere"]  # as in a cohort where others have both sides
    for name in ("insula", "nowhere"):
        assert [rows[name][k] for k in ("mass_fraction", "positive", "negative", "voxels", "volume_mm3")] == [0, 0, 0, 0, 0]
        assert np.isnan([rows[name]["density"], rows[name]["enrichment"]]).all()


# Distances.


def brute_force(target: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """For each voxel the distance to each voxel of the target, in the world."""
    axes = affine[:3, : target.ndim]
    everywhere = np.argwhere(np.ones_like(target)) @ axes.T
    inside = np.argwhere(target) @ axes.T
    return np.linalg.norm(everywhere[:, None] - inside[None], axis=2).min(1).reshape(target.shape)


def turn(axis: int, angle: float) -> np.ndarray:
    i, j = [a for a in range(3) if a != axis]
    matrix = np.eye(4)
    matrix[i, i] = matrix[j, j] = np.cos(angle)
    matrix[i, j], matrix[j, i] = -np.sin(angle), np.sin(angle)
    return matrix


OBLIQUE = turn(0, 0.4) @ turn(2, -0.7) @ AFFINE
SHEARED = AFFINE @ np.array([[1, 2.5, 0, 0], [0, 1, -0.8, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize("affine", [AFFINE, OBLIQUE, SHEARED], ids=["anisotropic", "oblique", "sheared"])
@given(seed=seeds)
@settings(max_examples=20)
def test_the_shells_are_those_of_brute_force(affine, seed):
    random = np.random.default_rng(seed)
    target = random.random((9, 8, 7)) > random.choice([0.5, 0.9, 0.995])
    target[tuple(random.integers(0, target.shape))] = True
    near_mm = sorted(random.choice([1.4, 2, 3, 4.5, 6, 9, 50], 2, replace=False))
    parcellation = labelled((9, 8, 7), affine, seed)
    relevance = noise((9, 8, 7), seed)
    wanted = {"masks": {"here": Volume(target[None], affine)}, "targets": Volume(target[None], affine), "near_mm": near_mm}
    rows = by_name(by_region(Volume(relevance, affine), parcellation, **wanted))
    distance = brute_force(target, affine)
    low, high = near_mm
    for name, inside in {
        "inside the target": target,
        f"outside, 0 to {low:g} mm": ~target & (distance <= low + 1e-6),
        f"outside, {low:g} to {high:g} mm": (distance > low + 1e-6) & (distance <= high + 1e-6),
        f"outside, beyond {high:g} mm": distance > high + 1e-6,
    }.items():
        assert rows[name]["kind"] == "near"
        agree(rows[name], relevance, inside)
        assert min(rows[name][key] for key in ("mass_fraction", "positive", "negative")) >= 0


def test_the_distance_of_five_voxels_is_five_voxels():
    target = box((21, 3), slice(10, 11), affine=np.diag([0.1, 1, 1, 1]))
    found = shells(target.data[0], target.grid, [0.3, 0.5])
    assert found.voxels.tolist() == [3, 18, 12, 30]


def test_distances_are_looked_for_around_the_target_alone():
    target = box((200, 200, 200), *[slice(100, 110)] * 3)
    assert np.prod(shells(target.data[0], target.grid, [6]).codes.shape) < 8000


@pytest.mark.parametrize("affine", [AFFINE, OBLIQUE, SHEARED], ids=["anisotropic", "oblique", "sheared"])
def test_the_box_around_the_target_holds_all_that_is_near(affine):
    target = box((41, 31, 21), slice(20, 21), slice(15, 16), slice(10, 11), affine=affine)
    distance = brute_force(target.data[0], affine)
    for k in (3.1, 6.1, 9.1):
        assert shells(target.data[0], target.grid, [k]).voxels[1] == (~target.data[0] & (distance <= k)).sum()


def test_each_target_has_its_own_surroundings():
    parcellation = labelled((12, 12, 12), coarse=4)
    maps = [noise((12, 12, 12), seed) for seed in range(2)]
    explanation = explained(*maps, targets=("Hippocampus (left)", "Insula"))
    labels = parcellation.labels.data[0]
    named = {"Hippocampus (left)": labels == 17, "Insula": labels == 2035}
    given = {name: Volume(inside[None], AFFINE) for name, inside in named.items()}
    for targets in (None, parcellation, given):
        rows = by_region(explanation, parcellation, targets=targets, near_mm=[3])
        for e, (name, inside) in zip(maps, named.items(), strict=True):
            near = [row for row in rows if row["target"] == name and row["kind"] == "near"]
            assert [row["region"] for row in near] == ["inside the target", "outside, 0 to 3 mm", "outside, beyond 3 mm"]
            agree(near[0], e, inside)
            agree(near[1], e, ~inside & (brute_force(inside, AFFINE) <= 3.000001))
            assert sum(row["mass_fraction"] for row in near) == pytest.approx(1, abs=1e-12)
    both = by_region(explained(maps[0], targets=("Hippocampus",)), parcellation, near_mm=[3])  # its left and its right
    agree(by_name(both)["inside the target"], maps[0], np.isin(labels, [17, 18]))
    whole = by_region(Volume(maps[0], AFFINE), parcellation, near_mm=[3])  # a map without a name: around all that is labelled
    agree(by_name(whole)["inside the target"], maps[0], labels != 0)


def test_nothing_is_near_to_a_target_that_is_not_there():
    rows = by_region(Volume(noise((4, 5, 6)), AFFINE), labelled(), targets=box((4, 5, 6), slice(0, 0)), near_mm=[5])
    near = [row for row in rows if row["kind"] == "near"]
    assert len(near) == 3
    assert np.isnan([[row[k] for k in NUMBERS[:5]] for row in near]).all()
    assert [row["voxels"] for row in near] == [0, 0, 0]


# Explanations.


def test_rows_of_an_explanation_say_what_they_are_about():
    maps = [noise((4, 5, 6), seed, channels=2) for seed in range(3)]
    rows = by_region(explained(*maps, method=GradCAM("layer4")), labelled())
    assert list(rows[0]) == ["method", "layer", "target", "region", "label", "hemisphere", "kind", *NUMBERS]
    assert {(row["method"], row["layer"]) for row in rows} == {("grad-cam", "layer4")}
    for e, target in zip(maps, "abc", strict=True):
        alone = by_region(Volume(e, AFFINE), labelled())
        assert [{k: row[k] for k in alone[0]} for row in rows if row["target"] == target] == alone
    assert not {"method", "layer", "target"} & set(alone[0])


def test_methods_of_one_name_are_told_apart_by_their_settings():
    methods = [SmoothGrad(samples=3), SmoothGrad(samples=4), GradCAM("a"), GradCAM("b")]
    rows = region_rows([explained(noise((4, 5, 6)), method=m) for m in methods], labelled())
    names = list(dict.fromkeys((row["method"], row["layer"]) for row in rows))
    assert [name.partition(", ")[0] for name, _ in names] == [
        "smooth-grad(gradient) (samples=3",
        "smooth-grad(gradient) (samples=4",
        "grad-cam",
        "grad-cam",
    ]
    assert [layer for _, layer in names] == ["", "", "a", "b"]


# In pieces.


@given(seeds, st.data())
def test_pieces_give_what_the_whole_gives_however_it_is_cut(seed, data):
    shape = (7, 6, 8)
    parcellation = labelled(shape, seed=seed, coarse=data.draw(st.integers(1, 4)))
    maps = np.stack([noise(shape, seed + t, channels=2) for t in range(2)])
    masks = {"mask": Volume(noise(shape, seed + 9) > 0, AFFINE)}
    regions = Regions(parcellation, masks=masks, joined={"both": ["Hippocampus"]}, targets=masks["mask"], near_mm=[2, 3.5])
    cuts = [[0, *sorted(data.draw(st.sets(st.integers(1, n - 1)))), n] for n in shape[: data.draw(st.integers(1, 3))]]
    edges = [[slice(a, b) for a, b in pairwise(c)] for c in cuts]
    pieces = [[s] for s in edges[0]]
    for more in edges[1:]:
        pieces = [[*piece, s] for piece in pieces for s in more]
    sums = RegionSums(regions, ("a", "b"))
    for piece in data.draw(st.permutations(pieces)):
        part = maps[:, :, *piece]
        sums.add(tuple(piece), torch.from_numpy(part.copy()) if data.draw(st.booleans()) else part)
    whole = by_region(explained(*maps, targets=("a", "b")), regions)
    for one, other in zip(sums.rows("smooth-grad(gradient)"), whole, strict=True):
        assert {k: v for k, v in one.items() if k not in NUMBERS} == {k: v for k, v in other.items() if k not in NUMBERS}
        np.testing.assert_allclose([one[k] for k in NUMBERS], [other[k] for k in NUMBERS], rtol=1e-12, atol=1e-14)


def test_what_is_larger_than_the_processor_s_cache_is_cut(monkeypatch):
    parcellation = labelled((9, 8, 7), coarse=2)
    relevance = Volume(noise((9, 8, 7)), AFFINE)
    whole = by_region(relevance, parcellation)
    for most in (1, 60, 120):
        monkeypatch.setattr("radiolucent.regions.sums._CHUNK", most)
        for one, other in zip(by_region(relevance, parcellation), whole, strict=True):
            np.testing.assert_allclose([one[k] for k in NUMBERS], [other[k] for k in NUMBERS], rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_pieces_are_tensors_of_any_precision_and_stay_as_they_are(dtype):
    relevance = torch.from_numpy(noise((4, 5, 6)))[None].to(dtype).requires_grad_()
    before = relevance.detach().clone()
    sums = RegionSums(labelled(), ["a"])
    sums.add((), relevance)
    assert torch.equal(relevance, before)
    whole = by_region(Volume(before[0].double().numpy(), AFFINE), labelled())
    assert [{k: row[k] for k in NUMBERS} for row in sums.of(0)] == [{k: row[k] for k in NUMBERS} for row in whole]


def test_a_voxel_that_is_missing_or_comes_twice_is_noticed():
    first, last = (slice(0, 2),), (slice(2, 4),)
    part = noise((2, 5, 6))[None]
    for pieces, seen in (([first], 60), ([first, last, last], 180), ([first, first], 120)):
        sums = RegionSums(labelled(), ["a"])
        for piece in pieces:
            sums.add(piece, part)
        with pytest.raises(BadInput, match=f"each voxel of the grid once; got {seen} of 120 voxels"):
            sums.rows()


# What cannot be answered.


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, -np.inf])
def test_row_34_relevance_that_says_nothing_is_refused(value):
    relevance = np.zeros((1, 4, 5, 6), np.float32)
    relevance[0, 1, 2, 3] = value
    with pytest.raises(BadInput, match="relevance that is finite and not zero everywhere; got a sum of"):
        by_region(Volume(relevance, AFFINE), labelled())
    with pytest.raises(BadInput, match="relevance for b that is finite"):
        by_region(explained(noise((4, 5, 6)), relevance), labelled())


def test_row_34_infinities_of_both_signs():
    relevance = noise((4, 5, 6))
    relevance[0, 0, 0, :2] = np.inf, -np.inf
    for coarse in (1, 9):
        with pytest.raises(BadInput, match="got a sum of inf"):
            by_region(Volume(relevance, AFFINE), labelled(coarse=coarse))


def test_row_17_another_grid():
    e, other = Volume(noise((4, 5, 6)), AFFINE), np.diag([2.0, 1.5, 3, 1])
    mask = box((4, 5, 6), slice(2), affine=other)
    with pytest.raises(BadInput, match=r"a parcellation on the map's grid \(5 x 4 x 6.*Use parcellation.on"):
        by_region(Volume(noise((5, 4, 6)), AFFINE), labelled())
    for wanted, match in (
        ({"masks": {"m": mask}}, "the mask 'm' on the map's grid .*Use mask.on"),
        ({"targets": mask, "near_mm": [5]}, "the targets' mask on the map's grid"),
        ({"targets": {"": mask}, "near_mm": [5]}, "the mask of the target '' on the map's grid"),
        ({"targets": labelled(affine=other), "near_mm": [5]}, "targets on the map's grid .*Use targets.on"),
    ):
        with pytest.raises(BadInput, match=match):
            by_region(e, labelled(), **wanted)


@pytest.mark.parametrize(
    ("wanted", "match"),
    [
        ({"joined": {"both": ["Hipocampus"]}}, r"one of the regions background, .*got 'Hipocampus'. Is it Hippocampus \("),
        ({"joined": {"both": [99]}}, "one of the regions .*got 99"),
        ({"joined": {"both": "Hippocampus"}}, "a list of regions to join as 'both'; got 'Hippocampus'"),
        ({"joined": {"both": []}}, "a list of regions to join as 'both'"),
        ({"joined": {"Insula": ["Insula"]}}, "a name of its own .*got Insula twice"),
        ({"joined": {"m": ["Insula"]}, "masks": {"m": box((4, 5, 6), slice(2))}}, "a name of its own .*got m twice"),
        ({"joined": {"inside the target": ["Insula"]}, "near_mm": [5]}, "a name of its own .*got inside the target twice"),
        ({"masks": {"m": Volume(np.ones((2, 4, 5, 6)), AFFINE)}}, "a Volume of one channel as the mask 'm'; got 2 channels"),
        ({"masks": {"m": np.ones((4, 5, 6))}}, "a Volume of one channel as the mask 'm'; got ndarray"),
        ({"masks": {"m": Volume(np.full((1, 4, 5, 6), 0.5), AFFINE)}}, "whole numbers in the mask 'm'.*such as 0.5"),
        ({"masks": {"m": Volume(np.full((1, 4, 5, 6), np.nan), AFFINE)}}, "whole numbers in the mask 'm'.*such as nan"),
        ({"near_mm": [0]}, "distances above 0 mm"),
        ({"near_mm": [-1.0, 2]}, "distances above 0 mm"),
        ({"near_mm": [np.nan]}, "distances above 0 mm"),
        ({"near_mm": 5.0}, "distances above 0 mm; got 5.0. For example near_mm="),
        ({"near_mm": [5], "targets": {"b": box((4, 5, 6), slice(2))}}, "a mask for the target 'a'; got masks for b"),
        ({"near_mm": [5], "targets": {}}, "a mask for the target 'a'; got masks for none"),
        ({"near_mm": [5]}, "one of the regions background, .*got 'a'"),
    ],
)
def test_rows_17_to_20_what_is_not_there_is_named(wanted, match):
    with pytest.raises(BadInput, match=match):
        by_region(explained(noise((4, 5, 6))), labelled(), **wanted)


def test_regions_come_with_all_that_they_hold():
    with pytest.raises(BadInput, match="either Regions or what they are made of; got Regions and joined, near_mm"):
        by_region(Volume(noise((4, 5, 6)), AFFINE), Regions(labelled()), joined={"both": ["Hippocampus"]}, near_mm=[5])


@pytest.mark.parametrize(
    ("slices", "shape", "match"),
    [
        ((slice(0, 2),), (1, 1, 4, 5, 6), r"relevance \(1 targets, channels, \*\(2, 5, 6\)\); got 1 targets on \[\(4, 5, 6\)\]"),
        ((), (2, 1, 4, 5, 6), "got 2 targets"),
        ((), (1, 4, 5, 6), r"got 1 targets on \[\(5, 6\)\]"),
        ((slice(0, 0),), (1, 1, 0, 5, 6), "slices that hold voxels"),
        ((slice(0, 4, 2),), (1, 1, 2, 5, 6), "in steps of 1"),
        ((slice(None),) * 4, (1, 1, 4, 5, 6), "slices of at most 3 axes; got 4"),
    ],
)
def test_pieces_that_do_not_fit(slices, shape, match):
    with pytest.raises(BadInput, match=match):
        RegionSums(labelled(), ["a"]).add(slices, np.ones(shape))


# Real data.


def test_a_real_scan(data_folder):
    case = "IXI012-HH-1211-T1_ds"
    scan = io.read(data_folder / "ixi" / "t1" / f"{case}.nii.gz")
    path = data_folder / "ixi" / "parcellation" / f"{case}_DLMUSE.nii.gz"
    with pytest.raises(BadInput, match=r"a name for every label in .*DLMUSE.nii.gz.; got none for \[1, 46, 69, 71"):
        Parcellation.read(path, data_folder / "ixi" / "regions.tsv")
    names = read_names(data_folder / "ixi" / "regions.tsv")
    bare = Parcellation.read(path)
    parcellation = Parcellation(bare.labels, dict(bare.names) | names)
    joined = {"hippocampi": ["Hippocampus"]}
    found = by_region(scan, parcellation.on(scan.grid), joined=joined)
    rows = {row["label"]: row for row in found if row["kind"] == "label"}
    assert len(rows) == 149
    with (data_folder / "ixi" / "region_volumes.csv").open() as file:
        volumes = next(row for row in csv.DictReader(file) if row["MRID"] == "IXI012-HH-1211")
    for value in names:  # the volumes that come with the data, of another tool
        assert rows[value]["volume_mm3"] == pytest.approx(float(volumes[str(value)]))
    labels = np.asanyarray(nib.load(path).dataobj)
    expected = scan.data[0][labels == 47].sum(dtype=np.float64) / scan.data.sum(dtype=np.float64)
    assert rows[47]["mass_fraction"] == pytest.approx(expected)
    assert (rows[47]["region"], rows[47]["hemisphere"]) == ("Hippocampus (right)", "R")
    assert sum(row["mass_fraction"] for row in rows.values()) == pytest.approx(1)
    assert found[-1]["mass_fraction"] == pytest.approx(rows[47]["mass_fraction"] + rows[48]["mass_fraction"])


def test_real_distances_of_a_structure_to_itself_and_to_what_lies_around(data_folder):
    path = data_folder / "brain_labels" / "training_seg_01.nii.gz"
    bare = Parcellation.read(path)
    parcellation = Parcellation(bare.labels, dict(bare.names) | read_names(data_folder / "brain_labels" / "regions.tsv"))
    target = "Hippocampus (left)"
    e = (bare.labels.data == 18).astype(np.float32)  # all relevance in the amygdala, which touches the hippocampus
    explanation = Explanation((bare.labels.like(e),), (target,), (1.0,), SmoothGrad(), {})
    rows = by_name(by_region(explanation, parcellation, near_mm=[5, 40]))
    assert rows["inside the target"]["volume_mm3"] == rows[target]["volume_mm3"] > 1000
    assert rows["outside, 0 to 5 mm"]["mass_fraction"] > 0.1
    assert rows["outside, 5 to 40 mm"]["mass_fraction"] == pytest.approx(1 - rows["outside, 0 to 5 mm"]["mass_fraction"], abs=1e-12)
    assert rows["inside the target"]["mass_fraction"] == rows["outside, beyond 40 mm"]["mass_fraction"] == 0
    assert rows["Amygdala (left)"]["mass_fraction"] == 1
