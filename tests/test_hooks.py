"""Looking into guests of every habit: the right value, or an error that says what to do."""

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint
from worlds import ByHand, ConvNet, Mean, Returns, classifier, convolution, image, relative, segmenter

from radiolucent import BadInput, Logits, Outputs, Region, layers
from radiolucent.hooks import INPUT, evaluating, last_layer, look, relus, rewriting, tap
from radiolucent.methods import GradCAM, Gradient, GuidedBackprop, HiResCAM, InputXGradient, LayerCAM, first_order

TRIED = [Gradient(), GuidedBackprop(), HiResCAM("conv2"), LayerCAM("conv1")]


def same_maps(net: nn.Module, truth: nn.Module, x: Tensor, prefix: str = "", tolerance: float = 1e-5) -> None:
    """Every method of TRIED gives for `net` what it gives for `truth`, both in their own precision."""
    for method in TRIED:
        named = type(method)(prefix + method.layer) if isinstance(method, (HiResCAM, LayerCAM)) else method
        found = named(net, x.to(next(net.parameters()).dtype), Logits(0, 1))
        assert relative(found.float(), method(truth, x, Logits(0, 1))) <= tolerance, method


# ---- tap


def test_a_tap_keeps_what_the_layer_said_and_its_gradient() -> None:
    net, x = ConvNet(2, "inplace").eval(), image(2)
    with evaluating(net), tap(net, ["conv1", INPUT, "conv2"]) as taps:
        score = net(taps.input(x))[:, 1].sum()
        kept = {name: taps[name] for name in ("conv1", INPUT, "conv2")}
        gradients = torch.autograd.grad(score, list(kept.values()))
    with torch.no_grad():
        conv1 = net.conv1(x)
        conv2 = net.conv2(net.pool(conv1.relu()))
    for found, truth in zip(kept.values(), (conv1, x, conv2), strict=True):
        assert torch.equal(found.detach(), truth)
    point = x.clone().requires_grad_()
    truth = torch.autograd.grad(net(point)[:, 1].sum(), point)[0]
    assert relative(gradients[1], truth) <= 1e-6


def test_a_layer_that_gives_a_tuple_says_so() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2, return_indices=True))
    with pytest.raises(BadInput, match="a tensor of real numbers as the output of layer '1'; got tuple"):
        HiResCAM("1")(net, image(2), First())


class First:
    """A target on the first part of a tuple: its mean."""

    def __call__(self, output: tuple[Tensor, ...]) -> Tensor:
        return output[0].flatten(1).mean(1)[None]


def test_a_layer_that_gives_whole_numbers_says_so() -> None:
    class Codes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.round, self.embed = Round(), nn.Embedding(300, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.embed(self.round(x)).flatten(1, -2).mean(1)

    with pytest.raises(BadInput, match=r"real numbers as the output of layer 'round'; got a tensor of torch.int64"):
        HiResCAM("round")(Codes(), 100 * image(2), Logits(0))


class Round(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.round().long()


class Alias(nn.Module):
    """Overwrites conv's output in place, through the name under which a submodule kept it."""

    def __init__(self, overwrite: bool) -> None:
        super().__init__()
        self.store, self.overwrite = Store(), overwrite
        self.head = nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        direct = self.store(x)
        if self.overwrite:
            self.store.kept += 1
        return self.head(direct + self.store.kept.relu()).mean((2, 3))


class Store(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.kept = self.conv(x)
        return self.kept


def test_a_feature_that_is_used_under_two_names_counts_twice() -> None:
    net, x = Alias(overwrite=False), image(2)
    A = net.store.conv(x).detach().requires_grad_()
    S = net.head(A + A.relu()).mean((2, 3))[:, 0].sum()
    truth = (A * torch.autograd.grad(S, A)[0]).sum(1, keepdim=True)[None].detach()
    for layer in ("store", "store.conv"):
        assert relative(HiResCAM(layer)(net, x, Logits(0)), truth) <= 1e-6
        both = first_order(net, x, Logits(0), [Gradient(), HiResCAM(layer)])
        assert relative(both[1], truth) <= 1e-6


def test_a_feature_that_is_overwritten_through_another_name_is_refused() -> None:
    net, x = Alias(overwrite=True), image(2)
    message = "the output of layer 'store' to stay as it is; got the model overwrites it in place through another name"
    for methods in ([HiResCAM("store")], [Gradient(), HiResCAM("store")]):
        with pytest.raises(BadInput, match=message.replace("the output of layer 'store'", "the.*output.*")):
            first_order(net, x, Logits(0), methods)


class PreActivation(nn.Module):
    """The skip starts before a module that is an identity, or a ReLU in place."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.conv, self.module, self.head = nn.Conv2d(1, 3, 3), module, nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.conv(x)
        return (self.head(self.module(skip)) + skip[:, :2] ** 2).mean((2, 3))


@pytest.mark.parametrize("others", [[], [Gradient()]], ids=["alone", "with the input"])
def test_what_a_layer_hands_on_is_not_what_it_was_given(others: list[Gradient]) -> None:
    net, x = PreActivation(nn.Identity()), image(2)
    A = net.conv(x).detach()
    B = A.clone().requires_grad_()
    S = (net.head(B) + A[:, :2] ** 2).mean((2, 3))[:, 1].sum()  # what the skip carries is not the layer's output
    truth = (A * torch.autograd.grad(S, B)[0]).sum(1, keepdim=True)[None]
    assert relative(first_order(net, x, Logits(1), [*others, HiResCAM("module")])[-1], truth) <= 1e-6


@pytest.mark.parametrize("others", [[], [Gradient()]], ids=["alone", "with the input"])
def test_a_relu_in_place_overwrites_the_skip_too(others: list[Gradient]) -> None:
    net, x = PreActivation(nn.ReLU(inplace=True)), image(2)
    A = net.conv(x).detach().relu().requires_grad_()
    S = (net.head(A) + A[:, :2] ** 2).mean((2, 3))[:, 1].sum()
    truth = (A * torch.autograd.grad(S, A)[0]).sum(1, keepdim=True)[None].detach()
    assert relative(first_order(net, x, Logits(1), [*others, HiResCAM("module")])[-1], truth) <= 1e-6


@pytest.mark.parametrize("kind", ["parameter", "buffer", "attribute"])
def test_a_layer_that_hands_out_what_it_holds_gets_it_back_as_it_was(kind: str) -> None:
    class Prompt(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            grid = torch.rand(1, 2, 5, 5)
            if kind == "buffer":
                self.register_buffer("grid", grid)
            else:
                self.grid = nn.Parameter(grid, requires_grad=False) if kind == "parameter" else grid

        def forward(self) -> Tensor:
            return self.grid

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.prompt, self.conv = Prompt(), nn.Conv2d(1, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return (self.conv(x) * self.prompt()).mean((2, 3))

    net, x = Net(), image(2, batch=1, size=7)[..., :7]
    share = net.conv(x).detach() * net.prompt.grid / 25
    assert relative(HiResCAM("prompt")(net, x, Logits(1))[0], share[:, 1:]) <= 1e-6
    assert not net.prompt.grid.requires_grad


# ---- guests with habits of their own


class Checkpointed(ConvNet):
    """A ConvNet that forgets what is inside its two blocks and runs them again in the backward pass."""

    reentrant = False

    def forward(self, x: Tensor) -> Tensor:
        def first(x: Tensor) -> Tensor:
            return self.pool(self._relu(self.conv1(x), self.act1))

        def second(x: Tensor) -> Tensor:
            return self._relu(self.conv2(x), self.act2)

        x = checkpoint(first, x, use_reentrant=self.reentrant)
        return self.head(checkpoint(second, x, use_reentrant=self.reentrant).flatten(2).mean(-1))


@pytest.mark.parametrize("relu", ["module", "inplace", "reused"])
def test_a_checkpointed_model_gets_the_right_map(relu: str) -> None:
    net, truth, x = Checkpointed(2, relu).eval(), ConvNet(2, relu).eval(), image(2)
    truth.load_state_dict(net.state_dict())
    layers = ("conv1", "act1#0", "pool", "conv2", "act1#1") if relu == "reused" else LAYERS
    methods = [Gradient(), InputXGradient(), *(cam(layer) for cam in (GradCAM, HiResCAM) for layer in layers)]
    for method in methods:
        assert relative(method(net, x, Logits(*range(4))), method(truth, x, Logits(*range(4)))) <= 1e-5, method
    together = zip(*(first_order(n, x, Logits(*range(4)), methods) for n in (net, truth)), strict=True)
    assert max(relative(found, right) for found, right in together) <= 1e-5
    # The checkpoint's second run is a plain one, but keeps for each ReLU what the guided rule needs: its result.
    guided = GuidedBackprop()
    assert relative(guided(net, x, Logits(0, 1)), guided(truth, x, Logits(0, 1))) <= 1e-5
    assert relative(guided(truth, x, Logits(0)), Gradient()(truth, x, Logits(0))) > 0.1


LAYERS = ("conv1", "act1", "pool", "conv2", "act2")


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
@pytest.mark.parametrize("relu", ["module", "inplace"])
def test_reentrant_checkpoints_are_refused_where_they_matter(relu: str) -> None:
    net, x = Checkpointed(2, relu).eval(), image(2)
    net.reentrant = True
    for method in (Gradient(), GuidedBackprop(), *map(HiResCAM, LAYERS)):
        with pytest.raises(BadInput, match="reentrant"):
            method(net, x, Logits(0))
    with pytest.raises(BadInput, match=r"reentrant|no path"):
        first_order(net, x, Logits(0), [Gradient(), HiResCAM("conv2")])

    class Behind(nn.Module):
        """Goes on after the checkpoints, where nothing is hidden."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = net, nn.Conv2d(1, 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(x * self.first(x).mean()).mean((2, 3))

    behind = Behind()
    found = HiResCAM("last")(behind, x, Logits(1))
    A = behind.last(x * net(x).mean())
    truth = torch.cat([torch.zeros_like(A[:, :1]), A[:, 1:2]], 1).sum(1, keepdim=True) / A[0, 0].numel()
    assert relative(found[0], truth.detach()) <= 1e-5


def test_a_model_under_data_parallel_on_one_device_is_itself() -> None:
    net, x = ConvNet(2).eval(), image(2)
    same_maps(nn.DataParallel(net), net, x, prefix="module.")
    many = nn.DataParallel(net)
    many.device_ids = [0, 1]
    with pytest.raises(BadInput, match=r"one device; got DataParallel over 2.*model.module"):
        GradCAM("module.conv2")(many, x, Logits(0))


def normalised(kind: str) -> nn.Module:
    """A ConvNet whose weights are computed from others, in all ways that torch has."""
    net = ConvNet(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        make = {
            "weight_norm": parametrizations.weight_norm,
            "spectral_norm": parametrizations.spectral_norm,
            "old weight_norm": nn.utils.weight_norm,
            "old spectral_norm": nn.utils.spectral_norm,
        }[kind]
        for layer in (net.conv1, net.conv2, net.head):
            make(layer)
    return net


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "old weight_norm", "old spectral_norm"])
def test_computed_weights_are_weights(kind: str) -> None:
    net, x = normalised(kind).eval(), image(2)
    net(x)
    plain = ConvNet(2).eval()
    with torch.no_grad():
        for name in ("conv1", "conv2", "head"):
            getattr(plain, name).weight.copy_(getattr(net, name).weight)
            getattr(plain, name).bias.copy_(getattr(net, name).bias)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.train()
    same_maps(net, plain, x)
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())
    assert last_layer(layers(net, x)) == "act2"


def test_the_making_of_a_weight_is_no_layer() -> None:
    x = image(3)
    net = segmenter(3, x)
    parametrizations.weight_norm(net.head)
    found = layers(net, x)
    assert [layer.name for layer in found] == ["first", "norm", "second", "act", "head"]
    assert last_layer(found) == "act#1"


def test_a_module_with_two_names_runs_under_both() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = self.second = nn.Conv2d(1, 1, 3)
            self.head = nn.Linear(1, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.second(self.first(x).relu()).flatten(2).mean(-1))

    net, x = Twice(), image(2)
    h = net.first(x).detach().requires_grad_()
    A = net.first(h.relu())
    truth = [h * torch.autograd.grad(net.head(A.flatten(2).mean(-1))[:, 0].sum(), h)[0]]
    A = A.detach().requires_grad_()
    truth += [A * torch.autograd.grad(net.head(A.flatten(2).mean(-1))[:, 0].sum(), A)[0]]
    for one, other in (("first#0", "second#1"), ("second#0", "first#1")):
        maps = first_order(net, x, Logits(0), [HiResCAM(one), HiResCAM(other)])
        assert relative(maps[0][0], truth[0].detach()) <= 1e-6
        assert relative(maps[1][0], truth[1].detach()) <= 1e-6
    with pytest.raises(BadInput, match="second#0, second#1"):
        HiResCAM("second")(net, x, Logits(0))


def test_what_a_model_makes_at_its_first_call_serves_the_next() -> None:
    class Lazy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.place = nn.Conv2d(1, 3, 3), None

        def forward(self, x: Tensor) -> Tensor:
            if self.place is None:
                del self.place
                self.register_buffer("place", torch.linspace(0, 1, x.shape[-1]))
            return self.conv(x * self.place).relu().mean((2, 3))

    x = image(2)
    for surround in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        net = Lazy()
        with surround():
            first = InputXGradient()(net, x, Logits(0, 1))
        assert torch.equal(InputXGradient()(net, x, Logits(0, 1)), first)
        net(x).sum().backward()
        assert net.conv.weight.grad.abs().max() > 0


def test_layers_without_weights_yet_are_refused_and_stay_so() -> None:
    net = nn.Sequential(nn.LazyConv2d(2, 3), Mean())
    for act in (lambda: Gradient()(net, image(2), Logits(0)), lambda: layers(net, image(2))):
        with pytest.raises(BadInput, match="a model with weights; got lazy layers"):
            act()
    assert net[0].has_uninitialized_params()


def test_a_model_that_counts_its_calls_finds_its_count_again() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 3, 3)
            self.register_buffer("calls", torch.zeros(()))
            self.register_buffer("last", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.last = x.mean().detach()[None]
            return self.conv(x).relu().mean((2, 3))

    net = Counter()
    last = net.last
    for method in (*TRIED[:2], HiResCAM("conv")):
        method(net, image(2), Logits(0))
        layers(net, image(2))
    assert net.calls == 0
    assert net.last is last


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_precision_is_the_models_and_products_are_taken_in_float32_at_least(dtype: torch.dtype) -> None:
    net, x = ConvNet(2).to(dtype).eval(), image(2).to(dtype)
    A, g = (t.to(torch.promote_types(dtype, torch.float32)) for t in ByHand(net).split(x, "conv2", 1))
    assert relative(HiResCAM("conv2")(net, x, Logits(1))[0], (A * g).sum(1, keepdim=True)) <= 1e-6
    weights = g.flatten(2).mean(-1)[..., None, None]
    assert relative(GradCAM("conv2")(net, x, Logits(1))[0], (weights * A).sum(1, keepdim=True).relu()) <= 1e-6
    point = x.clone().requires_grad_()
    gradient = torch.autograd.grad(net(point)[:, 1].sum(), point)[0]
    # Voxels in half precision are rounded on the way, each pass in its own manner.
    tolerance = {torch.float16: 1e-3}.get(dtype, 0)
    assert relative(Gradient()(net, x, Logits(1))[0], gradient.to(A.dtype)) <= tolerance


@pytest.mark.parametrize(("weight", "tolerance"), [(1e-3, 1e-3), (2e4, 2e-3)], ids=["tiny", "huge"])
def test_gradients_of_half_precision_neither_vanish_nor_overflow(weight: float, tolerance: float) -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), Mean(), nn.Linear(1, 2, bias=False)).half().eval()
    nn.init.ones_(net[0].weight)
    nn.init.constant_(net[2].weight, weight)
    x = image(2, size=60).half()
    truth = torch.full((2, *x.shape), net[2].weight[0, 0].item() / (60 * 64))
    assert relative(Gradient()(net, x, Logits(0, 1)), truth) <= tolerance


def test_a_region_of_a_large_volume_does_not_leave_half_precision() -> None:
    net, x = nn.Conv3d(1, 2, 1).half(), torch.full((1, 1, 50, 50, 50), 2.0).half()
    nn.init.ones_(net.weight)
    nn.init.zeros_(net.bias)
    targets = Region(1, mask=torch.ones(50, 50, 50, dtype=torch.bool))
    assert targets(net(x)).item() == 2 * 50**3
    assert torch.equal(InputXGradient()(net, x, targets)[0], x.float())


def test_a_model_that_overwrites_its_input_does_not_reach_the_callers() -> None:
    class Greedy(ConvNet):
        def forward(self, x: Tensor) -> Tensor:
            x -= 0.5
            x *= 2
            return super().forward(x)

    net, truth, x = Greedy(2).eval(), ConvNet(2).eval(), image(2)
    truth.load_state_dict(net.state_dict())
    given = x.clone()
    assert relative(HiResCAM("conv1")(net, x, Logits(0)), HiResCAM("conv1")(truth, 2 * x - 1, Logits(0))) <= 1e-5
    assert relative(Gradient()(net, x, Logits(0)), 2 * Gradient()(truth, 2 * x - 1, Logits(0))) <= 1e-5
    layers(net, x)
    assert torch.equal(x, given)


def test_evaluating_sets_flags_and_calls_nothing() -> None:
    class Merging(nn.Module):
        """Like LoRA: leaving train mode changes the weights."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)

        def train(self, mode: bool = True) -> "Merging":
            if not mode:
                self.conv.weight.data += 1
            return super().train(mode)

        def forward(self, x: Tensor) -> Tensor:
            assert not self.training
            return self.conv(x).relu().mean((2, 3))

    net = Merging()
    before = net.conv.weight.detach().clone()
    GradCAM("conv")(net, image(2), Logits(0))
    assert torch.equal(net.conv.weight, before)
    assert net.training


def test_random_layers_draw_the_same_numbers_and_leave_the_callers_alone() -> None:
    class Noisy(ConvNet):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(F.dropout(x, 0.5, training=True))

    net, x = Noisy(2).eval(), image(2)
    torch.manual_seed(4)
    first = Gradient()(net, x, Logits(0))
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(Gradient()(net, x, Logits(0)), first)
    torch.manual_seed(4)
    assert torch.equal(torch.rand(3), after)


def test_weights_made_under_inference_mode_are_refused() -> None:
    with torch.inference_mode():
        net = ConvNet(2)
    with pytest.raises(BadInput, match=r"autograd can follow; got weights made under torch.inference_mode"):
        Gradient()(net, image(2), Logits(0))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_model_that_switches_gradients_off_is_refused(mode: type) -> None:
    class Closed(ConvNet):
        def forward(self, x: Tensor) -> Tensor:
            with mode():
                return super().forward(x)

    for method in TRIED:
        with pytest.raises(BadInput, match=r"scores without a gradient .*no_grad.*perturbation method"):
            method(Closed(2), image(2), Logits(0))


def test_autocast_around_the_call_does_not_matter_to_the_place() -> None:
    net, x = ConvNet(2).eval(), image(2)
    with torch.autocast("cpu", torch.bfloat16):
        found = HiResCAM("conv2")(net, x, Logits(0))
    assert found.dtype == torch.float32
    assert relative(found, HiResCAM("conv2")(net, x, Logits(0))) <= 0.05


def test_an_operation_without_a_derivative_is_refused() -> None:
    class Digits(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.heaviside(x, x).flatten(1)[:, :2]

    with pytest.raises(BadInput, match=r"got an operation without a derivative .*choose a perturbation method"):
        Gradient()(Digits(), image(2), Logits(0))


def test_a_monai_metatensor_is_a_tensor() -> None:
    from monai.data import MetaTensor

    net, x = ConvNet(2).eval(), image(2)
    for method in TRIED:
        found = method(net, MetaTensor(x), Logits(0, 1))
        assert type(found) is Tensor
        assert torch.equal(found, method(net, x, Logits(0, 1)))


def test_a_compiled_model_runs_as_it_was_written() -> None:
    net, x = ConvNet(2, "inplace").eval(), image(2)
    compiled = torch.compile(net, backend="eager")
    with torch.no_grad():
        compiled(x)  # from here on its hooks would be silent
    same_maps(compiled, net, x, prefix="_orig_mod.")
    assert last_layer(layers(compiled, x)) == "_orig_mod.act2"
    inside = ConvNet(2, "inplace").eval()
    inside.load_state_dict(net.state_dict())
    inside.compile(backend="eager")
    with torch.no_grad():
        inside(x)
    same_maps(inside, net, x)


def test_an_exported_model_has_gradients_but_no_layers() -> None:
    net, x = ConvNet(2, "inplace").eval(), image(2)
    exported = torch.export.export(net, (x,)).module()
    for method in TRIED[:2]:
        assert relative(method(exported, x, Logits(0, 1)), method(net, x, Logits(0, 1))) <= 1e-5
    with pytest.raises(
        BadInput, match=r"layer 'conv2' to run in the forward pass; got no call of it; no layer reports.*original model"
    ):
        GradCAM("conv2")(exported, x, Logits(0))
    with pytest.raises(BadInput, match="a layer whose output has spatial axes; got a model whose layers do not report"):
        GradCAM()(exported, x, Logits(0))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("make", ["script", "trace"])
def test_torchscript_has_gradients_but_no_layers(make: str) -> None:
    net, x = classifier(2).eval(), image(2)
    scripted = torch.jit.script(net[:7]) if make == "script" else torch.jit.trace(net[:7], x)
    whole = nn.Sequential(scripted, *net[7:]).eval()
    assert relative(Gradient()(whole, x, Logits(0, 1)), Gradient()(net, x, Logits(0, 1))) <= 1e-5
    assert [layer.name for layer in layers(whole, x)] == ["1", "2"]
    with pytest.raises(BadInput, match=r"a layer '0\.5' that can be watched; got a part of a TorchScript model.*original model"):
        GradCAM("0.5")(whole, x, Logits(0))
    with pytest.raises(BadInput, match=r"a network with ReLU.*none ran"):
        GuidedBackprop()(whole, x, Logits(0))


# ---- rewriting

FORMS = {
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU in place": nn.ReLU(inplace=True),
    "F.relu": F.relu,
    "F.relu, by name": lambda x: F.relu(input=x),
    "F.relu in place, result dropped": lambda x: (F.relu(x, inplace=True), x)[1],
    "F.relu in place, by position": lambda x: (F.relu(x, True), x)[1],
    "F.relu_": lambda x: (F.relu_(x), x)[1],
    "torch.relu": torch.relu,
    "torch.relu_": lambda x: (torch.relu_(x), x)[1],
    "Tensor.relu": lambda x: x.relu(),
    "Tensor.relu_": lambda x: (x.relu_(), x)[1],
    "nn.ReLU6": nn.ReLU6(),
    "nn.ReLU6 in place": nn.ReLU6(inplace=True),
    "F.relu6": F.relu6,
    "F.relu6 in place, result dropped": lambda x: (F.relu6(x, inplace=True), x)[1],
    "F.hardtanh, by name": lambda x: F.hardtanh(x, min_val=0.0, max_val=6.0),
    "F.hardtanh_, result dropped": lambda x: (F.hardtanh_(x, 0.0, 6.0), x)[1],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_relu_is_rewritten(form: str) -> None:
    x = torch.tensor([-1.0, 2.0, 7.0])
    ceiling = 6.0 if "6" in form or "tanh" in form else float("inf")
    with rewriting(relus(lambda x, ceiling: 10 * x + (0 if ceiling == float("inf") else ceiling))) as rewrite:
        found = FORMS[form](x.clone())
    assert rewrite.met.total() == 1
    assert found.tolist() == [10 * v + (6 if ceiling == 6 else 0) for v in x.tolist()]
    assert FORMS[form](x.clone()).tolist() == [0.0, 2.0, min(7.0, ceiling)]


def test_exported_relus_are_rewritten() -> None:
    x = torch.tensor([[-1.0, 2.0, 7.0]])
    for module, ceiling in ((nn.ReLU(), 0), (nn.ReLU(inplace=True), 0), (nn.ReLU6(), 6), (nn.ReLU6(inplace=True), 6)):
        exported = torch.export.export(nn.Sequential(nn.Identity(), Plus(), module), (x,)).module()
        with rewriting(relus(lambda x, ceiling: 10 * x + (0 if ceiling == float("inf") else ceiling))) as rewrite:
            assert exported(x).tolist() == [[10 * v + 10 + ceiling for v in x[0].tolist()]]
        assert rewrite.met.total() == 1


class Plus(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1


def test_other_activations_are_not_rewritten() -> None:
    x = torch.tensor([-2.0, 0.5, 3.0])
    with rewriting(relus(lambda x, ceiling: 10 * x)) as rewrite:
        assert torch.equal(F.hardtanh(x), x.clamp(-1, 1))
        assert torch.equal(nn.Hardtanh(-1, 6)(x), x.clamp(-1, 6))
        assert torch.equal(F.leaky_relu(x), torch.where(x > 0, x, 0.01 * x))
    assert not rewrite.met


CALLS = {
    "conv1d": lambda x: nn.Conv1d(1, 1, 1)(x),
    "conv_transpose1d": lambda x: F.conv_transpose1d(x, weight=torch.ones(1, 1, 1)),
    "linear": lambda x: nn.Linear(3, 1)(x),
    "max_pool1d": nn.MaxPool1d(2),
    "add": lambda x: x.add_(1),
    "rsub": lambda x: 1 - x,
    "getitem": lambda x: x[0],
    "mT": lambda x: x.mT,
    "softmax": lambda x: torch.ops.aten._softmax.default(x, 0, False),
    "batch_norm": nn.BatchNorm1d(1).eval(),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_has_one_name_in_every_form(name: str) -> None:
    seen: list[str] = []
    with rewriting({}, lambda call: (seen.append(call.name), call.as_written())[1]):
        CALLS[name](torch.ones(1, 1, 3))
    assert name in seen


def test_an_operation_of_another_library_keeps_its_name() -> None:
    with torch.library._scoped_library("radiolucent_test", "FRAGMENT") as library:
        library.define("relu(Tensor x) -> Tensor")
        library.impl("relu", lambda x: x + 1, "CPU")
        with rewriting(relus(lambda x, c: 10 * x)) as rewrite:
            assert torch.ops.radiolucent_test.relu.default(torch.ones(1)).tolist() == [2]
    assert not rewrite.met


def test_a_call_runs_with_other_arguments_and_overwrites_nothing() -> None:
    x, w = torch.tensor([[-1.0, 2.0]]), torch.eye(2)
    calls = {
        lambda: F.leaky_relu(x, 0.5, inplace=True): {"negative_slope": 0.1},
        lambda: F.leaky_relu_(x, 0.5): {"negative_slope": 0.1},
        lambda: F.linear(x, w): {"weight": 3 * w, "bias": torch.ones(2)},
        lambda: F.linear(input=x, weight=w): {"weight": 3 * w, "bias": torch.ones(2)},
        lambda: torch.ops.aten.linear.default(x, w): {"weight": 3 * w, "bias": torch.ones(2)},
    }
    for call, changes in calls.items():
        found: list[Tensor] = []
        names = {"leaky_relu", "linear"}
        rule = lambda call, found=found, changes=changes: (found.append(call.run(**changes)), torch.full_like(x, 7.0))[1]  # noqa: E731
        before = x.clone()
        with rewriting(dict.fromkeys(names, rule)) as rewrite:
            assert call().tolist() == [[7, 7]]
        assert found[0].tolist() == ([[-2, 7]] if "weight" in changes else [[pytest.approx(-0.1), 2]])
        assert rewrite.met.total() == 1
        in_place = x.tolist() == [[7, 7]]
        assert in_place == ("bias" not in changes)
        x.copy_(before)


def test_a_rule_may_decline() -> None:
    with rewriting({"relu": lambda call: None}) as rewrite:
        assert F.relu(torch.tensor([-1.0, 2.0])).tolist() == [0, 2]
    assert not rewrite.met


def test_rewriting_nests_and_ends() -> None:
    x = torch.tensor([-1.0, 2.0])
    with rewriting(relus(lambda x, c: x + 100)) as outer:
        with rewriting(relus(lambda x, c: 10 * x)) as inner:
            assert F.relu(x).tolist() == [-10, 20]
        assert F.relu(x).tolist() == [99, 102]
    assert (outer.met, inner.met) == ({"relu": 1}, {"relu": 1})
    with pytest.raises(ZeroDivisionError), rewriting(relus(lambda x, c: 10 * x)):
        raise ZeroDivisionError
    assert F.relu(x).tolist() == [0, 2]


def test_contexts_nest() -> None:
    net, x = ConvNet(2).train(), image(2)
    alone = HiResCAM("conv2")(net, x, Logits(0))
    with evaluating(net):
        net.conv1.weight.requires_grad_(True)
        with evaluating(net):
            assert not net.conv1.weight.requires_grad
            assert torch.equal(HiResCAM("conv2")(net, x, Logits(0)), alone)
        assert net.conv1.weight.requires_grad
        assert not net.training
    assert net.training


# ---- layers


def test_layers_of_a_classifier() -> None:
    found = layers(ConvNet(3, "reused"), image(3))
    rows = [(layer.name, layer.kind, layer.shape, layer.runs, layer.is_spatial, layer.is_output) for layer in found]
    assert rows == [
        ("conv1", "Conv3d", (6, 12, 16, 10), 1, True, False),
        ("pool", "MaxPool3d", (6, 6, 8, 5), 1, True, False),
        ("conv2", "Conv3d", (8, 6, 8, 5), 1, True, False),
        ("act1", "ReLU", (8, 6, 8, 5), 2, True, False),
        ("head", "Linear", (4,), 1, False, True),
    ]
    assert last_layer(found) == "act1#1"


@pytest.mark.parametrize("kind", ["dict", "tuple", "list"])
def test_the_output_of_a_segmenter_is_known_inside_what_it_returns(kind: str) -> None:
    x = image(2)
    found = layers(Returns(segmenter(2, x), kind), x)
    assert [layer.name for layer in found if layer.is_output] == ["network.head", "network"]
    assert last_layer(found) == "network.act#1"


def test_layers_of_a_unet_end_before_its_output() -> None:
    from monai.networks.nets import UNet

    net = UNet(3, 1, 3, channels=(4, 8), strides=(2,), num_res_units=1, norm="instance").eval()
    found = layers(net, image(3))
    last = next(layer for layer in found if layer.name == last_layer(found))
    assert last.shape == (3, 12, 16, 10)
    assert not last.is_output
    output = [layer for layer in found if layer.is_output]
    assert {layer.name for layer in output} >= {"model"}


def test_a_network_without_a_grid_has_no_last_layer() -> None:
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.ReLU(), nn.Linear(5, 2)), image(2, channels=1)
    found = layers(net, x)
    assert [layer.shape for layer in found] == [(192,), (5,), (5,), (2,)]
    with pytest.raises(BadInput, match=r"spatial axes; got only others: 0, 1, 2, 3. Choose a method that works on the input"):
        last_layer(found)


def test_looking_gives_the_plain_output() -> None:
    net, x = classifier(2), image(2)
    output, _ = look(net, x)
    assert not output.requires_grad
    assert net.training
    assert torch.equal(output, net.eval()(x))


def test_auto_passes_over_layers_that_work_on_slices_or_tokens() -> None:
    class Slices(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.volume = nn.Conv3d(1, 2, 3)
            self.slices = nn.Conv2d(2, 3, 3)
            self.tokens = nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            h = self.slices(self.volume(x).transpose(1, 2).flatten(0, 1))
            h = h[:, :, :4, :4].flatten(0, 1).unflatten(0, (len(x), -1))
            return self.tokens(h).mean((1, 2))

    net, x = Slices(), image(3)
    found = layers(net, x)
    assert [(layer.name, layer.is_spatial) for layer in found] == [("volume", True), ("slices", False), ("tokens", False)]
    assert torch.equal(HiResCAM()(net, x, Logits(0)), HiResCAM("volume")(net, x, Logits(0)))
    halves = nn.Sequential(nn.Conv2d(1, 2, 3), Halves(), nn.Conv2d(2, 2, 3), Mean(), nn.Flatten())
    assert [layer.name for layer in layers(halves, image(2)) if layer.is_spatial] == ["0"]


class Halves(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(x.split(7, 3))


def test_one_cell_is_no_grid() -> None:
    x = image(3)
    net = nn.Sequential(convolution(3)(1, 2, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    assert [layer.is_spatial for layer in layers(net, x)] == [True, False, False]
    with pytest.raises(BadInput, match=r"several cells at layer '1'; got shape \(2, 2, 1, 1, 1\)"):
        GradCAM("1")(net, x, Outputs())


def test_a_mask_made_for_one_batch_serves_no_other() -> None:
    x = image(2, batch=3)
    net = segmenter(2, x)
    targets = Region(1).fix(net(x))
    with pytest.raises(BadInput, match=r"a mask on the output's grid: \(2, 12, 16\)"):
        Gradient()(net, x[:2], targets)
