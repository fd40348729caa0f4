"""SmoothGrad, products and guided Grad-CAM, re-derived from the methods they are made of."""

import pytest
import torch
from torch import Tensor, nn
from worlds import ConvNet, Linear, image, relative, segmenter

from radiolucent import BadInput, Logits, Outputs, Region
from radiolucent.methods import (
    GradCAM,
    Gradient,
    GuidedBackprop,
    GuidedGradCAM,
    HiResCAM,
    InputXGradient,
    IntegratedGradients,
    SmoothGrad,
    Times,
    at_layer,
)
from radiolucent.protocols import Method

both_axes = pytest.mark.parametrize("axes", [2, 3])


@both_axes
def test_smooth_grad_is_the_mean_gradient_over_noisy_copies(axes: int) -> None:
    net, x = ConvNet(axes, channels=2).eval(), image(axes, channels=2, size=8)
    x[1] *= 3  # another range, so another noise
    draws = torch.Generator().manual_seed(5)
    truth = torch.zeros_like(x)
    for _ in range(4):
        e = torch.randn((1, *x.shape[1:]), generator=draws)
        for b in range(len(x)):
            noisy = (x[b : b + 1] + 0.2 * (x[b].max() - x[b].min()) * e).requires_grad_()
            truth[b] += torch.autograd.grad(net(noisy)[0, 1], noisy)[0][0] / 4
    assert relative(SmoothGrad(samples=4, noise=0.2, seed=5)(net, x, Logits(1))[0], truth) <= 1e-5


@both_axes
@pytest.mark.parametrize("of", [Gradient(), InputXGradient(), IntegratedGradients(3), HiResCAM("conv1")], ids=repr)
def test_smooth_grad_without_noise_is_its_inner_method(of: Method, axes: int) -> None:
    net, x = ConvNet(axes).eval(), image(axes, size=8)
    assert relative(SmoothGrad(of, samples=3, noise=0)(net, x, Logits(0, 1)), of(net, x, Logits(0, 1))) <= 1e-6
    assert SmoothGrad(of).unit == of.unit


def test_smooth_grad_of_a_linear_model_is_its_gradient() -> None:
    x = image(3, size=6)
    net = Linear(x.shape[1:])
    assert relative(SmoothGrad(samples=2)(net, x, Outputs()), Gradient()(net, x, Outputs())) <= 1e-6


def test_another_seed_is_other_noise() -> None:
    net, x = ConvNet(2).eval(), image(2, size=8)
    one, other = (SmoothGrad(samples=2, seed=seed)(net, x, Logits(0)) for seed in (0, 1))
    assert relative(one, other) > 1e-3


def test_smooth_grad_keeps_a_region_where_it_was() -> None:
    x = image(2, batch=1, size=8)
    net = segmenter(2, x)
    targets = Region(1).fix(net(x))
    draws = torch.Generator().manual_seed(0)
    inside, truth = net(x).argmax(1) == 1, torch.zeros_like(x)
    for _ in range(3):
        noisy = (x + 0.5 * (x.max() - x.min()) * torch.randn(x.shape, generator=draws)).requires_grad_()
        assert not torch.equal(net(noisy).argmax(1) == 1, inside), "this world needs a prediction that moves"
        truth += torch.autograd.grad(net(noisy)[:, 1][inside].sum(), noisy)[0] / 3
    assert relative(SmoothGrad(samples=3, noise=0.5)(net, x, targets)[0], truth) <= 1e-5


def test_smooth_grad_refuses_whole_numbers_that_noise_would_not_reach() -> None:
    with pytest.raises(BadInput, match=r"floating-point numbers; got torch.int16"):
        SmoothGrad(GradCAM("conv2"))(ConvNet(2), image(2).to(torch.int16), Logits(0))


@both_axes
def test_a_product_lies_on_the_images_grid(axes: int) -> None:
    net, x = ConvNet(axes).eval(), image(axes, size=8)
    first, second = InputXGradient(), HiResCAM("conv2")
    mode = {2: "bilinear", 3: "trilinear"}[axes]
    fine = [nn.functional.interpolate(r, x.shape[2:], mode=mode) for r in second(net, x, Logits(0, 1))]
    truth = first(net, x, Logits(0, 1)) * torch.stack(fine)
    assert relative(Times(first, second)(net, x, Logits(0, 1)), truth) <= 1e-6
    assert relative(Times(second, first)(net, x, Logits(0, 1)), truth) <= 1e-6
    assert Times(first, second).unit == "score x score (features x gradient)"


@both_axes
def test_guided_grad_cam_is_the_product_of_its_two_parts(axes: int) -> None:
    net, x = ConvNet(axes, "inplace").eval(), image(axes, size=8)
    targets = Logits(*range(4))
    mode = {2: "bilinear", 3: "trilinear"}[axes]
    coarse: list[Tensor] = [nn.functional.interpolate(r, x.shape[2:], mode=mode) for r in GradCAM("conv2")(net, x, targets)]
    truth = GuidedBackprop()(net, x, targets) * torch.stack(coarse)
    assert relative(GuidedGradCAM("conv2")(net, x, targets), truth) <= 1e-6


def test_auto_is_resolved_at_any_depth() -> None:
    nested = SmoothGrad(Times(GuidedGradCAM(), SmoothGrad(GradCAM())), samples=2)
    assert at_layer(nested, "conv1") == SmoothGrad(Times(GuidedGradCAM("conv1"), SmoothGrad(GradCAM("conv1"))), samples=2)
    assert at_layer(GradCAM("conv2"), "conv1") == GradCAM("conv2")
    assert at_layer(Gradient(), "conv1") == Gradient()
