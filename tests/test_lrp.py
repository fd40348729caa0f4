"""LRP: re-derived slowly with explicit contributions, closed forms, conservation, and zennit as the reference."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import zennits
from torch import Tensor, nn
from worlds import ConvNet, Linear, Mean, convolution, image, relative
from zennits import zennit

from radiolucent import Logits, Outputs, Region
from radiolucent.methods import LRP, InputXGradient

COMPOSITES = {"epsilon": "epsilon", "epsilon-plus": "plus", "epsilon-gamma": "gamma"}


def shaken(net: nn.Module) -> nn.Module:
    """In float64 and eval mode, with norms of their own, some of whose weights are negative."""
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias, 0, 0.3)
    return net.double().eval()


def without_bias(net: nn.Module) -> nn.Module:
    for name, parameter in [*net.named_parameters(), *net.named_buffers()]:
        if name.endswith(("bias", "running_mean")):
            parameter.data.zero_()
    return net.eval()


def signed(axes: int, channels: int = 1, size: int = 6) -> Tensor:
    return image(axes, channels=channels, size=size).double() - 0.4


# ---- the equations, slowly


def matrix(step: nn.Module, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """A linear step as W (inputs, outputs) and b."""
    n = torch.Size(shape).numel()
    with torch.no_grad():
        bias = step(torch.zeros(1, *shape).double())
        rows = step(torch.eye(n).double().reshape(n, *shape)) - bias
    return rows.flatten(1), bias.flatten()


def handed_back(rule: str, x: Tensor, step: nn.Module, R: Tensor, method: LRP) -> Tensor:
    """R_i = sum_j q_ij / sum_i q_ij R_j for one batch item, with q written out."""
    W, b = matrix(step, x.shape)
    q = x.reshape(-1, 1) * W
    z, e = q.sum(0) + b, torch.full_like(b, 1e-6)
    total = z
    if rule == "epsilon":
        e *= method.epsilon / 1e-6
    elif rule == "plus":
        q = q.clamp(min=0)
        total = q.sum(0) + b.clamp(min=0)
    elif rule == "gamma":
        up, down = ((q.clamp(**part), b.clamp(**part)) for part in ({"min": 0}, {"max": 0}))
        more, bias = (torch.where(z > 0, u, d) for u, d in zip(up, down, strict=True))
        q, total = q + method.gamma * more, (q + method.gamma * more).sum(0) + b + method.gamma * bias
    elif rule == "box":
        q = q - x.min() * W.clamp(min=0) - x.max() * W.clamp(max=0)
        total = q.sum(0)
    else:
        inner = copy.deepcopy(step[0] if isinstance(step, nn.Sequential) else step)
        inner.weight.data.fill_(1)
        q = W**2 if rule == "w2" else matrix(inner, x.shape)[0]
        total = q.sum(0)
    return (q * (R / (total + torch.where(total >= 0, e, -e)))).sum(1)


def slow(steps: Sequence[nn.Module], x: Tensor, target: int, method: LRP) -> Tensor:
    values = [x]
    with torch.no_grad():
        for step in steps:
            values.append(step(values[-1][None])[0])
    R = torch.zeros_like(values[-1])
    R[target] = values[-1][target]
    for number, step in reversed(list(enumerate(steps))):
        inner = step[0] if isinstance(step, nn.Sequential) else step
        if isinstance(inner, (nn.Linear, nn.modules.conv._ConvNd)):
            rule = "epsilon" if isinstance(inner, nn.Linear) else COMPOSITES[method.composite]
            rule = method.first if number == 0 and method.first != "same" else rule
            R = handed_back(rule, values[number], step, R.flatten(), method)
        R = R.reshape(values[number].shape)
    return R


def flat_net() -> list[nn.Module]:
    first = nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2), nn.BatchNorm2d(4))
    dense = nn.Sequential(nn.Linear(18, 5), nn.BatchNorm1d(5))
    return [
        first,
        nn.LeakyReLU(0.2, True),
        nn.Conv2d(4, 3, 2, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        dense,
        nn.Tanh(),
        nn.Linear(5, 3),
    ]


def deep_net() -> list[nn.Module]:
    up = nn.Sequential(nn.ConvTranspose3d(4, 6, 2, 2, groups=2), nn.BatchNorm3d(6))
    return [nn.Conv3d(2, 4, 2, 2), nn.ReLU(), up, nn.GELU(), nn.Conv3d(6, 2, 3, dilation=2, padding="same"), nn.SiLU(True), Mean()]


@pytest.mark.parametrize("first", ["same", "flat", "w2", "box"])
@pytest.mark.parametrize("composite", COMPOSITES)
def test_every_rule_is_its_equation(composite: str, first: str) -> None:
    steps = shaken(nn.Sequential(*flat_net()))
    x = signed(2, 2)[..., :7]
    for method in (LRP(composite, first=first), LRP(composite, epsilon=0.1, gamma=2.0, first=first)):
        truth = torch.stack([torch.stack([slow(steps, item, t, method) for item in x]) for t in (2, 0)])
        assert relative(method(steps, x, Outputs(2, 0)), truth) <= 1e-9


@pytest.mark.parametrize("composite", COMPOSITES)
def test_every_rule_is_its_equation_in_3d(composite: str) -> None:
    *steps, mean = shaken(nn.Sequential(*deep_net()))
    x, method = signed(3, 2, 4), LRP(composite)
    steps.append(nn.Flatten())
    found = sum(method(nn.Sequential(*steps), x, Outputs(t)) for t in range(3))
    truth = sum(torch.stack([slow(steps, item, t, method) for item in x]) for t in range(3))
    assert relative(found[0], truth) <= 1e-9
    assert relative(method(nn.Sequential(*steps[:-1], mean), x, Outputs(0)).sum((2, 3, 4, 5)), torch.ones(1, 2)) > 0


@pytest.mark.parametrize("composite", COMPOSITES)
def test_every_rule_is_its_equation_for_a_signal(composite: str) -> None:
    up = nn.Sequential(nn.ConvTranspose1d(3, 4, 3, stride=2), nn.BatchNorm1d(4))
    steps = shaken(nn.Sequential(nn.Conv1d(2, 3, 3, padding=1), nn.ReLU6(True), up, nn.ELU(), nn.Flatten(), nn.Linear(4 * 13, 2)))
    x, method = signed(2, 2)[..., 0], LRP(composite)
    truth = torch.stack([slow(steps, item, 1, method) for item in x])
    assert relative(method(steps, x, Outputs(1))[0], truth) <= 1e-9


# ---- closed forms


@pytest.mark.parametrize("axes", [2, 3])
def test_a_linear_network_gives_each_voxel_its_term(axes: int) -> None:
    x = image(axes)
    net = Linear(tuple(x.shape[1:]))
    truth = torch.stack([net.weight[t] * x for t in (1, 2)])
    assert relative(LRP("epsilon")(net, x, Outputs(1, 2)), truth.detach()) <= 1e-6
    dense = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 2, bias=False))
    truth = (dense[1].weight[0] * x.flatten(1)).reshape(x.shape).detach()
    assert relative(LRP("epsilon")(dense, x, Outputs(0))[0], truth) <= 1e-4
    assert relative(LRP("epsilon", epsilon=0.0)(dense, x, Outputs(0))[0], truth) <= 1e-6


@pytest.mark.parametrize("axes", [2, 3])
def test_a_deep_linear_network_is_input_times_its_one_matrix(axes: int) -> None:
    conv, pool = convolution(axes), {2: nn.AvgPool2d, 3: nn.AvgPool3d}[axes]
    steps = [conv(2, 5, 3), pool(2), nn.Dropout(), nn.Upsample(scale_factor=2), conv(5, 4, 2, bias=False), Mean(), nn.Linear(4, 3)]
    net = nn.Sequential(*steps).double().eval()
    x = signed(axes, 2)
    W = torch.stack([matrix(net, x.shape[1:])[0][:, t].reshape(x.shape[1:]) for t in range(3)])
    truth = W[:, None] * x
    assert relative(LRP("epsilon", epsilon=0.0)(net, x, Outputs()), truth) <= 1e-12


def test_a_rectifying_network_without_epsilon_is_input_times_gradient() -> None:
    net, x = ConvNet(2, channels=2).double().eval(), signed(2, 2)
    nn.init.zeros_(net.conv1.bias)
    x[..., :4] = 0  # so that sums are exactly 0 there
    assert relative(LRP("epsilon", epsilon=0.0)(net, x, Logits(0, 1)), InputXGradient()(net, x, Logits(0, 1))) <= 1e-12


# ---- conservation


def vgg(axes: int, norm: bool = True) -> nn.Sequential:
    conv, batch = convolution(axes), {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[axes]
    steps: list[nn.Module] = []
    for inputs, outputs in ((3, 6), (6, 6), (6, 8)):
        steps += [conv(inputs, outputs, 3, padding=1), *[batch(outputs)] * norm, nn.ReLU()]
        steps += [{2: nn.MaxPool2d, 3: nn.MaxPool3d}[axes](2)] * (inputs == outputs)
    return nn.Sequential(
        *steps, {2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}[axes](2), nn.Flatten(), nn.Linear(8 * 2**axes, 5)
    )


def residual(axes: int) -> nn.Module:
    return nets().ResNet("basic", [1, 1, 1, 1], [4, 8, 8, 8], axes, 3, num_classes=5)


def unet(axes: int, norm: str = "instance") -> nn.Module:
    return nets().UNet(axes, 3, 2, channels=(4, 8, 8), strides=(2, 2), num_res_units=1, norm=norm)


def nets() -> Any:
    return pytest.importorskip("monai.networks.nets")


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "vgg": vgg,
    "residual": residual,
    "u-net": unet,
    "u-net with group norm": lambda axes: unet(axes, ("group", {"num_groups": 2})),  # type: ignore[arg-type]
    "u-net with batch norm": lambda axes: unet(axes, "batch"),
    "nnU-Net": lambda axes: nets().DynUNet(axes, 3, 2, (3, 3, 3), (1, 2, 2), (2, 2), filters=(4, 8, 8)),
    "squeeze and excitation": lambda axes: gated(axes),
}


class Excited(nn.Module):
    """x * sigmoid(dense layers of its mean), as in squeeze and excitation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(channels, 3), nn.ReLU(), nn.Linear(3, channels), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate(x.flatten(2).mean(-1))
        return x * gate.view(*gate.shape, *[1] * (x.ndim - 2)).expand_as(x)


def gated(axes: int) -> nn.Sequential:
    conv = convolution(axes)
    return nn.Sequential(conv(3, 6, 3), nn.ReLU(), Excited(6), conv(6, 5, 3), nn.ReLU(), Mean(), nn.Linear(5, 5))


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_relevance_sums_to_the_score_without_biases(name: str, axes: int) -> None:
    net = without_bias(NETWORKS[name](axes))
    x = image(axes, channels=3, size=16)[..., :16, :16] if axes == 2 else torch.rand(1, 3, 16, 16, 16)
    with torch.no_grad():
        output = net(x)
    target = Logits(1, 2) if output.ndim == 2 else Region(0, 1, mask=torch.rand(x.shape[2:]) > 0.4)
    scores = target(output)
    for method in (LRP("epsilon"), LRP("epsilon-gamma"), LRP("epsilon-gamma", first="box"), LRP("epsilon", first="flat")):
        assert relative(method(net, x, target).flatten(2).sum(-1), scores) <= 0.01


def test_biases_keep_their_share() -> None:
    net, x = nn.Sequential(nn.Conv2d(1, 1, 1), Mean()), torch.ones(1, 1, 3, 3)
    net[0].weight.data.fill_(3.0)
    net[0].bias.data.fill_(1.0)
    assert LRP("epsilon")(net, x, Outputs(0)).sum().item() == pytest.approx(3, rel=1e-5)
    assert LRP("epsilon-plus")(net, x, Outputs(0)).sum().item() == pytest.approx(3, rel=1e-5)
    assert LRP("epsilon", first="flat")(net, x, Outputs(0)).sum().item() == pytest.approx(4, rel=1e-5)


# ---- the reference


def reference(method: LRP, net: nn.Module, x: Tensor, target: int) -> Tensor:
    R = {name: zennit(f"rules.{name}") for name in ("Epsilon", "ZPlus", "Gamma", "ZBox", "Flat", "WSquare")}
    box = (v.expand_as(x) for v in (f(x, (1, 2, 3), keepdim=True) for f in (torch.amin, torch.amax)))
    first = {"same": None, "flat": R["Flat"](), "w2": R["WSquare"](zero_params=["bias"]), "box": R["ZBox"](*box)}
    inner = {"epsilon": R["Epsilon"](method.epsilon), "epsilon-plus": R["ZPlus"](), "epsilon-gamma": R["Gamma"](method.gamma)}
    # Ours has no stabiliser for sums and means; zennit's default there, 1e-6, makes up to 1e-3 of difference.
    rules = zennits.composite(inner[method.composite], R["Epsilon"](method.epsilon), 1e-13, first[method.first])
    with rules.context(net) as changed:
        return zennits.relevance(changed, x, target)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("first", ["same", "flat", "w2", "box"])
@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize("network", [vgg, residual])
def test_it_equals_zennits(network: Callable[[int], nn.Module], composite: str, first: str) -> None:
    net = shaken(network(2))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0  # zennit merges it, and then applies it once more
    x, method = signed(2, 3, 16), LRP(composite, first=first)
    truth = torch.stack([reference(method, net, x, t) for t in (1, 3)])
    assert relative(method(net, x, Logits(1, 3)), truth) <= 1e-5
