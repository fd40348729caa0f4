"""Score-CAM and Ablation-CAM: the papers' equations by hand, closed forms, and pytorch-grad-cam where it can be imported."""

import sys
from functools import partial
from types import ModuleType

import pytest
import torch
from conftest import REPOSITORY
from torch import Tensor, nn
from torch.nn import functional as F
from worlds import Bright, ConvNet, convolution, edited, image, relative, segmenter

from radiolucent import BadInput, Logits, Region, Volume, explain
from radiolucent.methods import AblationCAM, ScoreCAM
from radiolucent.protocols import Method

both_axes = pytest.mark.parametrize("axes", [2, 3])


def scaled(A: Tensor, grid: tuple[int, ...]) -> Tensor:
    """One feature map (*cells), upsampled and from 0 to 1."""
    mode = {2: "bilinear", 3: "trilinear"}[A.ndim]
    H = F.interpolate(A[None, None], grid, mode=mode, align_corners=False)[0, 0]
    return (H - H.min()) / (H.max() - H.min())


# Score-CAM


@both_axes
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("batch", [0, 3])
@torch.no_grad()
def test_score_cam_is_its_algorithm(batch: int, relu: bool, axes: int) -> None:
    net, x = ConvNet(axes, channels=2).eval(), image(axes, channels=2)
    net.head.weight *= 1000  # scores that differ enough for the softmax to show
    features = net.conv2(net.pool(torch.relu(net.conv1(x))))
    found = ScoreCAM("conv2", relu, batch=batch)(net, x, Logits(2, 0))
    assert found.shape == (2, 2, 1, *features.shape[2:])
    for b, A in enumerate(features):
        S = torch.stack([net((x[b] * scaled(a, tuple(x.shape[2:])))[None])[0, [2, 0]] for a in A])
        alpha = (S - net(torch.zeros_like(x[:1]))[0, [2, 0]]).softmax(0)
        assert alpha.max() > 2 / len(A)
        L = torch.einsum("kt,k...->t...", alpha, A)
        assert L.min() < 0 < L.max()
        assert relative(found[:, b, 0], L.relu() if relu else L) <= 1e-5


@both_axes
def test_score_cam_of_a_region(axes: int) -> None:
    x = image(axes, size=8)
    net = segmenter(axes, x)
    targets = Region(1, 2, reduce="mean").fix(net(x))
    with torch.no_grad():
        A = net.norm(net.first(x))
        H = torch.stack([torch.stack([scaled(a, tuple(x.shape[2:])) for a in item]) for item in A])
        S = torch.stack([targets(net(x * H[:, k, None])) for k in range(A.shape[1])])
        truth = torch.einsum("ktb,bk...->tb...", S.softmax(0), A).relu().unsqueeze(2)
    assert relative(ScoreCAM("norm")(net, x, targets), truth) <= 1e-5


@both_axes
def test_score_cam_of_one_feature_map_is_that_map(axes: int) -> None:
    x = image(axes)
    assert relative(ScoreCAM("above")(Bright(axes), x, Logits(0, 1)), (x - 0.5).relu().expand(2, *x.shape)) <= 1e-6
    assert relative(ScoreCAM("above", relu=False)(Bright(axes), x, Logits(0)), (x - 0.5)[None]) <= 1e-6


def test_a_feature_map_without_contrast_shows_the_baseline() -> None:
    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.two = nn.Conv2d(1, 2, 1)
            self.two.weight.data = torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1)
            self.seen: list[Tensor] = []

        def forward(self, x: Tensor) -> Tensor:
            self.seen.append(x.clone())
            return self.two(x).flatten(2).mean(-1)

    net, x = Keeps(), image(2, batch=1) + 1
    ScoreCAM("two", baseline="minimum", batch=1)(net, x, Logits(0))
    _, with_contrast, without = net.seen
    H = (x - x.min()) / (x.max() - x.min())
    assert relative(with_contrast, x * H + x.min() * (1 - H)) <= 1e-6
    assert torch.equal(without, x.min().expand_as(x))


# Ablation-CAM


@both_axes
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("batch", [0, 3])
@torch.no_grad()
def test_ablation_cam_is_its_equation(batch: int, relu: bool, axes: int) -> None:
    net, x = ConvNet(axes, "inplace", channels=2).eval(), image(axes, channels=2)
    A, S = net.conv2(net.pool(torch.relu(net.conv1(x)))), net(x).T[[2, 0]]
    truth = torch.zeros(2, *A[:, :1].shape)
    for k in range(A.shape[1]):
        without = A.clone()
        without[:, k] = 0
        S_k = net.head(torch.relu(without).flatten(2).mean(-1)).T[[2, 0]]
        truth += ((S - S_k) / S.abs()).reshape(2, 2, *[1] * (axes + 1)) * A[:, k : k + 1]
    assert truth.min() < 0 < truth.max()
    assert relative(AblationCAM("conv2", relu, batch)(net, x, Logits(2, 0)), truth.relu() if relu else truth) <= 1e-5


@both_axes
def test_ablation_cam_before_a_mean_and_a_linear_head_is_known(axes: int) -> None:
    net, x = ConvNet(axes).eval(), image(axes)
    with torch.no_grad():
        A = torch.relu(net.conv2(net.pool(torch.relu(net.conv1(x)))))
        shares = net.head.weight[:, None] * A.flatten(2).mean(-1) / net(x).T.abs()[..., None]
        truth = torch.einsum("tbk,bk...->tb...", shares, A).unsqueeze(2)
    found = AblationCAM("act2", relu=False)(net, x, Logits(*range(4)))
    for t, b in [(t, b) for t in range(4) for b in range(2)]:  # each has its own |S|
        assert relative(found[t, b], truth[t, b]) <= 1e-4


@both_axes
def test_ablation_cam_keeps_its_sign_where_the_score_is_negative(axes: int) -> None:
    x = image(axes)
    A = (x - 0.5).relu()
    assert relative(AblationCAM("act", relu=False)(Bright(axes), x, Logits(0, 1)), torch.stack([A, -A])) <= 1e-6


@both_axes
def test_ablation_cam_of_a_region_behind_a_residual(axes: int) -> None:
    x = image(axes, size=8)
    net = segmenter(axes, x)
    targets = Region(1, 2).fix(net(x))
    with torch.no_grad():
        A = net.second(torch.relu(net.norm(net.first(x))))
        S, truth = targets(net(x)), torch.zeros(2, 2, 1, *x.shape[2:])
        for k in range(A.shape[1]):
            zeroed = torch.ones(A.shape[1]).index_fill(0, torch.tensor(k), 0).reshape(-1, *[1] * axes)
            with edited(net, "second", lambda output, zeroed=zeroed: output * zeroed):
                S_k = targets(net(x))
            truth += ((S - S_k) / S.abs()).reshape(2, 2, *[1] * (axes + 1)) * A[:, k : k + 1]
    assert relative(AblationCAM("second", relu=False)(net, x, targets), truth) <= 1e-5


# Both


BOTH = pytest.mark.parametrize("kind", [ScoreCAM, AblationCAM], ids=["score-cam", "ablation-cam"])


@BOTH
def test_auto_is_the_last_layer_with_a_grid(kind: type[Method]) -> None:
    net, x = ConvNet(2, "functional").eval(), image(2)
    assert torch.equal(kind()(net, x, Logits(1)), kind("conv2")(net, x, Logits(1)))  # type: ignore[call-arg]


@BOTH
def test_layers_that_cannot_serve_are_refused(kind: type[Method]) -> None:
    net, x = ConvNet(2, "reused").eval(), image(2)
    for layer, message in {
        "head": "a grid of 2 axes and several cells at layer 'head'; got shape",
        "act1": "a layer that runs once for 'act1'",
        "act2": "layer 'act2' to run in the forward pass",
        "conv3": "the name of a layer; got 'conv3'",
    }.items():
        with pytest.raises(BadInput, match=message):
            kind(layer)(net, x, Logits(0))  # type: ignore[call-arg]


@BOTH
def test_explained_on_the_scan_at_all_layers(kind: type[Method]) -> None:
    scan = Volume(torch.rand(1, 12, 16, 10, generator=torch.Generator().manual_seed(0)).numpy())
    found = explain(ConvNet(3).eval(), scan, kind("act2"), Logits(1))  # type: ignore[call-arg]
    assert found.relevance[0].data.shape == (1, 12, 16, 10)


# pytorch-grad-cam


@pytest.fixture
def grad_cam(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The package, where it and its torchvision can be imported."""
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    try:
        from calling import declare_torchvision_operators

        declare_torchvision_operators()
        import pytorch_grad_cam
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"pytorch-grad-cam is not here: {error}")
    return pytorch_grad_cam


def theirs(method: type, net: nn.Module, layer: nn.Module, x: Tensor, target: int) -> Tensor:
    targets = [sys.modules["pytorch_grad_cam.utils.model_targets"].ClassifierOutputTarget(target)] * len(x)
    with method(net, [layer]) as cam:
        return torch.from_numpy(cam(x, targets))


def as_theirs(relevance: Tensor, x: Tensor) -> Tensor:
    """Our (b, 1, *cells) on the way that theirs goes from the weighted sum to the picture."""
    scale = sys.modules["pytorch_grad_cam.utils.image"].scale_cam_image
    return torch.from_numpy(scale(scale(relevance[:, 0].relu().numpy(), tuple(x.shape[:1:-1]))))


def networks() -> list[tuple[nn.Module, str, Tensor]]:
    plain = ConvNet(2, channels=3)
    found = [(plain.eval(), "act2", image(2, channels=3, size=24))]
    nets = pytest.importorskip("monai.networks.nets")
    resnet = nets.resnet18(spatial_dims=2, n_input_channels=1, num_classes=5)
    return [*found, (resnet.eval(), "layer2", image(2, size=40))]


def test_score_cam_is_grad_cam_s_but_for_its_upsampling(grad_cam: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    # Theirs aligns the corner voxels' centres, as PyTorch's UpsamplingBilinear2d does; ours the fields of view.
    monkeypatch.setattr(nn, "UpsamplingBilinear2d", partial(nn.Upsample, mode="bilinear", align_corners=False))
    for net, layer, x in networks():
        for target in (0, 3):
            ours = ScoreCAM(layer)(net, x, Logits(target))[0]
            truth = theirs(grad_cam.ScoreCAM, net, net.get_submodule(layer), x, target)
            assert relative(as_theirs(ours, x), truth) <= 1e-4


def test_ablation_cam_is_grad_cam_s_where_scores_are_positive_and_features_begin_at_zero(grad_cam: ModuleType) -> None:
    for net, layer, x in networks():
        head = net.head if isinstance(net, ConvNet) else net.fc
        head.weight.data.abs_()  # S > 0 behind a ReLU
        head.bias.data.abs_()
        for target in (0, 3):
            ours = AblationCAM(layer)(net, x, Logits(target))[0]
            truth = theirs(grad_cam.AblationCAM, net, net.get_submodule(layer), x, target)
            assert relative(as_theirs(ours, x), truth) <= 1e-4


def test_grad_cam_ablates_negative_features_far_below_zero_and_this_package_does_not(grad_cam: ModuleType) -> None:
    net, x = (
        nn.Sequential(convolution(2)(1, 3, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).eval(),
        image(2),
    )
    net[4].bias.data += 20
    ours = AblationCAM("1", relu=True)(net, x, Logits(0))[0]
    assert relative(as_theirs(ours, x), theirs(grad_cam.AblationCAM, net, net[1], x, 0)) > 0.01
