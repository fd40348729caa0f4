"""Which functions LRP meets in a network, in whatever form, what it does with them, and what it refuses."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.utils.checkpoint import checkpoint
from worlds import Mean, Spy, classifier, convolution, image, relative

from radiolucent import BadInput, Logits, Outputs, Region
from radiolucent.methods import LRP, InputXGradient

METHODS = [LRP("epsilon", epsilon=0.05), LRP("epsilon-plus"), LRP("epsilon-gamma", first="box")]


def normed(net: nn.Module) -> nn.Module:
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias, 0, 0.3)
    return net.double().eval()


def picture(axes: int = 2, channels: int = 2) -> Tensor:
    return image(axes, channels=channels, size=8).double() - 0.4


# ---- forms


class Written(nn.Module):
    """conv - norm - relu - conv - norm + shortcut - relu - pool - mean - dense, as modules, functions or in place."""

    def __init__(self, axes: int, style: str) -> None:
        super().__init__()
        conv, norm = convolution(axes), {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[axes]
        self.conv1, self.norm1, self.conv2, self.norm2 = conv(2, 4, 3), norm(4), conv(4, 4, 3, padding=1), norm(4)
        self.relu, self.leaky = nn.ReLU(), nn.LeakyReLU(0.2)
        self.pool, self.head = {2: nn.MaxPool2d, 3: nn.MaxPool3d}[axes](2), nn.Linear(4, 3)
        self.style, self.axes = style, axes

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, self.style)(x)

    def modules_only(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm1(self.conv1(x)))
        x = self.leaky(self.norm2(self.conv2(x)) + x)
        return self.head(self.pool(x).flatten(2).mean(-1))

    def functions(self, x: Tensor) -> Tensor:
        conv = {2: F.conv2d, 3: F.conv3d}[self.axes]
        x = torch.relu(self._norm(F.batch_norm, self.norm1, conv(x, self.conv1.weight, bias=self.conv1.bias)))
        x = torch.add(x, self._norm(F.batch_norm, self.norm2, conv(x, self.conv2.weight, self.conv2.bias, padding=1)))
        x = {2: F.max_pool2d, 3: F.max_pool3d}[self.axes](F.leaky_relu(x, 0.2), 2)
        return F.linear(x.mean(tuple(range(2, x.ndim))), bias=self.head.bias, weight=self.head.weight)

    def _norm(self, function: Any, norm: nn.Module, x: Tensor) -> Tensor:
        return function(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)

    def in_place(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv1(x))
        x.relu_()
        y = self.norm2(self.conv2(x))
        y += x
        F.leaky_relu(y, 0.2, inplace=True)
        y = self.pool(y)
        return self.head(y.sum(tuple(range(2, y.ndim))).div_(y[0, 0].numel()))

    def built_in(self, x: Tensor) -> Tensor:
        conv, norms = {2: torch.conv2d, 3: torch.conv3d}[self.axes], (self.norm1, self.norm2)
        old = [(n.weight, n.bias, n.running_mean, n.running_var, False, 0.1, n.eps, False) for n in norms]
        x = torch.batch_norm(conv(x, self.conv1.weight, self.conv1.bias), *old[0]).clamp(min=0)
        y = torch.batch_norm(conv(x, self.conv2.weight, self.conv2.bias, padding=1), *old[1]).add(x)
        y = torch.max_pool2d(F.leaky_relu_(y, 0.2), 2) if self.axes == 2 else torch.max_pool3d(F.leaky_relu_(y, 0.2), 2)
        return torch.nn.functional.linear(y.flatten(2).mean(2), self.head.weight, self.head.bias)


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("style", ["functions", "in_place", "built_in", "exported"])
def test_the_map_does_not_depend_on_how_the_network_is_written(style: str, axes: int) -> None:
    plain, x = normed(Written(axes, "modules_only")), picture(axes)
    other = Written(axes, "modules_only" if style == "exported" else style).double().eval()
    other.load_state_dict(plain.state_dict())
    found = torch.export.export(other, (x,)).module() if style == "exported" else other
    for method in METHODS:
        assert relative(method(found, x, Logits(1, 2)), method(plain, x, Logits(1, 2))) <= 1e-9


# ---- batch norm


MERGED = {
    "convolution": ([nn.Conv2d(2, 6, 3, groups=2), nn.BatchNorm2d(6)], fuse_conv_bn_eval),
    "without bias": ([nn.Conv2d(2, 6, 3, bias=False), nn.BatchNorm2d(6)], fuse_conv_bn_eval),
    "without weight": ([nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6, affine=False)], fuse_conv_bn_eval),
    "transposed": ([nn.ConvTranspose2d(2, 6, 2, 2), nn.BatchNorm2d(6)], lambda c, n: fuse_conv_bn_eval(c, n, transpose=True)),
}


@pytest.mark.parametrize("kind", MERGED)
def test_batch_norm_is_merged_with_the_convolution_before_it(kind: str) -> None:
    (conv, norm), fuse = MERGED[kind]
    norm.running_mean.normal_(0, 0.2)
    norm.running_var.uniform_(0.5, 2)
    if norm.weight is not None:
        norm.weight.data = torch.linspace(-1, 1, 6)
    rest = [nn.LeakyReLU(), nn.Conv2d(6, 3, 2), nn.ReLU(), Mean()]
    apart = nn.Sequential(conv, norm, *rest).double().eval()
    fused = nn.Sequential(fuse(conv, norm), *rest).double().eval()
    for method in METHODS:
        assert relative(method(apart, picture(), Outputs(0, 1)), method(fused, picture(), Outputs(0, 1))) <= 1e-6


def test_batch_norm_is_merged_with_a_dense_layer() -> None:
    dense, norm = nn.Linear(192, 5), nn.BatchNorm1d(5)
    apart = normed(nn.Sequential(nn.Flatten(), dense, norm, nn.ReLU(), nn.Linear(5, 2)))
    fused = nn.Sequential(apart[0], fuse_linear_bn_eval(dense, norm), *apart[3:])
    method = METHODS[0]
    assert relative(method(apart, picture(), Outputs(0, 1)), method(fused, picture(), Outputs(0, 1))) <= 1e-6


def test_batch_norm_over_another_axis_is_not_merged() -> None:
    class Tokens(nn.Module):
        def __init__(self, apart: bool) -> None:
            super().__init__()
            self.dense, self.norm, self.apart = nn.Linear(12, 4), nn.BatchNorm1d(16), apart

        def forward(self, x: Tensor) -> Tensor:
            x = self.dense(x.flatten(1, 2))
            return self.norm(x + 0 if self.apart else x).relu().mean(1)

    net, apart = normed(Tokens(False)), Tokens(True).double().eval()
    apart.load_state_dict(net.state_dict())
    assert relative(METHODS[0](net, picture(), Outputs(0, 1)), METHODS[0](apart, picture(), Outputs(0, 1))) <= 1e-12


class Shared(nn.Module):
    """The convolution's output goes into the batch norm and past it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fused = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z = self.norm(y) if self.fused is None else self.fused(x)
        return (z + y).relu().flatten(2).mean(-1)


def test_what_passes_the_batch_norm_by_has_the_convolutions_own_rule() -> None:
    net = normed(Shared())
    found = [method(net, picture(), Outputs(0, 1)) for method in METHODS]
    net.fused = fuse_conv_bn_eval(net.conv, net.norm)
    for relevance, method in zip(found, METHODS, strict=True):
        assert relative(relevance, method(net, picture(), Outputs(0, 1))) <= 1e-6


class Between(nn.Module):
    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.conv, self.norm, self.in_place = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), in_place

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z = y.relu_() if self.in_place else y.relu()
        return self.norm(y if self.in_place else z).relu().flatten(2).mean(-1)


def test_a_batch_norm_behind_something_else_is_a_layer_of_its_own() -> None:
    net, other = normed(Between(True)), Between(False).double().eval()
    other.load_state_dict(net.state_dict())
    for method in METHODS:
        assert relative(method(net, picture(), Outputs(0, 1)), method(other, picture(), Outputs(0, 1))) <= 1e-12
    alone = normed(nn.Sequential(nn.BatchNorm2d(2), Mean()))
    x, norm = picture(), alone[0]
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    z = norm(x)[:, :1].detach()
    truth = torch.cat([x[:, :1] * scale[0] * z.abs() / (z.abs() + 0.05) / x[0, 0].numel(), 0 * z], 1)
    assert relative(LRP("epsilon", epsilon=0.05)(alone, x, Outputs(0))[0], truth.detach()) <= 1e-12


# ---- other norms, gates, activations


class WithConstants(nn.Module):
    """The same network with what LRP takes as a constant cut off by hand, if `cut`."""

    def __init__(self, kind: str, cut: bool = False) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(2, 4, 3, bias=False), nn.Conv2d(4, 3, 3, bias=False)
        self.norm = {"instance": nn.InstanceNorm2d(4, affine=True), "group": nn.GroupNorm(2, 4), "layer": nn.LayerNorm(10)}.get(
            kind
        )
        self.gate = nn.Conv2d(4, 1, 1)
        self.kind, self.cut = kind, cut

    def constant(self, x: Tensor) -> Tensor:
        return x.detach() if self.cut else x

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.kind == "gate":
            x = x * self.constant(1.5 - torch.sigmoid(self.gate(x)))
        elif not self.cut:
            x = self.norm(x)
        else:
            shape = {"instance": (*x.shape[:2], -1), "group": (len(x), 2, -1), "layer": x.shape}[self.kind]
            y = x.reshape(shape)
            y = (y - y.mean(-1, keepdim=True)) / (y.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt().detach()
            channel = (-1,) if self.kind == "layer" else (-1, 1, 1)
            x = y.reshape(x.shape) * self.norm.weight.view(channel) + self.norm.bias.view(channel)
        return self.last(x.relu()).flatten(2).mean(-1)


@pytest.mark.parametrize("kind", ["instance", "group", "layer", "gate"])
def test_deviations_and_gates_are_constants(kind: str) -> None:
    net, cut = WithConstants(kind), WithConstants(kind, cut=True).double()
    for name, parameter in net.named_parameters():
        nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0)
    cut.load_state_dict(net.double().state_dict())
    x = picture()
    truth = InputXGradient()(cut, x, Outputs(0, 1))
    assert relative(LRP("epsilon", epsilon=0.0)(net, x, Outputs(0, 1)), truth) <= 1e-9
    assert relative(InputXGradient()(net, x, Outputs(0, 1)), truth) > 0.01, "this world must tell them apart"


def test_instance_norm_with_kept_statistics_is_a_scale_per_channel() -> None:
    norm = nn.InstanceNorm2d(2, track_running_stats=True).double().eval()
    norm.running_mean.fill_(0.3)
    norm.running_var.fill_(4.0)
    x = picture()
    found = LRP("epsilon", epsilon=0.0)(nn.Sequential(norm, Mean()), x, Outputs(0))[0]
    assert relative(found[:, 0], x[:, 0] / (4 + 1e-5) ** 0.5 / x[0, 0].numel()) <= 1e-9


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "F.leaky_relu": F.leaky_relu,
    "nn.PReLU": nn.PReLU().double().requires_grad_(False),
    "nn.ELU in place": nn.ELU(inplace=True),
    "F.gelu": F.gelu,
    "nn.SiLU in place": nn.SiLU(inplace=True),
    "torch.tanh": torch.tanh,
    "Tensor.tanh_, result dropped": lambda x: (x.tanh_(), x)[1],
    "nn.Hardswish": nn.Hardswish(),
    "nn.Mish": nn.Mish(),
    "F.relu6": F.relu6,
    "nn.Hardtanh": nn.Hardtanh(-0.2, 0.3),
    "clamp": lambda x: x.clamp(-0.1, 0.2),
    "clip, one end": lambda x: torch.clip(x, max=0.1),
    "clamp_min": lambda x: x.clamp_min(-0.1),
    "F.selu_, result dropped": lambda x: (F.selu_(x), x)[1],
    "x * sigmoid(x)": lambda x: x * torch.sigmoid(x),
    "relu": torch.relu,
    "abs": torch.abs,
    "maximum": lambda x: torch.maximum(x, 0.3 * x),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_relevance_passes_an_activation_unchanged(name: str) -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return ACTIVATIONS[name](x.clone()).flatten(2).sum(-1)

    x = picture()
    x[0, 0, 0, 0] = 0
    truth = ACTIVATIONS[name](x.clone())
    truth[:, 1] = 0
    assert relative(LRP()(Net(), x, Outputs(0))[0], truth) <= 1e-12


# ---- what is refused


class Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class Attention(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2)
        return self.function(x).flatten(2).mean(-1)


def frozen(x: Tensor) -> Tensor:
    with torch.no_grad():
        y = F.conv1d(x, torch.ones(1, 2, 3).double())
    return x[..., :-2] + y


RECURRENT = nn.LSTM(96, 4).double().requires_grad_(False)
REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "softmax at the end": (lambda x: x.softmax(1), "got softmax as the last layer. Explain the logits before it"),
    "sigmoid at the end": (torch.sigmoid, "got sigmoid as the last layer. Explain the logits"),
    "a gate that is added": (lambda x: x + F.sigmoid(x), "got sigmoid whose result goes into add"),
    "a gate that is turned round and added": (
        lambda x: x + (1 - torch.sigmoid(x)).clone(),
        "got sigmoid whose result goes into add",
    ),
    "a gate beside a signal": (
        lambda x: torch.cat([x, x.mean(1, keepdim=True).sigmoid()], 1),
        "sigmoid whose result goes into cat",
    ),
    "attention": (lambda x: (x @ x.mT).softmax(-1) @ x, "got matmul"),
    "attention of torch": (lambda x: F.scaled_dot_product_attention(x, x, x), "got scaled_dot_product_attention"),
    "recurrence": (lambda x: RECURRENT(x)[0], "got lstm"),
    "softplus": (F.softplus, "got softplus"),
    "exponential": (torch.exp, "got exp"),
    "square": (lambda x: x**2, "got pow"),
    "product": (lambda x: x * x.flip(-1), "got mul"),
    "own standardisation": (lambda x: x / x.std(), "got std"),
    "quotient": (lambda x: x / x.sum(), "got div"),
    "divisor": (lambda x: torch.div(torch.ones_like(x), x), "got div"),
    "reciprocal": (lambda x: 1 / x, "got rdiv"),
    "clamp from above 0": (lambda x: x.clamp(min=0.5), r"got clamp from 0.5 to None, which is not 0 at 0"),
    "clamp between tensors": (lambda x: x.clamp(max=torch.ones_like(x)), "got clamp between tensors"),
    "autograd function": (Own.apply, "got sigmoid without a gradient"),
    "no_grad": (frozen, r"got conv1d without a gradient \(torch.no_grad"),
    "weights made from the image": (lambda x: F.conv1d(x, x[:1, :, :3]), "got conv1d"),
    "batch statistics": (lambda x: F.batch_norm(x, None, None, training=True), "got batch_norm with the statistics of the batch"),
    "batch statistics, others kept": (
        lambda x: F.batch_norm(x, torch.zeros(2).double(), torch.ones(2).double(), training=True),
        "got batch_norm with the statistics of the batch",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_function_without_a_rule_is_refused_by_name(name: str) -> None:
    function, message = REFUSED[name]
    net = nn.Sequential(nn.Conv2d(2, 2, 1).double(), Attention(function))
    if "end" in name:
        net = nn.Sequential(net[0], Mean(), Ends(function))
    with pytest.raises(BadInput, match=f"a network of functions that LRP has a rule for.*{message}.*IntegratedGradients"):
        LRP()(net, picture(), Outputs(0))


class Elsewhere(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.from_numpy(x.detach().numpy() ** 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_what_is_computed_out_of_sight_is_refused() -> None:
    x = picture()
    whole = nn.Sequential(nn.Conv2d(2, 2, 3), nn.SiLU(), Mean()).double()
    swish = torch.jit.trace(lambda x: x * torch.sigmoid(x), x)
    networks = {
        "an output": torch.jit.trace(whole, x),
        "a tensor for flatten": nn.Sequential(whole[0], Ends(Elsewhere.apply), Mean()),
        "a tensor for conv2d": nn.Sequential(Ends(swish), whole),
    }
    for what, net in networks.items():
        with pytest.raises(BadInput, match=f"whose functions can be seen; got {what} that comes from elsewhere .TorchScript"):
            LRP()(net, x, Outputs(0))


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpointed_model_is_refused_and_left_as_found(reentrant: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 3, 3)).double()

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.inner, x, use_reentrant=reentrant).flatten(2).mean(-1)

    net = Net().train()
    with pytest.raises(BadInput, match="checkpoint"):
        LRP()(net, picture(), Outputs(0))
    assert all(m.training for m in net.modules())
    assert all(p.requires_grad for p in net.parameters())


def test_rows_of_a_tensor_are_seen() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            first, second = x.movedim(1, 0)
            total = torch.zeros_like(first)
            total[..., 1:] = (first - second)[..., 1:]
            return total.flatten(1).sum(1, keepdim=True)

    truth = picture() * torch.tensor([1.0, -1.0]).double()[:, None, None]
    truth[..., 0] = 0
    assert relative(LRP()(Net(), picture(), Outputs(0))[0], truth) <= 1e-12


class Ends(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def test_a_transformer_is_refused() -> None:
    layer = nn.TransformerEncoderLayer(12, 2, 8, batch_first=True).double()
    with pytest.raises(BadInput, match=r"a rule for .*; got (multi_head_attention_forward|_?transformer_encoder_layer_fwd)"):
        LRP()(nn.Sequential(nn.Conv2d(2, 2, 1).double(), nn.Flatten(1, 2), layer, nn.Flatten(1)), picture(), Outputs(0))


def test_what_does_not_depend_on_the_image_may_be_computed_in_any_way() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            grid = torch.linspace(-1, 1, x.shape[-1], dtype=x.dtype).exp().softmax(0)
            return ((x > 0.1).double().sqrt() * 2 * x * grid / grid.sum()).flatten(2).sum(-1)

    x = picture()
    grid = torch.linspace(-1, 1, x.shape[-1], dtype=x.dtype).exp().softmax(0)
    truth = 2 * x * (x > 0.1) * grid
    truth[:, 1] = 0
    assert relative(LRP()(Net(), x, Outputs(0))[0], truth) <= 1e-12


def test_a_target_may_compute_what_it_wants() -> None:
    class Probability(Logits):
        def __call__(self, output: Tensor) -> Tensor:
            return super().__call__(output.sigmoid() ** 2)

    net, x = classifier(2).double().eval(), picture(channels=1)
    logit = net(x)[:, 1].detach()
    slope = 2 * logit.sigmoid() ** 2 * (1 - logit.sigmoid())
    truth = LRP()(net, x, Logits(1)) * slope[:, None, None, None]
    assert relative(LRP()(net, x, Probability(1)), truth) <= 1e-9


def test_a_rule_for_the_image_needs_a_layer_that_reads_it() -> None:
    net = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(2, 2, 3), Mean()).double()
    assert LRP()(net, picture(), Outputs(0)).any()
    with pytest.raises(BadInput, match=r"a convolution or dense layer that reads the image itself, for first='box'.*first=.same"):
        LRP(first="box")(net, picture(), Outputs(0))


# ---- cost


@pytest.mark.parametrize("method", METHODS)
def test_three_targets_cost_one_forward_and_no_gradient_of_a_weight(method: LRP) -> None:
    spy = Spy()
    net = nn.Sequential(nn.Conv2d(2, 3, 1), spy, nn.ReLU(), nn.Conv2d(3, 3, 3)).double()
    runs: list[nn.Module] = []
    for module in net:
        module.register_forward_hook(lambda module, args, output: runs.append(module))
    mask = torch.ones(6, 10, dtype=torch.bool)
    method(net, picture(), Region(0, 1, 2, mask=mask))
    assert runs == list(net)
    assert spy.wanted == [(True, False)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_the_same_within_its_digits(dtype: torch.dtype) -> None:
    net, x = classifier(2).eval(), image(2)
    truth = LRP()(net, x, Logits(0, 1))
    found = LRP()(net.to(dtype), x.to(dtype), Logits(0, 1))
    assert relative(found.float(), truth) <= (0.05 if dtype == torch.float16 else 0.3)
