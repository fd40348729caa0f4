"""Replay: the part of a network behind one layer gives what the whole network would give."""

from collections.abc import Callable

import pytest
import torch
from test_contracts import disturb, state
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from worlds import RELU_STYLES, Breaks, ConvNet, Mean, Returns, Segmenter, classifier, edited, image, relative, segmenter

from radiolucent import BadInput, layers
from radiolucent.hooks import evaluating, replaying, tap

both_axes = pytest.mark.parametrize("axes", [2, 3])


def agrees(net: nn.Module, x: Tensor, layer: str) -> None:
    """The layer's own output, another one, and three others at once, against the whole network with the layer's output edited."""
    net.eval()
    draw = torch.Generator().manual_seed(2)
    with evaluating(net), torch.no_grad():
        kept: list[Tensor] = []
        with edited(net, layer, lambda output: kept.append(output.clone()) or output):
            plain = net(x.clone())
        with replaying(net, layer, x) as replay:
            assert torch.equal(replay.output, plain)
            assert torch.equal(replay(replay.value), plain)
            assert torch.equal(replay.value, kept[0])
            others = torch.randn(3, *kept[0].shape, generator=draw)
            given = others.clone()
            one, three = replay(others[0]), replay(others.flatten(0, 1))
            assert torch.equal(replay(others[0]), one)
            assert torch.equal(replay.value, kept[0])
            assert torch.equal(others, given)
        truth = []
        for other in others:
            with edited(net, layer, lambda output, other=other: other.clone()):
                truth.append(net(x.clone()))
    assert not torch.allclose(truth[0], plain), "this layer does not matter"
    assert torch.equal(one, truth[0])
    assert relative(three, torch.cat(truth)) <= 1e-5


@both_axes
@pytest.mark.parametrize("style", RELU_STYLES)
def test_every_style_of_relu(style: str, axes: int) -> None:
    for layer in ("conv1", "pool", "conv2"):
        agrees(ConvNet(axes, style), image(axes), layer)


@both_axes
def test_layers_that_run_twice(axes: int) -> None:
    for layer in ("act1#0", "act1#1"):
        agrees(ConvNet(axes, "reused"), image(axes), layer)
    x = image(axes)
    for layer in ("first", "act#0", "second"):
        agrees(segmenter(axes, x), x, layer)


@both_axes
def test_monai_networks_with_skip_connections(axes: int) -> None:
    nets = pytest.importorskip("monai.networks.nets")
    x = torch.rand(2, 1, *(32, 16, 32)[:axes])
    unet = nets.UNet(axes, 1, 3, channels=(4, 8, 16), strides=(2, 2), num_res_units=1).eval()
    for layer in [layer.name for layer in layers(unet, x) if layer.is_spatial and layer.runs == 1][::7]:
        agrees(unet, x, layer)
    resnet = nets.resnet18(spatial_dims=axes, n_input_channels=1, num_classes=4)
    for layer in ("bn1", "layer2.0.conv1", "layer4"):
        agrees(resnet, x, layer)
    if axes == 2:
        dense = nets.DenseNet121(axes, 1, 4)
        for layer in ("features.denseblock2.denselayer3.layers.conv1", "features.transition3", "features.norm5"):
            agrees(dense, torch.rand(2, 1, 64, 64), layer)


class Around(nn.Module):
    """Functional code before, beside and behind its layer: uses the input's shape, its values, and a kept feature map in place."""

    def __init__(self) -> None:
        super().__init__()
        self.early = nn.Conv2d(1, 3, 3, padding=1)
        self.body = nn.Conv2d(3, 3, 3, padding=1, stride=2)
        self.head = nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x - x.mean((2, 3), keepdim=True)
        early = self.early(x)
        body = F.interpolate(self.body(early), size=x.shape[2:])
        early.mul_(2)
        early += body
        return self.head(F.relu_(early)) * x


def test_code_between_modules_runs_again() -> None:
    agrees(Around(), image(2), "body")


def test_a_part_that_also_runs_inside_one_that_had_finished() -> None:
    shared = nn.Conv2d(2, 2, 3, padding=1)
    net = nn.Sequential(nn.Sequential(nn.Conv2d(1, 2, 3), shared, nn.ReLU()), nn.Conv2d(2, 2, 3), shared, nn.ReLU(), shared)
    agrees(net, image(2), "1")


class Counts(nn.Module):
    """The identity; counts its runs."""

    runs = 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return x.clone()


def test_what_had_finished_is_neither_run_nor_kept_unless_it_is_used() -> None:
    counts = Counts()
    net = nn.Sequential(nn.Conv2d(1, 64, 3), counts, nn.Conv2d(64, 2, 3), nn.ReLU(inplace=True), Mean())
    x = image(2)
    with evaluating(net), torch.no_grad(), replaying(net, "2", x) as replay:
        for _ in range(3):
            replay(replay.value.repeat(2, 1, 1, 1))
        kept = [t for runs in replay._kept.values() for t in runs if isinstance(t, Tensor)]
        assert len(kept) == 3
        assert sum(t.untyped_storage().nbytes() for t in kept) < 100
        for k in (2, 1):  # nor is it for the next replay
            replay(replay.value.repeat(k, 1, 1, 1))
            copies = [t for runs in replay._copies[1].values() for t in runs]
            assert sum(t.untyped_storage().nbytes() for t in copies) < 100
        assert replay.largest == replay.value.numel()
    assert counts.runs == 1


@both_axes
@pytest.mark.parametrize("style", RELU_STYLES)
def test_gradients_follow_from_the_value_on(style: str, axes: int) -> None:
    net, x = ConvNet(axes, style), image(axes)
    with evaluating(net):
        with tap(net, ["conv2"]) as taps:
            score = net(taps.input(x))[:, 1].sum()
            truth = torch.autograd.grad(score, taps["conv2"])[0]
        with replaying(net, "conv2", x) as replay:
            value = replay.value.clone().requires_grad_()
            found = torch.autograd.grad(replay(value)[:, 1].sum(), value)[0]
            twice = torch.cat([value, value])
            both = torch.autograd.grad(replay(twice)[:, 1].sum(), value)[0]
    assert torch.equal(found, truth)
    assert relative(both, 2 * truth) <= 1e-5


@pytest.mark.parametrize("kind", ["dict", "tuple", "list"])
def test_outputs_of_any_form(kind: str) -> None:
    net, x = Returns(ConvNet(2), kind).eval(), image(2)
    with evaluating(net), torch.no_grad(), replaying(net, "network.conv2", x) as replay:
        output = replay(replay.value.repeat(2, 1, 1, 1))
    logits, same = output.values() if kind == "dict" else output
    assert relative(logits, net.network(x).detach().repeat(2, 1)) <= 1e-6
    assert torch.equal(same, x.repeat(2, 1, 1, 1))


def test_hooks_and_forwards_of_the_owner_stay_and_count_once() -> None:
    net, x = ConvNet(2).eval(), image(2)
    handle = net.conv1.register_forward_hook(lambda module, args, output: output * 2)
    net.pool.forward = lambda x: F.max_pool2d(x, 2) + 1  # type: ignore[method-assign]
    own = net.pool.forward
    agrees(net, x, "conv2")
    assert net.pool.forward is own
    handle.remove()


@pytest.mark.parametrize("when", [1, 2, 3])
def test_everything_is_put_back_when_the_model_breaks(when: int) -> None:
    breaks = Breaks("again")
    breaks.calls = 2 - when
    net = nn.Sequential(*classifier(2), breaks)
    disturb(net)
    before = state(net)
    with pytest.raises(RuntimeError, match="the model broke"), evaluating(net), replaying(net, "5", image(2)) as replay:
        replay(replay.value)
    assert state(net) == before
    assert breaks.calls == 2


def test_everything_is_put_back_when_the_caller_breaks() -> None:
    net = classifier(2)
    before = state(net)
    with pytest.raises(KeyError), evaluating(net), replaying(net, "5", image(2)):
        raise KeyError
    assert state(net) == before


class Random(nn.Module):
    """Adds noise."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class Mixes(nn.Module):
    """Takes the mean over the batch away."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0, keepdim=True) * torch.arange(len(x)).sum()


class Ignored(nn.Module):
    """Uses what an in-place module left in its input and not what it returned."""

    def __init__(self) -> None:
        super().__init__()
        self.early, self.act, self.late = nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Conv2d(2, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.early(x)
        self.act(x)
        return self.late(x)[..., 1:-1] + x[..., 2:-2, 3:-3].sum()


class Checkpointed(nn.Module):
    """Runs its layers a second time in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inside, x, use_reentrant=False)


class Skips(nn.Module):
    """Has a layer that does not run."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Conv2d(1, 2, 3), nn.Conv2d(1, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


REFUSED: list[tuple[Callable[[], nn.Module], str, str]] = [
    (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), Random()), "0", "the model's own output .* runs again; got another one"),
    (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), Mixes()), "0", "for several copies of the batch at once; got another"),
    (Ignored, "late", "the model's own output .* runs again; got another one"),
    (Skips, "unused", "layer 'unused' to run in the forward pass; got no call"),
    (lambda: Segmenter(2), "act", "a layer that runs once for 'act'; got 2 runs .*Name the run: act#0, act#1"),
    (lambda: Segmenter(2), "act#2", "a run from act#0 to act#1; got act#2"),
    (lambda: Segmenter(2), "frist", "the name of a layer; got 'frist'. Close to it: first"),
    (lambda: nn.Sequential(Returns(nn.Conv2d(1, 2, 3), "tuple")), "0", "a tensor as the output of layer '0'; got tuple"),
]


@pytest.mark.parametrize(("make", "layer", "message"), REFUSED, ids=[message[:25] for _, _, message in REFUSED])
def test_what_cannot_be_replayed_is_refused(make: Callable[[], nn.Module], layer: str, message: str) -> None:
    net = make().eval()
    before = state(net) | {"rng": torch.get_rng_state().tolist()}
    with (
        pytest.raises(BadInput, match=message),
        evaluating(net),
        torch.no_grad(),
        replaying(net, layer, image(2)) as replay,
    ):
        replay(replay.value.repeat(2, 1, 1, 1))
    assert state(net) == before


def test_a_value_of_another_shape_is_refused() -> None:
    net = ConvNet(2)
    with evaluating(net), replaying(net, "conv2", image(2)) as replay:
        for wrong in (replay.value[:1], replay.value[[0, 1, 0]], replay.value[:, :3], replay.value[:0]):
            with pytest.raises(BadInput, match=r"a shape \(k \* 2, ...\) like the layer's own"):
                replay(wrong)


def test_a_checkpoint_that_runs_the_layer_again_is_refused() -> None:
    net = Checkpointed()
    with evaluating(net), replaying(net, "inside.2", image(2)) as replay:
        value = replay.value.clone().requires_grad_()
        score = replay(value).sum()
        with pytest.raises(BadInput, match=r"layers that run once in a pass.*checkpoint"):
            score.backward()
