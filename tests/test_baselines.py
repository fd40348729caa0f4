"""Reference inputs against their definitions, voxel by voxel."""

import math

import pytest
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor
from worlds import image

from radiolucent import BadInput
from radiolucent.baselines import BASELINES, baseline, hide

both_axes = pytest.mark.parametrize("axes", [2, 3])


def literal(name: str, x: Tensor) -> Tensor:
    """Item by item and channel by channel."""
    truth = torch.empty_like(x)
    draw = torch.rand((1, *x.shape[1:]), generator=torch.Generator().manual_seed(0))[0]
    for b in range(x.shape[0]):
        for c in range(x.shape[1]):
            values = x[b, c].flatten().tolist()
            low, high = min(values), max(values)
            if name == "blur":
                smooth = x[b, c].double().numpy()
                for axis, size in enumerate(smooth.shape):
                    radius = round(3 * size / 8)
                    smooth = gaussian_filter1d(smooth, size / 8, axis=axis, mode="nearest", radius=radius)
                truth[b, c] = torch.from_numpy(smooth)
            else:
                constant = {"zero": 0.0, "minimum": low, "mean": math.fsum(values) / len(values)}
                truth[b, c] = low + (high - low) * draw[c] if name == "noise" else constant[name]
    return truth


@both_axes
@pytest.mark.parametrize("name", BASELINES)
def test_baselines_are_what_they_say(name: str, axes: int) -> None:
    x = image(axes, channels=2) * torch.tensor([1.0, 5.0]).reshape(1, 2, *[1] * axes) - 0.3
    x[1] *= 2
    given = x.clone()
    found = baseline(name, x)
    assert found.shape == x.shape
    assert ((found - literal(name, x)).abs().max() <= 1e-5).item()
    assert torch.equal(x, given)
    assert torch.equal(baseline(name, x), found)
    found += 1  # it is the caller's own
    assert torch.equal(x, given)


@both_axes
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_constant_image_has_no_structure_to_lose(dtype: torch.dtype, axes: int) -> None:
    x = torch.full((1, 2, *(7, 10, 3)[:axes]), 0.75, dtype=dtype)
    for name in ("minimum", "mean", "blur", "noise"):
        found = baseline(name, x)
        assert found.dtype == dtype
        assert (found.double() - 0.75).abs().max() <= 4 * torch.finfo(dtype).eps


def test_blur_keeps_a_blob_where_it_is() -> None:
    x = torch.zeros(1, 1, 17, 17, 17)
    x[..., 7, 8, 9] = 1
    found = baseline("blur", x)
    assert found.argmax() == x.argmax()
    assert abs(found.sum().item() - 1) <= 1e-4
    assert found.max() < 0.1


def test_noise_is_the_same_for_every_item_and_stays_in_range() -> None:
    x = image(2, batch=1).expand(3, -1, -1, -1)
    found = baseline("noise", x)
    assert torch.equal(found[0], found[2])
    assert x.min() <= found.min() < found.max() <= x.max()


def test_an_unknown_baseline_lists_the_known_ones() -> None:
    with pytest.raises(BadInput, match="a baseline among zero, minimum, mean, blur, noise; got 'black'"):
        baseline("black", image(2))


def test_hiding_blends_from_the_image_to_the_reference() -> None:
    x, reference = image(3), image(3, seed=2)
    where = torch.zeros(x.shape[2:])
    where[2:5, 3], where[0, 0, 0] = 1, 0.25
    found = hide(x, where, reference)
    assert torch.equal(found[:, :, 2:5, 3], reference[:, :, 2:5, 3])
    assert torch.allclose(found[:, :, 0, 0, 0], 0.75 * x[:, :, 0, 0, 0] + 0.25 * reference[:, :, 0, 0, 0])
    assert torch.equal(found[:, :, 6:], x[:, :, 6:])
    assert torch.equal(hide(x, where > 0.5, reference)[:, :, 2:5, 3], reference[:, :, 2:5, 3])
