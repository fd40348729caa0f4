"""Guided backpropagation and DeconvNet: captum's answer for plain modules is the truth for every way to write a ReLU."""

import captum.attr as captum
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from worlds import RELU_STYLES, ConvNet, Mean, convolution, image, relative

from radiolucent import BadInput, Logits, Outputs
from radiolucent.methods import DeconvNet, Gradient, GuidedBackprop, guided

PEERS = {GuidedBackprop: captum.GuidedBackprop, DeconvNet: captum.Deconvolution}


def peer(method: type, net: nn.Module, x: Tensor, output: int) -> Tensor:
    return PEERS[method](net).attribute(x.clone().requires_grad_(), target=output).detach()


@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU")
@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("relu", RELU_STYLES)
@pytest.mark.parametrize("method", PEERS)
def test_it_equals_captums_however_relu_is_written(method: type, relu: str, axes: int) -> None:
    plain, styled = (ConvNet(axes, style, channels=2).eval() for style in ("module", relu))
    styled.load_state_dict(plain.state_dict())
    x = image(axes, channels=2, size=8)
    truth = torch.stack([peer(method, plain, x, output) for output in (1, 2)])
    assert relative(truth, Gradient()(plain, x, Logits(1, 2))) > 0.1, "this world must tell it from the gradient"
    assert relative(method()(styled, x, Logits(1, 2)), truth) <= 1e-5


FORMS = {
    "nn.ReLU6": nn.ReLU6(),
    "nn.ReLU6 in place": nn.ReLU6(inplace=True),
    "F.relu6": lambda x: F.relu6(x),
    "F.relu6 in place": lambda x: (F.relu6(x, inplace=True), x)[1],
    "F.hardtanh": lambda x: F.hardtanh(x, 0.0, 6.0),
    "F.hardtanh_": lambda x: (F.hardtanh_(x, 0, 6), x)[1],
    "nn.Hardtanh": nn.Hardtanh(0, 6, inplace=True),
}


@pytest.mark.parametrize("form", FORMS)
def test_relu6_lets_through_between_its_limits(form: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = convolution(2)(1, 8, 1), convolution(2)(8, 2, 1)
            for parameter in self.parameters():
                nn.init.normal_(parameter, 0, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(FORMS[form](self.first(x))).relu().flatten(2).sum(-1)

    net, x = Net(), 40 * image(2, size=6) - 20
    with torch.no_grad():
        h = net.first(x)
        net.second.bias -= net.second(h.clamp(0, 6)).transpose(0, 1).flatten(1).median(1).values
        z = net.second(h.clamp(0, 6))
        assert ((z > 0) != (net.second(h.clamp(0)) > 0)).any(), "this world needs a ceiling that decides what follows"
        relevance = GuidedBackprop()(net, x, Outputs(0, 1))
        for t in (0, 1):
            back = net.second.weight[t].clamp(min=0)[None] * (z > 0)[:, t : t + 1] * ((h > 0) & (h < 6))
            truth = (back * net.first.weight[:, 0][None]).sum(1, keepdim=True)
            assert relative(relevance[t], truth) <= 1e-5
            back = net.second.weight[t].clamp(min=0)[None].expand_as(h)
            truth = (back * net.first.weight[:, 0][None]).sum(1, keepdim=True)
            assert relative(DeconvNet()(net, x, Outputs(t))[0], truth) <= 1e-5, "the input's value has no say"


def test_a_network_without_relu_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.PReLU(), nn.GELU(), Mean())
    with pytest.raises(BadInput, match=r"a network with ReLU.*none ran \(activations: GELU, PReLU\).*use Gradient"):
        GuidedBackprop()(net, image(2), Logits(0))
    with pytest.raises(BadInput, match="a network with ReLU"):
        DeconvNet()(net, image(2), Logits(0))
    with pytest.raises(BadInput, match=r"activations: none"):
        GuidedBackprop()(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Hardtanh(-1, 1), Mean())[::2], image(2), Logits(0))


def test_another_hardtanh_keeps_its_own_gradient() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Hardtanh(-0.1, 0.1), nn.ReLU(), Mean())
    twin = nn.Sequential(net[0], net[1], Mean())
    x = image(2)
    found = GuidedBackprop()(net, x, Outputs(0))
    # Behind this ReLU all gradients are positive, so guided backpropagation is the gradient.
    assert relative(found, Gradient()(net, x, Outputs(0))) <= 1e-6
    assert relative(found, Gradient()(twin, x, Outputs(0))) > 0.1


def test_both_rules_leave_the_forward_pass_as_it_is() -> None:
    x = torch.tensor([-1.0, 2.0, 7.0])
    for rule in (guided.GuidedReLU, guided.DeconvReLU):
        assert rule.apply(x, 6.0).tolist() == [0, 2, 6]
        assert rule.apply(x, float("inf")).tolist() == [0, 2, 7]
