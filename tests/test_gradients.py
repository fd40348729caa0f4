"""Gradient, InputXGradient and IntegratedGradients against captum, closed forms and symmetries."""

import copy
import itertools
import warnings

import captum.attr as captum
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from worlds import RELU_STYLES, Bright, ConvNet, Linear, Mean, Returns, convolution, image, relative, segmenter

from radiolucent import BadInput, Contrast, Logits, Outputs, Region
from radiolucent.baselines import BASELINES
from radiolucent.hooks import look
from radiolucent.methods import GradCAM, Gradient, GuidedBackprop, HiResCAM, InputXGradient, IntegratedGradients, LayerCAM
from radiolucent.protocols import Method
from radiolucent.targets import Select

both_axes = pytest.mark.parametrize("axes", [2, 3])


def peer(method: Method, net: nn.Module, x: Tensor, output: int) -> Tensor:
    """What captum says."""
    x = x.clone().requires_grad_()
    if isinstance(method, Gradient):
        return captum.Saliency(net).attribute(x, target=output, abs=False).detach()
    if isinstance(method, InputXGradient):
        return captum.InputXGradient(net).attribute(x, target=output).detach()
    kind = captum.IntegratedGradients(net)
    return kind.attribute(x, baselines=0, target=output, n_steps=20, method="gausslegendre").detach().float()


def same_weights(axes: int, relu: str, channels: int = 1) -> tuple[nn.Module, nn.Module]:
    """A ConvNet in plain style, and its twin in another."""
    plain, styled = (ConvNet(axes, style, channels=channels).eval() for style in ("module", relu))
    styled.load_state_dict(plain.state_dict())
    return plain, styled


@both_axes
@pytest.mark.parametrize("relu", RELU_STYLES)
@pytest.mark.parametrize("method", [Gradient(), InputXGradient(), IntegratedGradients(20)], ids=repr)
def test_gradients_equal_captums_however_relu_is_written(method: Method, relu: str, axes: int) -> None:
    plain, styled = same_weights(axes, relu, channels=2)
    x = image(axes, channels=2, size=8)
    found = method(styled, x, Logits(0, 3))
    assert relative(found[0], peer(method, plain, x, 0)) <= 1e-5
    assert relative(found[1], peer(method, plain, x, 3)) <= 1e-5


@pytest.mark.parametrize(("kind", "key"), [("dict", "logits"), ("tuple", 0), ("list", 0), ("list", -2)])
def test_a_model_that_returns_more_than_a_tensor_is_served_by_a_selector(kind: str, key: str | int) -> None:
    net, x = ConvNet(3).eval(), image(3, size=8)
    found = Gradient()(Returns(net, kind), x, Select(key, Logits(1)))
    assert torch.equal(found, Gradient()(net, x, Logits(1)))


@both_axes
def test_a_linear_model_has_its_weights_as_gradient(axes: int) -> None:
    x = image(axes, channels=2, size=6)
    net = Linear(x.shape[1:])
    w = net.weight.detach()[:, None].expand(-1, len(x), *x.shape[1:])
    assert torch.equal(Gradient()(net, x, Outputs()), w)
    assert torch.equal(InputXGradient()(net, x, Outputs()), w * x)
    assert relative(IntegratedGradients(2)(net, x, Outputs()), w * x) <= 1e-6
    assert relative(Gradient()(net, x, Contrast(2, 1))[0], w[2] - w[1]) <= 1e-6


@both_axes
@pytest.mark.parametrize("baseline", BASELINES)
def test_integrated_gradients_share_out_the_change_of_the_score(baseline: str, axes: int) -> None:
    net, x = ConvNet(axes).double().eval(), image(axes, size=8).double()
    relevance = IntegratedGradients(200, baseline)(net, x, Logits(0, 1, 2, 3)).flatten(2)
    with torch.no_grad():
        change = (net(x) - net(BASELINES[baseline](x))).T
    # Behind a ReLU the integrand has steps, which the quadrature meets to about 1/n of what is moved.
    assert ((relevance.sum(-1) - change).abs() <= 2e-3 * relevance.abs().sum(-1)).all()


def test_integrated_gradients_of_a_linear_model_start_at_the_baseline() -> None:
    x = image(2, size=6)
    net = Linear(x.shape[1:])
    for name, reference in BASELINES.items():
        truth = net.weight.detach()[:, None] * (x - reference(x))
        assert relative(IntegratedGradients(3, name)(net, x, Outputs()), truth) <= 1e-5


def test_a_smooth_score_is_integrated_exactly_by_few_points() -> None:
    class Cube(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x**3).flatten(1).sum(1)

    x = image(2, size=6).double()
    # dS/dx is a square, which two Gauss-Legendre points integrate exactly: R = x * x^2.
    assert relative(IntegratedGradients(2)(Cube(), x, Outputs(0))[0], x**3) <= 1e-12
    assert relative(IntegratedGradients(1)(Cube(), x, Outputs(0))[0], x * 3 * (x / 2) ** 2) <= 1e-12


def test_integrated_gradients_refuse_what_they_cannot_do() -> None:
    net, x = ConvNet(2), image(2)
    with pytest.raises(BadInput, match=r"floating-point numbers; got torch.uint8.*perturbation"):
        IntegratedGradients()(net, (x * 255).to(torch.uint8), Logits(0))


def test_the_region_of_integrated_gradients_does_not_move_with_the_path() -> None:
    x = image(2, batch=1, size=8)
    net = segmenter(2, x)
    targets = Region(1, 2).fix(net(x))
    truth = torch.zeros(2, *x.shape)
    places = torch.tensor([0.5 - (3 / 5) ** 0.5 / 2, 0.5, 0.5 + (3 / 5) ** 0.5 / 2])
    inside = net(x).argmax(1)
    assert not torch.equal(inside, net(places[0] * x).argmax(1)), "this world needs a prediction that moves"
    for a, weight in zip(places, (5 / 18, 8 / 18, 5 / 18), strict=True):
        point = (a * x).requires_grad_()
        logits = net(point)
        for t, label in enumerate((1, 2)):
            S = logits[:, label][inside == label].sum()
            truth[t] += weight * x * torch.autograd.grad(S, point, retain_graph=True)[0]
    assert relative(IntegratedGradients(3)(net, x, targets), truth) <= 1e-5


def test_a_dark_voxel_gets_nothing_and_a_bright_one_its_share() -> None:
    net, x = Bright(3), torch.full((1, 1, 4, 6, 5), 0.2)
    x[0, 0, 1, 4, 2] = 0.9
    for method, share in {Gradient(): 1.0, InputXGradient(): 0.9, IntegratedGradients(400): 0.4}.items():
        relevance = method(net, x, Logits(0, 1))
        expected = torch.zeros_like(x)
        expected[0, 0, 1, 4, 2] = share
        assert relative(relevance, torch.stack([expected, -expected])) <= 5e-3


def turned(net: nn.Module, change) -> nn.Module:
    """The net that sees the changed image as this one sees the image."""
    other = copy.deepcopy(net)
    for layer in (other.conv1, other.conv2):
        layer.weight = nn.Parameter(change(layer.weight.detach()))
    return other


LOCAL = [
    Gradient(),
    IntegratedGradients(4, "blur"),
    GuidedBackprop(),
    *(cam("conv1") for cam in (GradCAM, HiResCAM, LayerCAM)),
]


def same_in_both_worlds(method: Method, axes: int, seed: int, change) -> None:
    """The map of the changed image by the changed net is the changed map."""
    torch.manual_seed(seed)
    net, x = ConvNet(axes).double().eval(), image(axes, size=8, seed=seed).double()
    maps = method(net, x, Logits(0, 1))
    found = method(turned(net, change), change(x), Logits(0, 1))
    assert torch.allclose(found, change(maps), rtol=1e-9, atol=1e-9 * float(maps.abs().max()))


@given(st.sampled_from(LOCAL), st.sampled_from([2, 3]), st.sets(st.integers(0, 2), min_size=1), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_a_mirrored_world_has_mirrored_maps(method: Method, axes: int, flipped: set[int], seed: int) -> None:
    flipped = {a for a in flipped if a < axes} or {0}
    same_in_both_worlds(method, axes, seed, lambda t: t.flip([t.ndim - axes + a for a in flipped]))


@given(st.sampled_from(LOCAL), st.sampled_from([p for n in (2, 3) for p in itertools.permutations(range(n))]), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_a_world_with_swapped_axes_has_swapped_maps(method: Method, order: tuple[int, ...], seed: int) -> None:
    def change(t: Tensor) -> Tensor:
        lead = t.ndim - len(order)
        return t.permute(*range(lead), *(lead + o for o in order)).contiguous()

    same_in_both_worlds(method, len(order), seed, change)


@pytest.mark.parametrize("method", LOCAL, ids=repr)
def test_a_volume_of_one_slice_is_an_image(method: Method) -> None:
    flat = ConvNet(2).eval()
    deep = copy.deepcopy(flat)
    for name in ("conv1", "conv2"):
        layer = getattr(flat, name)
        thick = nn.Conv3d(layer.in_channels, layer.out_channels, (1, 3, 3), padding=(0, 1, 1))
        thick.weight, thick.bias = nn.Parameter(layer.weight.detach().unsqueeze(2)), layer.bias
        setattr(deep, name, thick)
    deep.pool = nn.MaxPool3d((1, 2, 2))
    x = image(2, size=8)
    found = method(deep, x.unsqueeze(2), Logits(0, 1))
    assert relative(found.squeeze(3), method(flat, x, Logits(0, 1))) <= 1e-5


def monai_resnet(axes: int) -> nn.Module:
    from monai.networks.nets import ResNet

    return ResNet(
        "basic", [2, 2, 2, 2], [8, 16, 24, 32], spatial_dims=axes, n_input_channels=1, num_classes=3, conv1_t_size=3
    ).eval()


@both_axes
def test_monais_resnet_has_captums_gradients(axes: int) -> None:
    net, x = monai_resnet(axes), image(axes, size=20)
    for method in (Gradient(), InputXGradient()):
        assert relative(method(net, x, Logits(2))[0], peer(method, net, x, 2)) <= 1e-5
    cam = GradCAM("layer3")(net, x, Logits(2))[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        truth = captum.LayerGradCam(net, net.layer3).attribute(x, target=2, relu_attributions=True)
    assert relative(cam, truth.detach()) <= 1e-5


def test_monais_unet_is_explained_in_its_regions() -> None:
    from monai.networks.nets import BasicUNet

    net = BasicUNet(3, 1, 3, features=(4, 4, 8, 8, 8, 4), upsample="nontrainable").eval()
    x = torch.rand(1, 1, 32, 32, 32)
    output, ran = look(net, x)
    labels = output.argmax(1).unique().tolist()
    targets = Region(*labels, reduce="mean").fix(output)
    point = x.clone().requires_grad_()
    logits = net(point)
    truth = [torch.autograd.grad(logits[:, l][output.argmax(1) == l].mean(), point, retain_graph=True)[0] for l in labels]
    assert relative(Gradient()(net, x, targets), torch.stack(truth)) <= 1e-5
    assert [layer.name for layer in ran if layer.is_output] == ["final_conv"]


def test_a_mean_head_is_the_same_for_every_voxel() -> None:
    net = nn.Sequential(convolution(2)(1, 1, 1, bias=False), Mean())
    relevance = Gradient()(net, image(2, size=6), Outputs(0))
    assert relative(relevance, net[0].weight.detach().expand_as(relevance) / relevance[0, 0].numel()) <= 1e-6
