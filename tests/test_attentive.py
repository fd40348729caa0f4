"""Attentive responses: equation 2 written out with transposed convolutions and unpooling is the truth."""

import itertools
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from worlds import RELU_STYLES, ConvNet, Mean, Segmenter, Transformer, convolution, image, relative

from radiolucent import BadInput, InputWarning, Logits, Region, Volume, explain
from radiolucent.errors import Nothing
from radiolucent.methods import CLEAR, AttentiveResponse, from_dict
from radiolucent.methods.attentive import dominant_class

CONV = {2: F.conv2d, 3: F.conv3d}
BACK = {2: F.conv_transpose2d, 3: F.conv_transpose3d}
POOL = {2: F.max_pool2d, 3: F.max_pool3d}
UNPOOL = {2: F.max_unpool2d, 3: F.max_unpool3d}

RULES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "forward": lambda r, x: r * (x > 0),
    "backward": lambda r, x: r.clamp(min=0),
    "both": lambda r, x: r.clamp(min=0) * (x > 0),
    "none": lambda r, x: r,
}


class Written(nn.Module):
    """conv - (relu) - pool - conv - (relu) - pool - conv - (relu), then a global mean and a linear layer."""

    def __init__(self, axes: int, relu: bool, channels: int = 1) -> None:
        super().__init__()
        widths = (channels, 5, 6, 7)
        self.convs = nn.ModuleList(
            convolution(axes)(a, b, 3, padding=1, stride=1 + (i == 1)) for i, (a, b) in enumerate(itertools.pairwise(widths))
        )
        self.axes, self.relu = axes, relu
        self.last = nn.Identity()
        self.head = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        for i, conv in enumerate(self.convs):
            x = conv(x)
            x = x.relu() if self.relu else x
            x = POOL[self.axes](x, 2) if i == 0 else x
        return self.head(self.last(x).flatten(2).mean(2))


@torch.no_grad()
def literal(net: Written, x: Tensor, unit: int, rule: str) -> tuple[Tensor, Tensor]:
    """z_L of one image, and R(x|f) = G_1 U_1 G_2 G_3^f z_L with all units of z_L but one at zero."""
    axes, h = net.axes, x
    entered, before, where, size = [], [], None, None
    for i, conv in enumerate(net.convs):
        entered.append(h)
        before.append(CONV[axes](h, conv.weight, conv.bias, stride=conv.stride, padding=1))
        h = before[-1].clamp(min=0) if net.relu else before[-1]
        if i == 0:
            size = h.shape[2:]
            h, where = POOL[axes](h, 2, return_indices=True)
    z = h if rule == "none" else h.clamp(min=0)
    r = z * (torch.arange(z.shape[1]) == unit).reshape(1, -1, *[1] * axes)
    for i in (2, 1, 0):
        if i == 0:
            r = UNPOOL[axes](r, where, 2, output_size=size)
        r = RULES[rule](r, before[i]) if net.relu else r
        stride = net.convs[i].stride[0]
        left = tuple(n - ((m - 1) * stride + 1) for n, m in zip(entered[i].shape[2:], r.shape[2:], strict=True))
        r = BACK[axes](r, net.convs[i].weight, stride=stride, padding=1, output_padding=left)
    return z, r.sum(1)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("axes", [2, 3])
def test_it_is_equation_2_written_out(axes: int, relu: bool, rule: str) -> None:
    net, x = Written(axes, relu, channels=2).eval(), image(axes, batch=1, size=14, channels=2)
    found = AttentiveResponse("last", n=3, rectification=rule).responses(net, x, Logits(0))
    z, _ = literal(net, x, -1, rule)
    order = z[0].flatten(1).sum(1).argsort(descending=True)[:3]
    assert found.units[0, 0].tolist() == order.tolist()
    truths = []
    for rank, unit in enumerate(order.tolist()):
        _, truth = literal(net, x, unit, rule)
        assert relative(found.maps[0, :, rank], truth) <= 1e-5
        truths.append(truth)
    every = torch.stack(truths)
    assert relative(found.dominant[0], every.amax(0)) <= 1e-5
    assert torch.equal(found.labels[0], order[every.argmax(0)])
    alone = AttentiveResponse("last", n=3, rectification=rule)(net, x, Logits(0, 2))
    assert alone.shape == (2, 1, 1, *x.shape[2:])
    assert torch.equal(alone[0, :, 0], found.dominant[0])
    assert torch.equal(alone[0], alone[1]), "the ranking does not know the target"


def test_the_rules_differ_where_there_is_a_relu() -> None:
    net, x = Written(2, True).eval(), image(2, batch=1)
    maps = [AttentiveResponse("last", n=3, rectification=rule)(net, x, Logits(0)) for rule in RULES]
    for i, one in enumerate(maps):
        for other in maps[:i]:
            assert relative(one, other) > 0.05


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("relu", RELU_STYLES)
def test_every_way_to_write_a_relu_is_the_same(relu: str, rule: str) -> None:
    plain, styled = (ConvNet(2, style).eval() for style in ("module", relu))
    styled.load_state_dict(plain.state_dict())
    x, method = image(2), AttentiveResponse("conv2", n=4, rectification=rule)
    assert relative(method(styled, x, Logits(1)), method(plain, x, Logits(1))) <= 1e-6


class Mixed(nn.Module):
    """Strides, mean pooling, batch norm, a residual and a skip connection; `act` is what stands for each ReLU."""

    def __init__(self, axes: int, act: type[nn.Module]) -> None:
        super().__init__()
        conv, norm = convolution(axes), {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[axes]
        self.first, self.norm = conv(1, 4, 3, padding=1, stride=2), norm(4)
        self.second, self.third = conv(4, 4, 3, padding=1), conv(8, 6, 1)
        self.pool = {2: nn.AvgPool2d, 3: nn.AvgPool3d}[axes](2)
        self.acts = nn.ModuleList(act() for _ in range(3))
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.acts[0](self.norm(self.first(x)))
        h = torch.cat([h, self.acts[1](self.second(h) + h)], 1)
        return self.head(self.acts[2](self.third(self.pool(h))).flatten(2).mean(2))


@pytest.mark.parametrize("axes", [2, 3])
def test_strides_norms_and_skips_are_projected_through(axes: int) -> None:
    """ "none": the transpose of the network without ReLUs. "forward": the gradient of half the sum of z_f^2."""
    net, linear = Mixed(axes, nn.ReLU).eval(), Mixed(axes, nn.Identity).eval()
    for norm in (net.norm,):
        norm.running_mean.uniform_(-0.5, 0.5)
        norm.running_var.uniform_(0.5, 2)
        norm.weight.data.uniform_(0.5, 2)
    linear.load_state_dict(net.state_dict())
    x = image(axes, batch=1, size=12)
    z = _output(net, x.clone(), "acts.2").detach()
    for rule in ("none", "forward"):
        found = AttentiveResponse("acts.2", n=2, rectification=rule).responses(net, x, Logits(0))
        for rank, unit in enumerate(found.units[0, 0].tolist()):
            start = x.clone().requires_grad_()
            if rule == "none":
                (truth,) = torch.autograd.grad(_output(linear, start, "acts.2")[0, unit], start, z[0, unit])
            else:
                (truth,) = torch.autograd.grad(_output(net, start, "acts.2")[0, unit].square().sum() / 2, start)
            assert relative(found.maps[0, :, rank], truth.sum(1)) <= 1e-5


def _output(net: nn.Module, x: Tensor, layer: str) -> Tensor:
    kept: list[Tensor] = []
    handle = net.get_submodule(layer).register_forward_hook(lambda module, args, output: kept.append(output))
    net(x)
    handle.remove()
    return kept[0]


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("ranking", ["sum", "max", "score"])
def test_the_units_are_ranked_by_what_it_says_in_chunks_of_any_size(ranking: str, batch: int) -> None:
    net, x = ConvNet(3).eval(), image(3)
    method = AttentiveResponse("act2", n=5, ranking=ranking, batch=batch)
    found = method.responses(net, x, Logits(1, 2))
    A = _output(net.requires_grad_(False), x, "act2")
    for t, output in enumerate((1, 2)):
        gradient = net.head.weight[output] / A[0, 0].numel()
        value = {"sum": A.flatten(2).sum(2), "max": A.flatten(2).amax(2), "score": A.flatten(2).sum(2) * gradient}[ranking]
        for item in range(2):
            order = value[item].argsort(descending=True)[:5]
            expected = [int(u) if value[item, u] > 0 else -1 for u in order]
            assert found.units[t, item].tolist() == expected
            assert relative(found.values[t, item], value[item, order].clamp(min=0)) <= 1e-5
    assert (ranking == "score") != torch.equal(found.dominant[0], found.dominant[1])
    whole = AttentiveResponse("act2", n=5, ranking=ranking).responses(net, x, Logits(1, 2))
    assert relative(found.maps, whole.maps) <= 1e-5
    assert torch.equal(found.labels, whole.labels)
    kept = torch.where((found.units >= 0)[..., None, None, None], found.maps, -torch.inf)
    assert torch.equal(found.dominant, kept.amax(2))
    assert torch.equal(
        found.labels, found.units.reshape(2, 2, 5, 1, 1, 1).expand_as(found.maps).gather(2, kept.argmax(2)[:, :, None])[:, :, 0]
    )


class Pointwise(nn.Module):
    """Four units that each see one pixel: z_f = relu(w_f x + b_f)."""

    def __init__(self, weight: list[float], bias: list[float]) -> None:
        super().__init__()
        self.see = nn.Conv2d(1, len(weight), 1)
        self.see.weight.data[:, 0, 0, 0] = torch.tensor(weight)
        self.see.bias.data[:] = torch.tensor(bias)
        self.act = nn.ReLU()
        self.head = nn.Linear(len(weight), 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.see(x)).flatten(2).mean(2))


def test_in_a_world_of_single_pixels_every_winner_is_known() -> None:
    net = Pointwise([1.0, -1.0, 3.0, 5.0], [0.0, 1.0, -1.5, -9.0])  # bright, dark, very bright, never
    x = torch.tensor([0.1, 0.4, 0.6, 0.9]).reshape(1, 1, 2, 2)
    with pytest.warns(InputWarning, match="layer 'act' has 4 units: all are taken, instead of n = 25"):
        found = AttentiveResponse("act").responses(net, x, Logits(0))
    assert sorted(found.units[0, 0].tolist()) == [-1, 0, 1, 2], "unit 3 is not active"
    # R(x|0) = x, R(x|1) = -(1 - x), R(x|2) = 3 (3 x - 1.5) where positive
    truth = torch.tensor([[0.1, 0.4], [0.9, 3.6]])
    assert relative(found.dominant[0, 0], truth) <= 1e-5
    assert found.labels[0, 0].tolist() == [[0, 0], [2, 2]]


def test_a_unit_that_is_not_active_in_one_image_does_not_win_there() -> None:
    net = Pointwise([1.0, -1.0, 3.0], [-0.5, 1.0, -1.5])
    x = torch.tensor([[0.1, 0.2], [0.7, 0.9]]).reshape(2, 1, 1, 2)  # only unit 1 is active in the first image
    found = AttentiveResponse("act", n=3).responses(net, x, Logits(0))
    assert relative(found.dominant[0, 0], torch.tensor([[-0.9, -0.8]])) <= 1e-5
    assert (found.labels[0, 0] == 1).all()
    assert (found.labels[0, 1] == 2).all()


def test_an_explanation_keeps_the_units() -> None:
    net = Pointwise([1.0, -1.0, 3.0, 5.0], [0.0, 0.9, -1.5, -9.0])
    scan = Volume(np.array([[[0.1, 0.4], [0.6, 0.9]]], np.float32))
    found = explain(net, scan, AttentiveResponse("act", n=2, ranking="max"), Logits(0, 1))
    said = found.provenance["details"][1]
    assert said["units"] == [2, 0]
    assert said["max"] == pytest.approx([1.2, 0.9])
    assert said["share_of_pixels"] == [0.5, 0.5]
    json.dumps(said)


def test_what_cannot_be_projected_is_refused_in_words() -> None:
    x = image(2, batch=1)
    dead = Pointwise([1.0, 1.0], [-9.0, -9.0])
    with pytest.raises(Nothing, match="a unit of layer 'act' that is active; got none by sum"):
        AttentiveResponse("act", n=2)(dead, x, Logits(0))
    with pytest.raises(Nothing, match="a unit of layer 'act' that is active; got none"):
        CLEAR("act")(dead, x, Logits(0, 1))
    with pytest.raises(BadInput, match="a network with convolutions"):
        AttentiveResponse("1", n=1)(nn.Sequential(nn.AvgPool2d(2), nn.ReLU(), Mean()), x, Logits(0))
    with pytest.raises(BadInput, match="a layer of convolutions"):
        AttentiveResponse("", n=1)(ConvNet(2), x, Logits(0))
    smooth = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GELU(), nn.Conv2d(4, 4, 1), Mean())
    with pytest.raises(BadInput, match=r'ReLUs for rectification=.both.; got none, but GELU. Take rectification="forward"'):
        AttentiveResponse("2", n=2, rectification="both")(smooth, x, Logits(0))
    assert AttentiveResponse("2", n=2)(smooth, x, Logits(0)).any()
    with pytest.raises(BadInput, match="ranking among sum, max, score; got 'mean'"):
        from_dict({"method": "attentive-response", "ranking": "mean"})
    with pytest.raises(BadInput, match="rectification among forward, backward, both, none"):
        CLEAR(rectification="relu")
    with pytest.raises(BadInput, match="an image of floating-point numbers"):
        AttentiveResponse("act", n=2)(dead, (9 * x).long(), Logits(0))


def test_segmentations_and_token_layers_are_projected_too() -> None:
    x = image(3, size=8)
    net = Segmenter(3).eval()
    mask = torch.ones(2, *x.shape[2:], dtype=torch.long)
    found = AttentiveResponse("act#1", n=2, ranking="score").responses(net, x, Region(1, mask=mask))
    start = x.clone().requires_grad_()
    h = net.act(net.norm(net.first(start)))
    z = (net.second(h) + h).relu()
    values = z.flatten(2).sum(2) * net.head.weight[1].flatten()  # the score is the sum of the logit over all voxels
    assert found.units[0].tolist() == values.argsort(1, descending=True)[:, :2].tolist()
    (truth,) = torch.autograd.grad(z[1, found.units[0, 1, 0]].square().sum() / 2, start)
    assert relative(found.maps[0, 1, 0], truth[1, 0]) <= 1e-5
    tokens = Transformer(2, class_token=True).eval()
    y = image(2, size=8)
    found = AttentiveResponse("blocks.0", n=3).responses(tokens, y, Logits(0))
    start = y.clone().requires_grad_()
    z = _output(tokens, start, "blocks.0")[:, 1:].relu()  # without the class token
    assert found.units[0].tolist() == z.sum(1).argsort(1, descending=True)[:, :3].tolist()
    truth = torch.autograd.grad(z[0, :, found.units[0, 0, 0]].square().sum() / 2, start)[0]
    assert relative(found.maps[0, 0, 0], truth[0, 0]) <= 1e-5


class PerClass(nn.Module):
    """The network that CLEAR is made for: a last convolution with a feature map per class, and their means."""

    def __init__(self, axes: int, classes: int) -> None:
        super().__init__()
        conv = convolution(axes)
        self.first, self.act, self.classes = conv(1, 6, 3, padding=1), nn.ReLU(), conv(6, classes, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.classes(self.act(self.first(x))).flatten(2).mean(2)


@pytest.mark.parametrize("axes", [2, 3])
def test_clear_is_its_equation_written_out(axes: int) -> None:
    net, x = PerClass(axes, 4).eval(), image(axes)
    net.requires_grad_(False)
    h = CONV[axes](x, net.first.weight, net.first.bias, padding=1)
    z = CONV[axes](h.clamp(min=0), net.classes.weight).clamp(min=0)
    truths = []
    for c in (3, 0, 1):
        one = z * (torch.arange(4) == c).reshape(1, 4, *[1] * axes)
        r = BACK[axes](one, net.classes.weight) * (h > 0)
        truths.append(BACK[axes](r, net.first.weight, padding=1))
    truth = torch.stack(truths) / x[0, 0].numel() ** 2
    found = CLEAR("act")(net, x, Logits(3, 0, 1))
    assert relative(found, truth) <= 1e-5
    which, level = dominant_class(found)
    assert torch.equal(level, found.amax(0))
    assert torch.equal(which, torch.where(truth.amax(0) > 0, truth.argmax(0), -1))


def test_clear_refuses_more_classes_than_colours() -> None:
    net, x = PerClass(2, 13).eval(), image(2)
    assert len(CLEAR("act")(net, x, Logits(*range(12)))) == 12
    with pytest.raises(BadInput, match="at most 12 classes that are told apart by colour; got 13"):
        CLEAR("act")(net, x, Logits(*range(13)))
    with pytest.raises(BadInput, match="at most 12 classes"):
        dominant_class(torch.zeros(13, 4, 4))


def test_the_rules_leave_the_forward_pass_as_it_is() -> None:
    from radiolucent.methods.projection import RECTIFICATIONS

    x = torch.tensor([-1.0, 2.0, 7.0])
    for rule in filter(None, RECTIFICATIONS.values()):
        assert rule(x, 6.0).tolist() == [0, 2, 6]
        assert rule(x, float("inf")).tolist() == [0, 2, 7]


def test_a_guest_that_cannot_be_batched_is_projected_one_by_one() -> None:
    """An operation whose backward pass must see numbers, not a batch of them."""

    class Single(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            float(gradient.sum())
            return gradient

    class Odd(ConvNet):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(Single.apply(x))

    plain, odd = ConvNet(2).eval(), Odd(2).eval()
    odd.load_state_dict(plain.state_dict())
    method, x = AttentiveResponse("act2", n=4), image(2)
    assert relative(method(odd, x, Logits(0)), method(plain, x, Logits(0))) <= 1e-6
