"""A Volume is data with its place in the world, and refuses to be anything less."""

import numpy as np
import pytest
import torch

from radiolucent import geometry
from radiolucent.errors import BadInput
from radiolucent.geometry import Grid
from radiolucent.volume import Volume

AFFINE = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, -7], [0, 0, 1, 3], [0, 0, 0, 1]])


def volume(channels: int = 1, shape: tuple[int, ...] = (3, 4, 5)) -> Volume:
    data = np.random.default_rng(0).normal(size=(channels, *shape)).astype(np.float32)
    return Volume(data, AFFINE, notes=("read with care",))


@pytest.mark.parametrize("shape", [(4, 5), (0, 4, 5), (1, 4, 0), (1, 2, 3, 4, 5), ()])
def test_data_without_channels_or_voxels_is_refused(shape):
    with pytest.raises(BadInput, match=r"expected data of shape .channels, .grid.*Add a channel axis"):
        Volume(np.zeros(shape))


@pytest.mark.parametrize("data", [np.zeros((1, 3, 3), complex), np.full((1, 3, 3), "a"), np.full((1, 3, 3), None)])
def test_data_that_are_no_real_numbers_are_refused(data):
    with pytest.raises(BadInput, match="real numbers"):
        Volume(data)


@pytest.mark.parametrize("affine", [np.eye(3), np.zeros((4, 4)), "RAS", [[1, 2], [3]], AFFINE.T])
def test_a_bad_affine_is_refused(affine):
    with pytest.raises(BadInput, match="affine"):
        Volume(np.zeros((1, 3, 3)), affine)


def test_lists_and_tensors_become_arrays():
    tensor = torch.arange(12.0).reshape(1, 3, 4)
    assert Volume(tensor, AFFINE.tolist()) == Volume(tensor.numpy(), AFFINE)
    assert isinstance(Volume(tensor).data, np.ndarray)
    assert Volume([[[1, 2], [3, 4]]]).grid == Grid((2, 2), np.eye(4))


def test_the_affine_does_not_change_with_the_callers():
    mine = AFFINE.copy()
    kept = Volume(np.zeros((1, 3, 3)), mine)
    mine[0, 3] = 99
    np.testing.assert_array_equal(kept.affine, AFFINE)


def test_equality_asks_for_values_dtype_place_and_world():
    one = volume()
    assert one == Volume(one.data.copy(), AFFINE)
    assert one != Volume(one.data + 1, AFFINE)
    assert one != Volume(one.data.astype(float), AFFINE)
    assert one != Volume(one.data, np.eye(4))
    assert one != Volume(one.data, AFFINE, has_world=False)
    assert one != one.data.tolist()


def test_like_keeps_the_grid_and_refuses_another():
    one = volume()
    other = one.like(np.ones((2, 3, 4, 5), np.int16))
    assert other.grid == one.grid
    assert other.data.shape == (2, 3, 4, 5)
    assert not Volume(one.data, has_world=False).like(one.data).has_world
    with pytest.raises(BadInput, match=r"on the grid \(3, 4, 5\); got data of shape \(1, 3, 5, 4\).*Resample"):
        one.like(np.zeros((1, 3, 5, 4)))


def test_on_moves_data_and_takes_notes_and_world_along():
    one = Volume(volume(2).data, AFFINE, has_world=False, notes=("read with care",))
    target = geometry.centre(geometry.reorient(one.grid, "RAS"), (6, 5, 7))
    moved = one.on(target)
    assert moved.grid == target
    assert moved.notes == ("read with care",)
    assert not moved.has_world
    back = moved.on(one.grid)
    assert back == one  # the target is larger, so nothing is lost


def test_two_and_three_axes_do_not_mix():
    with pytest.raises(BadInput, match="a grid of 3 axes; got 4 x 5 voxels"):
        volume().on(Grid((4, 5), np.eye(4)))
    with pytest.raises(BadInput, match="a grid of 2 axes"):
        volume(shape=(4, 5)).on(Grid((4, 5, 6), np.eye(4)))


def test_notes_add_up():
    assert volume().noted("a", "b").notes == ("read with care", "a", "b")
    assert volume().noted("a") == volume()


def test_repr_says_what_it_is():
    assert repr(volume(2)) == "Volume(2 x 3 x 4 x 5 voxels of 1.5 x 2 x 1 mm, ALS, float32)"
