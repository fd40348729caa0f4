"""Grids: every change of grid keeps the world where it was."""

import itertools
import math

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import aff2axcodes
from scipy.spatial.transform import Rotation

from radiolucent import geometry
from radiolucent.errors import BadInput
from radiolucent.geometry import Grid

ORIENTATIONS = ["".join(codes) for axes in itertools.permutations(("LR", "PA", "IS")) for codes in itertools.product(*axes)]


calm = settings(deadline=None)  # the machine may be busy


def oblique(shape: tuple[int, ...], seed: int = 0, spacing: tuple[float, ...] = (1.0, 1.5, 2.5)) -> Grid:
    """A grid in general position: rotated at random, with a mirror for odd seeds."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.random(rng=np.random.default_rng(seed)).as_matrix() * spacing * np.array([(-1) ** seed, 1, 1])
    affine[:3, 3] = np.random.default_rng(seed).uniform(-90, 90, 3)
    return Grid(shape, affine)


shapes = st.tuples(*[st.integers(2, 7)] * 3)
spacings = st.tuples(*[st.floats(0.3, 4)] * 3)
grids = st.builds(oblique, shapes, st.integers(0, 10_000), spacings)
orientations = st.sampled_from(ORIENTATIONS)


def world(grid: Grid, voxels: np.ndarray) -> np.ndarray:
    """World positions (n, 3) of voxel indices (n, 3)."""
    return voxels @ grid.affine[:3, :3].T + grid.affine[:3, 3]


def voxels(shape: tuple[int, ...]) -> np.ndarray:
    return np.indices(shape).reshape(len(shape), -1).T.astype(float)


def where(grid: Grid, target: Grid) -> np.ndarray:
    """For each voxel of `target` (n, 3) its place in `grid` in voxels."""
    inverse = np.linalg.inv(grid.affine)
    return world(target, voxels(target.shape)) @ inverse[:3, :3].T + inverse[:3, 3]


def noise(grid: Grid, seed: int = 0, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(channels, *grid.shape)).astype(np.float32)


@calm
@given(grids)
def test_orientation_is_nibabels(grid):
    assert grid.orientation == "".join(aff2axcodes(grid.affine))


@calm
@given(grids, orientations)
def test_reorient_gives_the_orientation_and_goes_back(grid, orientation):
    turned = geometry.reorient(grid, orientation)
    assert "".join(aff2axcodes(turned.affine)) == orientation
    back = geometry.reorient(turned, grid.orientation)
    assert back.shape == grid.shape
    np.testing.assert_allclose(back.affine, grid.affine, atol=1e-9)


@calm
@given(grids)
def test_reorient_to_ras_is_nibabels_closest_canonical(grid):
    data = noise(grid)
    canonical = nib.as_closest_canonical(nib.Nifti1Image(data[0], grid.affine))
    ras = geometry.reorient(grid, "RAS")
    np.testing.assert_allclose(ras.affine, canonical.affine, atol=1e-9)
    np.testing.assert_array_equal(geometry.resample(data, grid, ras)[0], canonical.get_fdata(dtype=np.float32))


@calm
@given(grids, orientations, shapes, st.randoms(use_true_random=False))
def test_a_planted_voxel_stays_at_its_place_in_the_world(grid, orientation, shape, random):
    planted = [random.randrange(n) for n in grid.shape]
    data = np.zeros((1, *grid.shape), np.int16)
    data[0, *planted] = 7
    place = world(grid, np.array([planted]))[0]
    double, triple = tuple(2 * n for n in grid.shape), tuple(3 * n for n in grid.shape)
    for target, copies in [
        (geometry.reorient(grid, orientation), 1),
        (geometry.centre(grid, tuple(n + m for n, m in zip(grid.shape, shape, strict=True))), 1),
        (geometry.coarsen(grid, triple), 27),
        (geometry.respace(grid, tuple(s / 3 for s in grid.spacing)), 27),
        (geometry.reorient(geometry.coarsen(grid, double), orientation), 8),
    ]:
        found = np.argwhere(geometry.resample(data, grid, target, nearest=True)[0] == 7)
        assert len(found) == copies
        np.testing.assert_allclose(world(target, found).mean(0), place, atol=1e-6)


@calm
@given(grids, shapes)
def test_coarsen_and_respace_keep_the_outer_corners(grid, shape):
    low, high = np.full((1, 3), -0.5), np.array([grid.shape]) - 0.5
    cells = geometry.coarsen(grid, shape)
    assert cells.shape == shape
    np.testing.assert_allclose(world(cells, low), world(grid, low), atol=1e-6)
    np.testing.assert_allclose(world(cells, np.array([shape]) - 0.5), world(grid, high), atol=1e-6)
    assert math.isclose(cells.voxel_mm3 * math.prod(cells.shape), grid.voxel_mm3 * math.prod(grid.shape), rel_tol=1e-9)

    spacing = (0.7, 2.0, 1.1)
    fine = geometry.respace(grid, spacing)
    np.testing.assert_allclose(fine.spacing, spacing)
    np.testing.assert_allclose(world(fine, low), world(grid, low), atol=1e-6)
    miss = np.array(fine.shape) * spacing - np.array(grid.shape) * grid.spacing
    assert (np.abs(miss) <= np.maximum(np.array(spacing) / 2, np.array(spacing) - np.array(grid.shape) * grid.spacing) + 1e-9).all()


@calm
@given(grids, shapes)
def test_centre_keeps_the_middle_within_half_a_voxel(grid, shape):
    cut = geometry.centre(grid, shape)
    assert cut.shape == shape
    middle = where(grid, cut).mean(0)
    off = middle - (np.array(grid.shape) - 1) / 2
    assert (np.abs(off) <= 0.5 + 1e-6).all()
    np.testing.assert_allclose(where(grid, cut) % 1 % (1 - 1e-6), 0, atol=1e-5)  # by whole voxels


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_moving_between_grids_that_share_voxels_is_exact(orientation, dtype):
    source = oblique((4, 5, 6), seed=3)
    target = geometry.centre(geometry.reorient(source, orientation), (7, 3, 5))  # pads here, crops there
    data = (1000 * noise(source, channels=2)).astype(dtype)
    place = where(source, target).round().astype(int)
    inside = ((place >= 0) & (place < source.shape)).all(1)
    expected = np.zeros((2, len(place)), dtype)
    expected[:, inside] = data[:, *place[inside].T]

    moved = geometry.resample(data, source, target)
    assert moved.dtype == dtype
    assert inside.any()
    np.testing.assert_array_equal(moved, expected.reshape(2, *target.shape))
    back = geometry.resample(moved, target, source)
    seen = geometry.resample(np.ones((1, *target.shape), dtype), target, source)
    np.testing.assert_array_equal(back, data * seen)


def test_grids_apart_give_zero():
    grid = oblique((4, 5, 6))
    for steps in ([0, 9, 0], [-4, 0, 0], [0.3, 0.3, 77.7]):
        away = Grid(grid.shape, grid.affine.copy())
        away.affine[:3, 3] += grid.affine[:3, :3] @ steps
        assert not geometry.resample(noise(grid), grid, away).any()


@calm
@given(grids, st.integers(0, 10_000), st.tuples(*[st.floats(-30, 30)] * 4))
def test_a_linear_ramp_is_interpolated_exactly(source, seed, slopes):
    target = oblique((5, 6, 4), seed, (1.3, 0.8, 1.7))
    middle = world(source, (np.array([source.shape]) - 1) / 2) - target.affine[:3, :3] @ [2, 2.5, 1.5]
    target.affine[:3, 3] = middle
    ramp = lambda grid: (world(grid, voxels(grid.shape)) - middle) @ slopes[:3] + slopes[3]  # noqa: E731
    data = ramp(source).reshape(1, *source.shape)
    moved = geometry.resample(data, source, target).reshape(-1)
    place = where(source, target)
    inner = ((place >= 0) & (place <= np.array(source.shape) - 1)).all(1)
    outer = ((place < -0.501) | (place > np.array(source.shape) - 0.499)).any(1)
    np.testing.assert_allclose(moved[inner], ramp(target)[inner], atol=1e-3)
    assert not moved[outer].any()
    assert (moved >= min(data.min(), 0) - 1e-3).all()  # the half voxel at the rim repeats the edge
    assert (moved <= max(data.max(), 0) + 1e-3).all()


def test_grids_that_nearly_share_their_voxels_are_interpolated_all_the_same():
    """A ten-thousandth of a voxel per step is a hundredth of one after a hundred steps."""
    source = Grid((101, 2, 2), np.eye(4))
    ramp = np.broadcast_to(np.arange(101, dtype=np.float32)[:, None, None], (1, 101, 2, 2))
    for scale, expected in ((1 - 1e-4, 100 - 1e-2), (1 - 1e-6, 100)):
        moved = geometry.resample(ramp, source, Grid(source.shape, np.diag([scale, 1, 1, 1])))
        assert moved[0, 100, 0, 0] == np.float32(expected)


@calm
@given(grids, st.integers(0, 10_000))
def test_nearest_takes_the_nearest_label_and_invents_none(source, seed):
    labels = np.random.default_rng(seed).choice(np.array([3, 17, 2035, 2**31 - 1], np.int32), (1, *source.shape))
    target = Grid((5, 6, 4), source.affine @ np.diag([0.83, 0.61, 1.23, 1]))
    target.affine[:3, :3] = Rotation.from_euler("xyz", [3, 5, 7], degrees=True).as_matrix() @ target.affine[:3, :3]
    moved = geometry.resample(labels, source, target, nearest=True)
    place = where(source, target)
    clear = (np.abs(place % 1 - 0.5) > 1e-3).all(1)
    inside = ((place > -0.5) & (place < np.array(source.shape) - 0.5)).all(1)
    assert moved.dtype == np.int32
    assert set(np.unique(moved)) <= {0, 3, 17, 2035, 2**31 - 1}
    np.testing.assert_array_equal(moved.reshape(-1)[clear & inside], labels[0][*place.round().astype(int)[clear & inside].T])
    assert not moved.reshape(-1)[clear & ~inside].any()


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int64, bool])
def test_interpolation_takes_every_real_dtype(dtype):
    grid = oblique((4, 5, 6))
    data = np.ones((1, *grid.shape), dtype)
    np.testing.assert_array_equal(geometry.resample(data, grid, geometry.coarsen(grid, (3, 7, 4))), 1)


def test_nan_stays_where_it_is():
    grid = oblique((4, 5, 6))
    data = noise(grid)
    data[0, -1, -1, -1] = np.nan
    big = Grid((20, 20, 20), grid.affine @ np.diag([0.7, 0.7, 0.7, 1]))
    moved = geometry.resample(data, grid, big)
    assert np.isnan(moved).any()
    assert not moved[0, 10:].any()  # outside there is nothing, so 0


@calm
@given(grids, st.tuples(*[st.floats(-0.4, 0.4)] * 3))
def test_orthonormalise_has_no_shear_and_covers_every_corner(grid, shears):
    xy, xz, yz = shears
    sheared = Grid(grid.shape, grid.affine @ np.array([[1, xy, xz, 0], [0, 1, yz, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    straight = geometry.orthonormalise(sheared)
    assert geometry.shear(straight.affine) < 1e-9
    np.testing.assert_allclose(straight.spacing, sheared.spacing)
    corners = np.array(list(itertools.product(*[(-0.5, n - 0.5) for n in grid.shape])))
    inverse = np.linalg.inv(straight.affine)
    inside = world(sheared, corners) @ inverse[:3, :3].T + inverse[:3, 3]
    assert (inside >= -0.5 - 1e-5).all()
    assert (inside <= np.array(straight.shape) - 0.5 + 1e-5).all()
    assert (np.ptp(inside, axis=0) > np.array(straight.shape) - 1 - 1e-5).all()  # and is no larger than that takes


@calm
@given(grids)
def test_orthonormalise_leaves_a_straight_grid_alone(grid):
    assert geometry.orthonormalise(grid) == grid


def test_shear_is_the_largest_cosine():
    affine = np.array([[2, 1, 0, 0], [0, np.sqrt(3), 0, 0], [0, 0, 5, 0], [0, 0, 0, 1]])  # 60 degrees
    assert math.isclose(geometry.shear(affine), 0.5)


@calm
@given(grids, orientations)
def test_an_image_is_a_volume_of_depth_one(grid, orientation):
    flat, deep = Grid(grid.shape[:2], grid.affine), Grid((*grid.shape[:2], 1), grid.affine)
    assert flat.spacing == deep.spacing[:2]
    assert flat.voxel_mm3 == deep.voxel_mm3
    assert flat.orientation == deep.orientation[:2]
    assert flat.voxel_mm3 * math.prod(flat.shape) == deep.voxel_mm3 * math.prod(deep.shape)
    data = noise(flat, channels=2)
    for change in (
        lambda g: geometry.centre(g, (6, 4, 1)[: len(g.shape)]),
        lambda g: geometry.coarsen(g, (9, 3, 1)[: len(g.shape)]),
        lambda g: geometry.respace(g, (0.9, 1.1, g.spacing[-1])[: len(g.shape)]),
    ):
        two, three = change(flat), change(deep)
        assert (*two.shape, 1) == three.shape
        np.testing.assert_allclose(two.affine, three.affine)
        moved = geometry.resample(data, flat, two)
        np.testing.assert_array_equal(moved, geometry.resample(data[..., None], deep, three)[..., 0])


@settings(max_examples=30, deadline=None)
@given(grids, shapes)
def test_upsample_is_resample_from_the_cells(grid, cells):
    relevance = torch.randn(2, 1, 3, *cells, generator=torch.Generator().manual_seed(1))
    fine = geometry.upsample(relevance, grid.shape)
    for t in range(2):
        slow = geometry.resample(relevance[t, 0].numpy(), geometry.coarsen(grid, cells), grid)
        np.testing.assert_allclose(fine[t, 0].numpy(), slow, atol=2e-4)


def test_upsample_of_the_same_shape_is_the_same_tensor():
    relevance = torch.randn(1, 1, 1, 4, 5)
    assert geometry.upsample(relevance, (4, 5)) is relevance


def test_equal_grids_differ_by_less_than_a_micrometre_at_the_far_corner():
    grid = oblique((101, 5, 6), seed=2)

    def changed(row: int, column: int, by: float) -> Grid:
        affine = grid.affine.copy()
        affine[row, column] += by
        return Grid(grid.shape, affine)

    assert grid == changed(1, 3, 0.9e-3)
    assert grid != changed(1, 3, 1.1e-3)
    assert grid == changed(2, 0, 0.9e-5)  # times 100 voxels
    assert grid != changed(2, 0, 1.1e-5)
    assert grid != changed(0, 0, math.nan)
    assert grid != Grid((101, 6, 5), grid.affine)
    assert grid != Grid((101, 5), grid.affine)
    assert grid != grid.shape
    with pytest.raises(TypeError, match="unhashable"):
        hash(grid)


@pytest.mark.parametrize("orientation", ["RAX", "RRS", "RA", "RASL", "", "ras", None, 5, ["R", "A", "S"]])
def test_a_bad_orientation_is_refused(orientation):
    with pytest.raises(BadInput, match="three letters, one of R/L"):
        geometry.reorient(oblique((2, 3, 4)), orientation)


def test_an_image_has_no_three_letters():
    with pytest.raises(BadInput, match="a 3D grid"):
        geometry.reorient(oblique((2, 3)), "RAS")


@pytest.mark.parametrize(
    ("affine", "message"),
    [
        (np.full((4, 4), np.nan), "finite .4, 4. affine"),
        (np.diag([1, np.inf, 1, 1]), "finite .4, 4. affine"),
        (np.eye(3), "finite .4, 4. affine"),
        (np.diag([1.0, 0, 1, 1]), "voxel size above zero"),
        (np.array([[1.0, 2, 0, 0], [1, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "can be inverted"),
        (np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [5, 6, 7, 1]]), "last row"),  # transposed by mistake
    ],
)
def test_a_bad_affine_is_refused(affine, message):
    with pytest.raises(BadInput, match=message):
        geometry.check_affine(affine)


@calm
@given(grids)
def test_every_good_affine_passes(grid):
    geometry.check_affine(grid.affine)


def test_a_grid_too_large_for_any_memory_is_refused():
    grid = oblique((100, 100, 100))
    with pytest.raises(BadInput, match="voxels"):
        geometry.resample(noise(Grid((2, 2, 2), grid.affine)), Grid((2, 2, 2), grid.affine), geometry.respace(grid, (1e-4,) * 3))


def test_a_grid_says_its_size_spacing_and_orientation():
    assert str(Grid((4, 5, 6), np.diag([-2, 1.5, 1, 1]))) == "4 x 5 x 6 voxels of 2 x 1.5 x 1 mm, LAS"
