"""Gradient quantile against single voxels' gradients, taken one by one."""

import pytest
import torch
from torch import Tensor, nn
from worlds import ConvNet, Returns, image, relative, segmenter

from radiolucent import BadInput, Logits, Region
from radiolucent.methods import Gradient, GradientQuantile
from radiolucent.methods.quantile import _Voxels, _weights
from radiolucent.targets import Select
from radiolucent.tiling import Tiled

both_axes = pytest.mark.parametrize("axes", [2, 3])


def single(net: nn.Module, x: Tensor, label: int, mask: Tensor) -> Tensor:
    """df_label[v]/dx of one image, for each voxel v of the mask (*grid): (voxels, 1, c, *grid)."""
    x = x.clone().requires_grad_()
    logits = net(x)[0, label][mask]
    return torch.stack([torch.autograd.grad(l, x, retain_graph=True)[0] for l in logits])


@both_axes
@pytest.mark.parametrize("q", [0.0, 0.85, 0.96])
def test_all_voxels(q: float, axes: int) -> None:
    x = image(axes, 2, size=6)
    net = segmenter(axes, x)
    targets = Region(1, 2).fix(net(x))
    found = GradientQuantile(q, samples=10_000)(net, x, targets)
    for t, label in enumerate((1, 2)):
        for i in range(2):
            each = single(net, x[i : i + 1], label, targets.mask[i] == label)
            assert relative(found[t, i], each.quantile(q, 0)[0]) <= 1e-5
    mean = GradientQuantile(q, samples=10_000)(net, x, Region(1, reduce="mean").fix(net(x)))
    voxels = (targets.mask == 1).flatten(1).sum(1).reshape(-1, *[1] * (axes + 1))
    assert relative(mean[0], found[0] / voxels) <= 1e-5


def test_a_sample_is_some_of_them_and_tends_to_all() -> None:
    x = image(2, 1, size=12)
    net = segmenter(2, x)
    targets = Region(1).fix(net(x))
    each = single(net, x, 1, targets.mask[0] == 1)
    one = GradientQuantile(samples=1, seed=3)(net, x, targets)[0]
    assert (each - one).flatten(1).abs().amax(1).min() <= 1e-6
    assert not torch.equal(one, GradientQuantile(samples=1, seed=4)(net, x, targets)[0])
    most = GradientQuantile(0.5, samples=len(each) - 2)(net, x, targets)[0, 0]
    assert (most - each.median(0).values[0]).abs().max() <= 0.3 * each.abs().max()


def test_its_voxels_add_up_to_the_gradient() -> None:
    x = image(2, 2, size=6)
    net = segmenter(2, x)
    targets = Region(0, reduce="probability").fix(net(x))
    (weights,) = _weights(net, x, targets)
    sums = Gradient()(net, x, _Voxels(weights, 10_000, 0)).sum(0)
    assert relative(sums, Gradient()(net, x, targets)[0]) <= 1e-4


def test_a_logit_is_its_own_quantile_and_a_part_of_a_dict_serves() -> None:
    net, x = ConvNet(2).eval(), image(2)
    assert relative(GradientQuantile()(net, x, Logits(2, 1)), Gradient()(net, x, Logits(2, 1))) <= 1e-6
    inside = GradientQuantile()(Returns(net, "dict"), x, Select("logits", Logits(2)))
    assert relative(inside, Gradient()(net, x, Logits(2))) <= 1e-6


def test_window_by_window_it_is_the_same() -> None:
    x = image(2, 1, size=8)
    tiled = Tiled(segmenter(2, x), 6, 0.5)
    targets = Region(1, 2).fix(tiled(x))
    each = torch.stack([single(tiled, x, label, targets.mask[0] == label).quantile(0.9, 0) for label in (1, 2)])
    assert relative(GradientQuantile(samples=10_000)(tiled, x, targets), each) <= 1e-5


def test_a_quantile_above_1_is_refused() -> None:
    with pytest.raises(BadInput, match=r"0 <= quantile <= 1; got 1\.5"):
        GradientQuantile(1.5)
