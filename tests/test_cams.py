"""The CAM family against its papers' equations, cell by cell, on networks taken apart by hand; and the one shared pass."""

import itertools
import math

import captum.attr as captum
import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from worlds import RELU_STYLES, ByHand, ConvNet, Mean, Segmenter, Spy, classifier, convolution, image, relative, segmenter

from radiolucent import BadInput, Logits, Outputs, Region, Volume, inject, predict
from radiolucent.hooks import look, reaching
from radiolucent.methods import (
    AblationCAM,
    EigenCAM,
    GradCAM,
    GradCAMPlusPlus,
    Gradient,
    HiResCAM,
    InputXGradient,
    LayerCAM,
    ScoreCAM,
    first_order,
)
from radiolucent.protocols import FirstOrder
from radiolucent.targets import Select

CAMS = (GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM)
both_axes = pytest.mark.parametrize("axes", [2, 3])


def literal(cam: type, A: Tensor, g: Tensor) -> Tensor:
    """One item's map (1, *cells) from A and g = dS/dA (c, *cells): the equations with loops, in double precision."""
    channels, cells = range(len(A)), list(itertools.product(*map(range, A.shape[1:])))
    A, g = A.double().numpy(), g.double().numpy()
    weight = [0.0 for _ in channels]
    for c in channels:
        if cam is GradCAM:
            weight[c] = sum(g[c][p] for p in cells) / len(cells)
        if cam is GradCAMPlusPlus:
            total = sum(A[c][q] for q in cells)
            for p in cells:
                below = 2 * g[c][p] ** 2 + total * g[c][p] ** 3
                weight[c] += (g[c][p] ** 2 / below if below != 0 else 0) * max(0, g[c][p])
    R = torch.zeros(1, *A.shape[1:], dtype=torch.double)
    for p in cells:
        for c in channels:
            per_cell = {HiResCAM: g[c][p], LayerCAM: max(0, g[c][p])}.get(cam, weight[c])
            R[(0, *p)] += per_cell * A[c][p]
        if cam is not HiResCAM:
            R[(0, *p)] = max(0, R[(0, *p)])
    return R


def by_hand(cam: type, parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """(t, b, 1, *cells) from (A, g), each (b, c, *cells), of each target."""
    return torch.stack([torch.stack([literal(cam, a, b) for a, b in zip(A, g, strict=True)]) for A, g in parts]).float()


# Where each step of a ConvNet is found, by how its ReLUs are written ("" where no module does it).
RELU_1 = {"module": "act1", "inplace": "act1", "reused": "act1#0"}
RELU_2 = {"module": "act2", "inplace": "act2", "reused": "act1#1"}


@both_axes
@pytest.mark.parametrize("relu", RELU_STYLES)
def test_cams_equal_the_papers_equations_at_every_layer(relu: str, axes: int) -> None:
    net, x = ConvNet(axes, relu).eval(), image(axes, size=6)
    layers = {"conv1": "conv1", "pool": "pool", "conv2": "conv2", "relu1": RELU_1.get(relu), "relu2": RELU_2.get(relu)}
    for place, layer in layers.items():
        if layer:
            parts = [ByHand(net).split(x, place, output) for output in (0, 2)]
            for cam in CAMS:
                assert relative(cam(layer)(net, x, Logits(0, 2)), by_hand(cam, parts)) <= 1e-5, (cam, layer)


class Residual(nn.Module):
    """conv1 - relu - conv2, plus conv1's output, added in place or not, with a batch norm after it."""

    def __init__(self, axes: int, in_place: bool) -> None:
        super().__init__()
        conv, norm = convolution(axes), {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[axes]
        self.conv1, self.conv2, self.norm = conv(1, 4, 3, padding=1), conv(4, 4, 3, padding=1), norm(4)
        self.act, self.head = nn.ReLU(inplace=in_place), nn.Linear(4, 3)
        self.in_place = in_place

    def behind_conv2(self, A: Tensor, skip: Tensor) -> Tensor:
        if self.in_place:
            A += skip
        else:
            A = A + skip
        A = self.act(self.norm(A))
        return self.head(A.flatten(2).mean(-1))

    def forward(self, x: Tensor) -> Tensor:
        skip = self.conv1(x)
        return self.behind_conv2(self.conv2(skip.relu()), skip)


@both_axes
def test_an_addition_in_place_behind_the_layer_changes_nothing(axes: int) -> None:
    net, twin = Residual(axes, in_place=True).eval(), Residual(axes, in_place=False).eval()
    twin.load_state_dict(net.state_dict())
    x = image(axes, size=6)
    with torch.no_grad():
        skip = twin.conv1(x)
    before = skip.clone().requires_grad_()  # conv1 is used twice: on the main path and on the skip
    S = twin.behind_conv2(twin.conv2(before.relu()), before)[:, 1].sum()
    at_conv1 = (skip, torch.autograd.grad(S, before)[0])
    behind = twin.conv2(skip.relu()).detach().requires_grad_()
    S = twin.behind_conv2(behind, skip)[:, 1].sum()
    at_conv2 = (behind.detach(), torch.autograd.grad(S, behind)[0])
    for cam in CAMS:
        assert relative(cam("conv1")(net, x, Logits(1)), by_hand(cam, [at_conv1])) <= 1e-5, cam
        assert relative(cam("conv2")(net, x, Logits(1)), by_hand(cam, [at_conv2])) <= 1e-5, cam


@both_axes
@pytest.mark.parametrize("reduce", ["sum", "mean", "probability"])
def test_cams_of_a_region_are_seg_grad_cams(reduce: str, axes: int) -> None:
    x = image(axes, size=6)
    net = segmenter(axes, x)
    output = net(x).detach()
    with torch.no_grad():
        h = net.norm(net.first(x)).relu()
        A = net.second(h)
    parts = []
    for label in (2, 1):
        place = A.clone().requires_grad_()
        logits = net.head((place + h).relu())
        S = torch.zeros(())
        for b in range(len(x)):
            voxels = list(itertools.product(*map(range, x.shape[2:])))
            inside = [v for v in voxels if output[(b, slice(None), *v)].argmax() == label]
            if reduce == "probability":
                S = S + sum(output[(b, slice(None), *v)].softmax(0)[label] * logits[(b, label, *v)] for v in voxels)
            else:
                S = S + sum(logits[(b, label, *v)] for v in inside) / (len(inside) if reduce == "mean" else 1)
        parts.append((A, torch.autograd.grad(S, place)[0]))
    targets = Region(2, 1, reduce=reduce).fix(output)
    for cam in CAMS:
        assert relative(cam("second")(net, x, targets), by_hand(cam, parts)) <= 1e-5, cam


@both_axes
def test_grad_cam_equals_captums(axes: int) -> None:
    net, x = ConvNet(axes).eval(), image(axes)
    for name in ("conv1", "conv2"):
        kind = captum.LayerGradCam(net, getattr(net, name))
        truth = [kind.attribute(x, target=output, relu_attributions=True).detach() for output in range(4)]
        assert relative(GradCAM(name)(net, x, Logits(*range(4))), torch.stack(truth)) <= 1e-5


def test_hires_cam_of_a_mean_and_a_linear_layer_is_the_score_itself() -> None:
    net, x = ConvNet(3).eval(), image(3)
    relevance = HiResCAM("act2")(net, x, Logits(0, 3))
    without_bias = (net(x) - net.head.bias).detach().T[[0, 3]]
    assert relative(relevance.flatten(2).sum(-1), without_bias) <= 1e-5


def test_grad_cam_plus_plus_lives_with_tiny_gradients() -> None:
    net, x = ConvNet(3).eval(), image(3)
    parts = [ByHand(net).split(x, "conv2", 0)]
    truth = by_hand(GradCAMPlusPlus, [(A, g * 1e-20) for A, g in parts])

    class Faint(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return 1e-20 * self.net(x)

    assert relative(GradCAMPlusPlus("net.conv2")(Faint(), x, Logits(0)), truth) <= 1e-5


def test_auto_is_the_last_layer_with_a_grid_that_is_not_the_output() -> None:
    x = image(3, size=6)
    net = ConvNet(3).eval()
    for cam in CAMS:
        assert torch.equal(cam()(net, x, Logits(0, 1)), cam("act2")(net, x, Logits(0, 1)))
    reused = ConvNet(3, "reused").eval()
    assert torch.equal(HiResCAM()(reused, x, Logits(0)), HiResCAM("act1#1")(reused, x, Logits(0)))
    net = segmenter(3, x)
    targets = Region(1).fix(net(x))
    assert torch.equal(HiResCAM()(net, x, targets), HiResCAM("act#1")(net, x, targets))


class Counting(nn.Module):
    """Counts the forward passes of what it wraps."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.passes = net, 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return self.net(x)


@both_axes
def test_methods_and_layers_together_cost_one_forward_and_equal_each_alone(axes: int) -> None:
    net, x = Counting(ConvNet(axes, "inplace").eval()), image(axes, size=8)
    places = [cam(f"net.{layer}") for cam in CAMS for layer in ("conv1", "act1", "pool", "conv2", "act2")]
    methods: list[FirstOrder] = [*places, Gradient(), InputXGradient(), HiResCAM("net.conv2")]
    together = first_order(net, x, Logits(*range(4)), methods)
    assert net.passes == 1
    for method, found in zip(methods, together, strict=True):
        assert relative(found, method(net, x, Logits(*range(4)))) <= 1e-6


def test_no_method_is_no_map() -> None:
    assert first_order(ConvNet(2), image(2), Logits(0), []) == []


def test_the_graph_starts_at_the_shallowest_layer_and_holds_no_parameter() -> None:
    spies = [Spy() for _ in range(4)]
    layers = [convolution(3)(1, 4, 3), nn.ReLU(), convolution(3)(4, 4, 1), nn.ReLU()]
    net = nn.Sequential(*itertools.chain(*zip(layers, spies, strict=True)), Mean())
    cases: dict[tuple[str, ...], list[bool]] = {
        ("4",): [False, False, True, True],
        ("6", "2"): [False, True, True, True],
        ("7",): [False, False, False, False],
        ("",): [True, True, True, True],
    }
    for names, wanted in cases.items():
        for spy in spies:
            spy.wanted.clear()
        methods = [HiResCAM(name) if name else Gradient() for name in names]
        first_order(net, image(3), Outputs(0, 2), methods)
        assert [spy.wanted for spy in spies] == [[(w, False)] for w in wanted], names


def test_the_graph_starts_at_the_run_that_is_asked_for() -> None:
    relu, spies = nn.ReLU(), [Spy(), Spy(), Spy()]
    net = nn.Sequential(convolution(3)(1, 2, 3), relu, spies[0], convolution(3)(2, 2, 1), relu, spies[1], relu, spies[2], Mean())
    for run, wanted in enumerate(([True, True, True], [False, True, True], [False, False, True])):
        for spy in spies:
            spy.wanted.clear()
        HiResCAM(f"1#{run}")(net, image(3), Outputs(0))
        assert [spy.wanted for spy in spies] == [[(w, False)] for w in wanted], run


def test_a_cam_keeps_no_tensor_of_what_lies_before_its_layer() -> None:
    net, x = ConvNet(3, "inplace").eval(), image(3)

    def saved(layer: str) -> int:
        sizes: list[int] = []

        def pack(tensor: Tensor) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            GradCAM(layer)(net, x, Logits(0))
        return sum(sizes)

    cells = math.prod(x.shape[2:]) // 8 * 8 * len(x)  # 8 channels on half the grid along each axis
    assert saved("act2") < 100  # a mean and a linear layer: their few weights
    assert saved("conv2") < 2 * cells
    assert saved("conv1") > 6 * cells


REFUSED = {
    "head": r"a grid of 2 axes and several cells at layer 'head'; got shape \(2, 4\)",
    "conv": r"the name of a layer; got 'conv'. Close to it: conv[12], conv[12]",
    "act2": r"layer 'act2' to run in the forward pass; got no call of it; these ran: conv1, pool, conv2, act1, head",
    "act1": r"a layer that runs once for 'act1'; got 2 runs in one forward. Name the run: act1#0, act1#1",
    "act1#2": r"a run from act1#0 to act1#1; got act1#2",
    "act1#x": r"name#0, name#1, ... for one of its runs; got 'act1#x'",
}


@pytest.mark.parametrize("layer", REFUSED)
def test_a_layer_that_cannot_be_explained_is_refused(layer: str) -> None:
    with pytest.raises(BadInput, match=REFUSED[layer]):
        GradCAM(layer)(ConvNet(2, "reused"), image(2), Logits(0))


def test_a_layer_off_the_path_is_refused() -> None:
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.left, self.right = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 2, 3), nn.Conv2d(3, 2, 3)

        def forward(self, x: Tensor) -> list[Tensor]:
            h = self.trunk(x)
            return [self.left(h).mean((2, 3)), self.right(h).mean((2, 3))]

    net, x = TwoHeads(), image(2)
    GradCAM("right")(net, x, Select(1, Logits(0)))
    with pytest.raises(BadInput, match=r"scores without a gradient .*a layer off the path"):
        GradCAM("left")(net, x, Select(1, Logits(0)))
    with pytest.raises(BadInput, match="a layer that the target depends on, not 'left'; got no path"):
        first_order(net, x, Select(1, Logits(0)), [GradCAM("trunk"), GradCAM("left")])


class Answers(nn.Module):
    """Convolutions whose output then goes through something."""

    def __init__(self, change) -> None:
        super().__init__()
        self.net, self.change = classifier(2), change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.net(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.argmax(1, keepdim=True), "scores as the model's output; got a tensor of torch.int64.*argmax"),
        (lambda s: s.detach(), "scores without a gradient"),
        (lambda s: s.argmax(1, keepdim=True).float(), "scores without a gradient.*perturbation method"),
        (lambda s: s / 0, "finite scores; got .*nf"),
        (lambda s: s[:1], r"scores of shape \(targets, 2\).*got shape \(1, 1\).*batch axis"),
        (lambda s: s.sum(0), r"an output of shape \(batch, values\) for Logits\(0\); got shape \(4,\)"),
    ],
    ids=["argmax", "detached", "rounded", "infinite", "batch lost", "batch summed"],
)
def test_a_model_without_a_usable_score_is_refused(change, message: str) -> None:
    net, x = Answers(change), image(2)
    for method in (Gradient(), GradCAM("net.6")):
        with pytest.raises(BadInput, match=message):
            method(net, x, Logits(0))


def test_a_layer_that_folds_slices_into_the_batch_is_refused() -> None:
    class Slices(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Conv2d(1, 3, 3)
            self.outer = nn.Conv3d(3, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = self.inner(x.transpose(1, 2).flatten(0, 1))
            return self.outer(h.unflatten(0, (len(x), -1)).transpose(1, 2)).flatten(2).mean(-1)

    net, x = Slices(), image(3)
    assert GradCAM("outer")(net, x, Logits(0)).shape == (1, 2, 1, 12, 14, 8)
    with pytest.raises(BadInput, match=r"a grid of 3 axes and several cells at layer 'inner'; got shape \(24, 3, 14, 8\)"):
        GradCAM("inner")(net, x, Logits(0))

    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 3, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.conv(torch.cat(x.split(6, 2)))
            return h.mean((2, 3)).unflatten(0, (2, -1)).sum(0)

    with pytest.raises(BadInput, match=r"2 batch items at layer 'conv', as in the input; got shape \(4, 3, 4, 14\)"):
        GradCAM("conv")(Halves(), image(2), Logits(0))


def test_whole_numbers_have_no_gradient_at_the_input_but_at_a_layer() -> None:
    net, x = nn.Sequential(Float(), *classifier(2)).eval(), (255 * image(2)).to(torch.uint8)
    with pytest.raises(BadInput, match=r"an image of floating-point numbers; got torch.uint8"):
        Gradient()(net, x, Logits(0))
    assert torch.equal(GradCAM("7")(net, x, Logits(0)), GradCAM("7")(net, x.float(), Logits(0)))


class Float(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.float()


def test_segmenters_keep_batch_norm_statistics_in_train_mode() -> None:
    net, x = Segmenter(3).train(), image(3)
    before = net.norm.running_mean.clone()
    GradCAM("second")(net, x, Region(1, mask=torch.ones(x.shape[2:], dtype=torch.bool)))
    assert torch.equal(net.norm.running_mean, before)


class WithAuxiliary(nn.Module):
    """As DeepLab: two heads on shared features, of which the auxiliary one runs last."""

    def __init__(self, axes: int, kind: str) -> None:
        super().__init__()
        conv = convolution(axes)
        self.backbone = conv(1, 4, 3, padding=1)
        self.classifier = nn.Sequential(conv(4, 5, 3, padding=1), nn.ReLU(), conv(5, 3, 1))
        self.auxiliary = nn.Sequential(conv(4, 6, 3, padding=1), nn.ReLU(), conv(6, 3, 1))
        self.kind = kind

    def forward(self, x: Tensor) -> object:
        h = self.backbone(x)
        out, aux = self.classifier(h), self.auxiliary(h)
        return {"out": out, "aux": aux} if self.kind == "dict" else (out, aux)


@both_axes
@pytest.mark.parametrize("kind", ["dict", "tuple"])
def test_auto_is_the_last_layer_that_the_chosen_output_depends_on(axes: int, kind: str) -> None:
    x = image(axes, batch=1)
    net = WithAuxiliary(axes, kind).eval()
    for key, head in (("out", "classifier"), ("aux", "auxiliary")):
        part = key if kind == "dict" else ("out", "aux").index(key)
        mask = torch.ones(x.shape[2:], dtype=torch.bool)
        targets = Select(part, Region(1, mask=mask))
        layer = f"{head}.1"
        for cam in (HiResCAM, ScoreCAM, AblationCAM, EigenCAM):
            found = cam()(net, x, targets.fix(net(x)))
            assert torch.equal(found, cam(layer)(net, x, targets.fix(net(x)))), (cam, layer)
        (explanation,) = predict(net, Volume(x[0].numpy())).explain([HiResCAM()], targets)
        assert explanation.method == HiResCAM(layer)
        injected = inject(net, HiResCAM(), target=Region(1, mask=mask), output=part)
        injected(x)
        assert list(injected.maps.methods.values()) == [HiResCAM(layer)]


def test_finding_that_layer_keeps_no_activations() -> None:
    x = image(3, batch=1)
    net = WithAuxiliary(3, "dict").eval()
    _, found = look(net, x)
    kept = []

    def chosen(output: dict[str, Tensor]) -> Tensor:
        assert [memory.expired() for memory in kept] == [True]
        return output["out"]

    net.classifier[1].register_forward_hook(lambda m, a, features: kept.append(StorageWeakRef(features.untyped_storage())))
    reached = reaching(net, x, chosen, found)
    assert [layer.name for layer in reached] == ["backbone", *(f"classifier.{i}" for i in range(3)), "classifier"]
    assert reaching(net, x, lambda o: o["out"].detach(), found) == found
