"""Tiled: MONAI's prediction, and the gradients of the sum of its windows, with the graph of one window at a time."""

from __future__ import annotations

import copy
import json
import weakref
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from test_contracts import disturb, small, state, world
from torch import Tensor, nn
from torch.nn import functional as F
from worlds import Returns, Segmenter, Transformer, image, relative, segmenter

from radiolucent import METHODS, BadInput, Region, Volume, explain, inject, layers, load
from radiolucent.hooks import rewriting
from radiolucent.methods import (
    LRP,
    DeconvNet,
    GradCAM,
    Gradient,
    GuidedBackprop,
    HiResCAM,
    InputXGradient,
    IntegratedGradients,
    KernelSHAP,
    LayerCAM,
    Occlusion,
    SaliencyTubes,
    SmoothGrad,
)
from radiolucent.methods.streaming import stream
from radiolucent.provenance import weights_hash
from radiolucent.scoring import Copies, score, scoring
from radiolucent.targets import Overlapping, Select
from radiolucent.tiling import Tiled

BLENDS = ("constant", "gaussian")
every_blend = pytest.mark.parametrize("blend", BLENDS)
every_axes = pytest.mark.parametrize("axes", [2, 3])


class Whole:
    """A target that can only be asked for the whole output: nobody is told that it is a sum."""

    def __init__(self, targets: Any) -> None:
        self.targets = targets

    def __call__(self, output: Any) -> Tensor:
        return self.targets(output)

    def names(self, classes: Sequence[str] = ()) -> tuple[str, ...]:
        return self.targets.names(classes)

    def fix(self, output: Any) -> Whole:
        return self


def counted(model: nn.Module) -> list[tuple[int, ...]]:
    """The shapes that the model is given from now on."""
    calls: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(lambda module, args: calls.append(tuple(args[0].shape)))
    return calls


def fixed(model: nn.Module, x: Tensor, *labels: int, **settings: Any) -> Region:
    with torch.no_grad():
        return Region(*(labels or (2, 0, 1)), **settings).fix(model(x))


def by_hand(grid: Sequence[int], window: int, overlap: float, blend: str) -> list[tuple[tuple[slice, ...], Tensor]]:
    """Windows and their shares, written down once more for images larger than the window."""
    starts = []
    for n in grid:
        along = [0]
        while along[-1] + window < n:
            along.append(min(along[-1] + int(window * (1 - overlap)), n - window))
        starts.append(along)
    places = [tuple(slice(a, a + window) for a in corner) for corner in product(*starts)]
    g = torch.ones((window,) * len(grid), dtype=torch.float64)
    if blend == "gaussian":
        distance = sum(
            (i.double() - (window - 1) / 2) ** 2 for i in torch.meshgrid(*[torch.arange(window)] * len(grid), indexing="ij")
        )
        g = torch.exp(-distance / (2 * (window / 8) ** 2)).clamp(min=1e-3)
    total = torch.zeros(tuple(grid), dtype=torch.float64)
    for where in places:
        total[where] += g
    return [(where, g / total[where]) for where in places]


# ---- prediction


def monai_networks() -> dict[str, Callable[[], tuple[nn.Module, tuple[int, ...], Any]]]:
    from monai.networks.nets import SwinUNETR, UNet

    def unet(axes: int) -> nn.Module:
        return UNet(axes, 1, 3, channels=(4, 8, 16), strides=(2, 2), norm="instance")

    return {
        "unet 2d": lambda: (unet(2), (50, 37), (16, 24)),
        "unet 2d, smaller than the window": lambda: (unet(2), (50, 11), 16),
        "unet 3d": lambda: (unet(3), (20, 26, 33), (16, 16, 8)),
        "unet 3d, smaller than the window": lambda: (unet(3), (9, 15, 20), (16, 16, 8)),
        "swin 2d": lambda: (SwinUNETR(1, 3, feature_size=12, spatial_dims=2), (70, 64), 64),
        "swin 3d": lambda: (SwinUNETR(1, 3, feature_size=12), (64, 32, 37), (64, 32, 32)),
    }


@pytest.mark.parametrize("name", list(monai_networks()))
def test_the_prediction_is_monais(name: str) -> None:
    from monai.inferers import sliding_window_inference

    net, grid, window = monai_networks()[name]()
    net.eval()
    x = torch.rand(1 if "swin" in name else 2, 1, *grid)
    uneven = tuple((0.5, 0.3, 0.6)[: len(grid)])
    for blend, overlap, padding, batch in (("constant", 0.25, "constant", 1), ("gaussian", uneven, "replicate", 3)):
        with torch.no_grad():
            found = Tiled(net, window, overlap, blend, padding, batch=batch)(x)
            truth = sliding_window_inference(x, window, 2, net, overlap, blend, padding_mode=padding)
        assert relative(found, truth) <= 1e-5


@pytest.mark.parametrize("padding", ["constant", "reflect", "replicate", "circular"])
def test_its_gradient_is_that_of_monais_whole_graph(padding: str) -> None:
    from monai.inferers import sliding_window_inference

    net = segmenter(2, image(2, 2, size=14))
    x, window = image(2, 2, size=14)[:, :, :6].clone().requires_grad_(), (8, 9)
    outer = torch.randn(2, 3, *x.shape[2:])
    value = 0.3 if padding == "constant" else 0.0
    tiled = Tiled(net, window, 0.5, "gaussian", padding, value)
    truth = sliding_window_inference(x, window, 1, net, 0.5, "gaussian", padding_mode=padding, cval=value)
    weights = list(net.parameters())  # for who trains through it
    found = torch.autograd.grad(tiled(x), [x, *weights], outer)
    slow = torch.autograd.grad(truth, [x, *weights], outer)
    for a, b in zip(found, slow, strict=True):
        assert relative(a, b) <= 1e-4


@pytest.mark.parametrize("kind", ["dict", "tuple", "list"])
def test_outputs_of_several_tensors_are_blended_each(kind: str) -> None:
    x = image(2, size=16)
    net = segmenter(2, x)
    with torch.no_grad():
        output = Tiled(Returns(net, kind), 8)(x)
    first, second = ("logits", "features") if kind == "dict" else (0, 1)
    assert torch.equal(output[first], Tiled(net, 8)(x))
    assert relative(output[second], x) <= 1e-6
    target = Select(first, fixed(Tiled(net, 8), x))
    assert torch.equal(Gradient()(Tiled(Returns(net, kind), 8), x, target), Gradient()(Tiled(net, 8), x, target.target))
    assert relative(Gradient()(Tiled(Returns(net, kind), 8), x, Whole(target)), Gradient()(Tiled(net, 8), x, target.target)) <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_and_is_added_up_in_single(dtype: torch.dtype) -> None:
    x = image(2, size=16)
    net = segmenter(2, x)
    truth, target = Gradient()(Tiled(net, 8, 0.5), x, fixed(net, x)), fixed(net, x)
    logits = Tiled(net, 8, 0.5)(x).detach()
    tiled = Tiled(copy.deepcopy(net).to(dtype), 8, 0.5)
    assert tiled(x.to(dtype)).dtype == dtype
    assert relative(tiled(x.to(dtype)).detach().float(), logits) < 0.03
    for targets in (target, Whole(target)):
        found = Gradient()(tiled, x.to(dtype), targets)
        assert found.dtype == torch.float32
        assert relative(found, truth) < 0.1  # a ReLU near 0 may turn


def test_windows_lie_as_nnunet_s_do() -> None:
    # From its documentation: as few equal steps as are no longer than the patch times the step size.
    x = torch.zeros(1, 1, 110, 128)
    tiled = Tiled(nn.Identity(), (64, 128), 0.5, "nnunet")
    assert [piece.where[0].start for piece in tiled.pieces(x)] == [0, 23, 46]
    weights = torch.stack([piece.weights[:, 64] for piece in tiled.pieces(x)])
    middle = weights[0, 32] / weights[0, 32 + 23] * (weights[1, 32] / weights[1, 32 - 23])
    assert middle > 1  # each window says most in its own middle, voxel 32
    assert relative(tiled(torch.rand(1, 2, 110, 128)), tiled(torch.rand(1, 2, 110, 128))) > 0
    x = torch.rand(1, 2, 110, 128)
    assert relative(tiled(x), x) <= 1e-5


def test_a_card_s_windows_are_used(tmp_path: Path) -> None:
    from monai.networks.nets import UNet
    from safetensors.torch import save_file

    settings = {"spatial_dims": 2, "in_channels": 1, "out_channels": 3, "channels": [4, 8], "strides": [2]}
    net, x = UNet(**settings).eval(), image(2, 1, size=20)
    save_file(net.state_dict(), tmp_path / "weights.safetensors")
    card = {"name": "n", "task": "segmentation", "network": "monai:UNet", "weights": "weights.safetensors", "arguments": settings}
    for more in ({"window": [8, 10], "overlap": 0.5, "blend": "gaussian"}, {"window": [8, 10], "overlap": [0.5, 0.25]}):
        (tmp_path / "card.json").write_text(json.dumps(card | more))
        model, _ = load(tmp_path)
        assert torch.equal(model(x), Tiled(net, **more)(x))
    from radiolucent.cli.options import in_windows

    assert torch.equal(in_windows(model, load(tmp_path)[1], "whole", None)(x), net(x))
    assert torch.equal(in_windows(net, load(tmp_path)[1], "12", 0.5)(x), Tiled(net, 12, 0.5)(x))
    assert torch.equal(in_windows(model, load(tmp_path)[1], None, 0.6)(x), Tiled(net, (8, 10), 0.6)(x))
    for window, overlap, message in (("many", None, "--window as one number"), ("whole", 0.5, "--overlap with a window")):
        with pytest.raises(BadInput, match=message):
            in_windows(net, load(tmp_path)[1], window, overlap)


# ---- gradients


@every_axes
@every_blend
def test_the_gradient_is_the_sum_over_the_windows(axes: int, blend: str) -> None:
    x = image(axes, size=14)
    net = segmenter(axes, x).double()
    x = x.double()
    tiled = Tiled(net, 7, 0.4, blend)
    for reduce in ("sum", "mean", "probability"):
        target = fixed(tiled, x, reduce=reduce)
        slow = torch.zeros(3, *x.shape, dtype=torch.float64)
        for where, share in by_hand(x.shape[2:], 7, 0.4, blend):
            window = x[(..., *where)].clone().requires_grad_()
            logits = net(window) * share
            placed = F.pad(logits, [p for s, n in zip(where[::-1], x.shape[:1:-1], strict=True) for p in (s.start, n - s.stop)])
            for t, score_t in enumerate(target(placed)):
                slow[t][(..., *where)] += torch.autograd.grad(score_t.sum(), window, retain_graph=True)[0]
        assert relative(Gradient()(tiled, x, target), slow) <= 1e-9
        assert relative(Gradient()(tiled, x, Whole(target)), slow) <= 1e-9
        assert relative(InputXGradient()(tiled, x, target), x * slow) <= 1e-9


@every_axes
@pytest.mark.parametrize("name", METHODS)
def test_one_window_over_the_whole_image_changes_nothing(axes: int, name: str) -> None:
    x = image(axes, size=8)
    net = world("segmentation", axes, name=name).model.eval()
    disturb(net)
    mask = torch.randint(0, 3, (2, *x.shape[2:]))
    target, method = Region(2, 1, mask=mask), small(name)
    tiled = Tiled(net, tuple(x.shape[2:]))
    before = state(net)
    truth = method(net, x, target)
    assert relative(method(tiled, x, target), truth) <= 1e-5
    assert state(net) == before


WHOLE = ("eigen-cam", "score-cam", "ablation-cam", "attention-rollout", "gradient-rollout", "smo-cam", "l2-caf")
WHOLE += ("attentive-response", "clear")
"""What has to see one layer of the whole image, and says so."""

SLICES = ("slice-attention", "slice-cam")
"""What needs volumes, and a model that takes them apart itself."""


@pytest.mark.parametrize("name", [n for n in METHODS if n not in (*WHOLE, *SLICES)])
def test_every_method_leaves_a_tiled_model_as_found(name: str) -> None:
    x = image(2, size=12)
    net = Segmenter(2)
    disturb(net)
    tiled = Tiled(net, 7, 0.4)
    target = Region(2, 1, mask=torch.randint(0, 3, (2, *x.shape[2:])))
    before = state(net), state(tiled)
    together = small(name)(tiled, x, target)
    assert (state(net), state(tiled)) == before
    assert together.isfinite().all()
    with pytest.raises(BadInput):
        small(name)(tiled, x, Region(1))  # not fixed
    assert (state(net), state(tiled)) == before


@pytest.mark.parametrize("method", [GuidedBackprop(), DeconvNet(), LRP(), LRP(composite="epsilon", first="w2")])
def test_changed_backward_rules_hold_when_windows_run_again(method: Any) -> None:
    x = image(2, size=14)
    net = segmenter(2, x)
    tiled = Tiled(net, 7, 0.4, "gaussian")
    target = fixed(tiled, x)
    found = method(tiled, x, target)
    assert relative(method(tiled, x, Whole(target)), found) <= 1e-5  # by way of the backward pass
    plain = InputXGradient() if isinstance(method, LRP) else Gradient()
    assert relative(found, plain(tiled, x, target)) > 0.05
    slow = torch.zeros_like(found)
    for where, share in by_hand(x.shape[2:], 7, 0.4, "gaussian"):
        part, _ = target.within(where, share.float())
        slow[(..., *where)] += method(net, x[(..., *where)], part)
    assert relative(found, slow) <= 1e-5


def test_modes_are_entered_for_the_second_run_and_left_again() -> None:
    x = image(2, 1, size=14).requires_grad_()
    net = segmenter(2, x.detach())
    met = []
    with rewriting({"conv2d": lambda call: met.append(torch.is_grad_enabled()) or None}):
        output = Tiled(net, 7, 0.0)(x)
    assert met == [False] * 3 * 6  # three convolutions in each of 2 x 3 windows
    output.sum().backward()
    assert met[18:] == [True] * 18
    net(x)
    assert len(met) == 36


def test_the_second_run_draws_the_same_numbers_and_leaves_no_trace() -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(x, 0.5, True)

    x = image(2, 1, size=14).requires_grad_()
    output = Tiled(Noisy(), 7)(x)
    before = torch.get_rng_state()
    torch.rand(5)
    after = torch.get_rng_state()
    (gradient,) = torch.autograd.grad(output.sum(), x)
    assert relative((gradient * x).detach(), output.detach()) <= 1e-5  # the output is linear in x, voxel by voxel
    assert torch.equal(torch.get_rng_state(), after)
    assert not torch.equal(before, after)


def test_autocast_holds_for_the_second_run() -> None:
    x = image(2, 1, size=14).requires_grad_()
    net = segmenter(2, x.detach())
    kinds = []
    net.head.register_forward_hook(lambda module, args, output: kinds.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        output = Tiled(net, 7)(x)
    assert output.dtype == torch.float32
    output.sum().backward()
    assert set(kinds) == {torch.bfloat16}


@pytest.mark.parametrize("tell", [True, False])
def test_windows_without_a_gradient_do_not_run_again(tell: bool) -> None:
    x = image(2, 1, size=20)  # 20 x 24
    net = segmenter(2, x)
    tiled = Tiled(net, 8, 0.0)
    mask = torch.zeros(1, 20, 24, dtype=torch.long)
    mask[:, 1:3, 9:12], mask[:, 12:14, 15:18] = 1, 2  # in 1 window, and in 4
    target = Region(1, 2, mask=mask)
    calls = counted(net)
    relevance = Gradient()(tiled, x, target if tell else Whole(target))
    # All targets together, only where they are; or the whole, and then each target's windows again.
    assert len(calls) == (5 if tell else 9 + 1 + 4)
    assert relevance[0, :, :, 8:].abs().max() == 0
    assert relevance[1, :, :, :4].abs().max() == 0


def test_a_plain_pass_and_one_per_window_explain_all_targets() -> None:
    x = image(2, 1, size=20)
    net = segmenter(2, x)
    tiled, calls = Tiled(net, 8, 0.0), counted(net)
    scan = Volume(x[0].numpy(), np.eye(4))
    found = explain(tiled, scan, Gradient(), Region(0, 1, 2))
    assert len(calls) == 9 + 1 + 9  # the prediction, a look at the layers, and the maps
    truth = Gradient()(tiled, x, fixed(tiled, x, 0, 1, 2))
    assert relative(torch.stack([torch.from_numpy(r.data) for r in found.relevance]), truth[:, 0]) <= 1e-6
    assert found.provenance["weights_sha256"] == weights_hash(net)
    assert (found.provenance["model"], found.provenance["windows"]["window"]) == ("Segmenter", 8)


class Kept(torch.autograd.Function):
    """The identity, whose graph is noticed for as long as it lives."""

    live: ClassVar[weakref.WeakSet[Any]] = weakref.WeakSet()
    most = 0

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        Kept.live.add(ctx)
        Kept.most = max(Kept.most, len(Kept.live))
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


@pytest.mark.parametrize("way", ["told", "whole", "layer", "slabs"])
def test_only_one_window_has_a_graph_at_a_time(way: str) -> None:
    class Watched(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return self.net(Kept.apply(x) if x.requires_grad else x)

    x = image(2, 1, size=20)
    tiled = Tiled(Watched(segmenter(2, x)), 8, 0.3)
    target = fixed(tiled, x)
    Kept.most = 0
    if way == "slabs":
        for _ in stream(Gradient(), tiled, x, target):
            pass
    elif way == "layer":
        SmoothGrad(HiResCAM("net.first"), samples=1)(tiled, x, target)
        with pytest.raises(BadInput, match="sum over voxels"):
            HiResCAM("net.first")(tiled, x, Whole(target))
    else:
        Gradient()(tiled, x, target if way == "told" else Whole(target))
    assert Kept.most == (0 if way == "layer" else 1)  # below the layer there is none at all


# ---- layers


@every_blend
def test_a_network_that_sees_single_voxels_has_the_map_of_the_whole_image(blend: str) -> None:
    class Pointwise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.head = nn.Conv2d(1, 5, 1), nn.Conv2d(5, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.features(x).relu())

    x, net = image(2, size=14), Pointwise()
    tiled, target = Tiled(net, 7, 0.4, blend), Region(1, 2, mask=torch.randint(0, 3, (2, 14, 18)))
    for method in (HiResCAM("features"), LayerCAM("features"), SaliencyTubes("features")):
        assert relative(method(tiled, x, target), method(net, x, target)) <= 1e-5
    found, truth = (GradCAM("features")(model, x, target) for model in (tiled, net))
    assert relative(found * (truth.max() / found.max()), truth) <= 1e-5  # a mean over more cells, which are in several windows


@every_axes
@every_blend
def test_grad_cam_weighs_channels_by_the_mean_over_all_windows(axes: int, blend: str) -> None:
    x = image(axes, size=14)
    net = segmenter(axes, x)
    tiled, target = Tiled(net, 7, 0.4, blend), fixed(net, x)
    windows = by_hand(x.shape[2:], 7, 0.4, blend)
    with torch.no_grad():
        features = [net.first(x[(..., *where)]) for where, _ in windows]
    weights: Any = 0.0
    for (where, share), A in zip(windows, features, strict=True):
        A = A.clone().requires_grad_()
        h = net.norm(A).relu()
        S = target.within(where, share.float())[0](net.head((net.second(h) + h).relu()))
        weights = weights + torch.stack([torch.autograd.grad(s.sum(), A, retain_graph=True)[0].flatten(2).mean(2) for s in S])
    slow = torch.zeros(3, len(x), *x.shape[2:])
    for (where, share), A in zip(windows, features, strict=True):
        slow[(..., *where)] += torch.einsum("tbc,bc...->tb...", weights / len(windows), A).relu() * share.float()
    assert relative(GradCAM("first")(tiled, x, target), slow.unsqueeze(2)) <= 1e-5


@pytest.mark.parametrize("name", WHOLE)
def test_methods_that_must_watch_one_pass_refuse_several_windows(name: str) -> None:
    x = image(2, size=12)
    net = Transformer(2, 3, segments=True).eval() if "rollout" in name else Segmenter(2)
    target = Region(2, 1, mask=torch.randint(0, 3, (2, *x.shape[2:])))
    before = state(net)
    with pytest.raises(BadInput, match="sees the whole image at once"):
        small(name)(Tiled(net, 8), x, target)
    assert state(net) == before


def test_coarse_layers_of_images_smaller_than_the_window_lie_where_they_belong() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.up = nn.Conv2d(1, 4, 2, stride=2), nn.ConvTranspose2d(4, 2, 2, stride=2)

        def forward(self, x: Tensor) -> Tensor:
            return self.up(self.down(x).relu())

    x, net = image(2, 1, size=6), Half()  # 6 x 10 in 8 x 8
    target = Region(1, mask=torch.ones(1, 6, 10, dtype=torch.long))
    found = HiResCAM("down")(Tiled(net, 8), x, target)
    assert found.shape == (1, 1, 1, 6, 10)
    padded = F.pad(x, (0, 0, 1, 1))
    inside = torch.zeros(1, 8, 10, dtype=torch.long)
    inside[:, 1:7] = 1
    slow = torch.zeros(1, 8, 10)
    for columns in (slice(0, 8), slice(2, 10)):
        share = torch.tensor([1.0 if not 2 <= c < 8 else 0.5 for c in range(columns.start, columns.stop)])
        part, _ = Region(1, mask=inside).within((slice(0, 8), columns), share.expand(8, 8))
        cells = HiResCAM("down")(net, padded[..., columns], part)
        slow[:, :, columns] += F.interpolate(cells[0], size=(8, 8), mode="bilinear")[0]
    assert relative(found[0, 0], slow[:, 1:7]) <= 1e-5


def test_its_layers_are_those_of_one_window() -> None:
    x = image(2, size=20)
    net = segmenter(2, x)
    tiled = Tiled(net, 8)
    assert layers(tiled, x) == layers(net, x[:, :, :8, :8])
    assert {layer.cells for layer in layers(tiled, x)} == {(8, 8)}
    tiled.train()
    assert net.training
    assert tiled.norm.training
    assert list(tiled.state_dict()) == list(net.state_dict())
    assert weights_hash(copy.deepcopy(tiled)) == weights_hash(net)
    assert "window=8" in repr(tiled)


def test_an_injected_tiled_model_stays_tiled() -> None:
    x = image(2, 1, size=20)
    net = segmenter(2, x)
    tiled = Tiled(net, 8, 0.5)
    injected = inject(tiled, "gradient", target=1)
    assert torch.equal(injected(x), tiled(x))
    assert relative(injected.maps.relevance["gradient"], Gradient()(tiled, x, fixed(tiled, x, 1))) <= 1e-5


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated.*:DeprecationWarning")
def test_a_scripted_model_can_be_tiled() -> None:
    x = image(2, size=20)
    net = segmenter(2, x)
    scripted = Tiled(torch.jit.trace(net, x[:, :, :8, :8]), 8, batch=2)
    target = fixed(net, x)
    assert relative(Gradient()(scripted, x, target), Gradient()(Tiled(net, 8), x, target)) <= 1e-5


# ---- targets on windows


@pytest.mark.parametrize("kind", ["labels", "one for all", "boolean", "mean", "boolean mean", "probability", "binary"])
@every_axes
def test_a_region_is_the_sum_of_its_parts(axes: int, kind: str) -> None:
    classes = 1 if kind == "binary" else 3
    x = image(axes, size=14)
    output = torch.randn(2, classes, *x.shape[2:], dtype=torch.float64)
    labels = torch.randint(0, 3 if classes > 1 else 2, (2, *x.shape[2:]))
    labels[..., :5] = 0  # where some windows have nothing of the others
    reduce = kind if kind == "probability" else "mean" if "mean" in kind else "sum"
    mask = {"one for all": labels[0], "boolean": labels > 0, "boolean mean": labels[:1] > 0, "probability": None}.get(kind, labels)
    target = Region(1, 0, mask=mask, reduce=reduce)
    target = target.fix(output) if mask is None else target
    assert target.adds_up(x.shape[2:])
    total, empty = torch.zeros(2, 2, dtype=torch.float64), 0
    for where, share in by_hand(x.shape[2:], 5, 0.4, "gaussian"):
        part, rows = target.within(where, share)
        found = part(output[(..., *where)])
        assert not found[[t for t in range(2) if t not in rows]].any()
        empty += len(rows) < 2
        total += found
        # A part of a part, as a window is of a band.
        again, _ = part.within(
            (slice(3, 5), *[slice(0, 5)] * (axes - 1)), torch.full((2, *[5] * (axes - 1)), 0.5, dtype=torch.float64)
        )
        rest = (slice(where[0].start + 3, where[0].stop), *where[1:])
        direct, _ = target.within(rest, share[3:] * 0.5)
        assert torch.allclose(again(output[(..., *rest)]), direct(output[(..., *rest)]))
    assert relative(total, target(output)) <= 1e-9
    assert (empty > 0) == (kind != "probability")


@pytest.mark.parametrize("reduce", ["sum", "mean", "probability"])
def test_overlapping_regions_are_sums_too(reduce: str) -> None:
    x = image(2, size=14)
    net = segmenter(2, x)
    tiled = Tiled(net, 7, 0.4)
    with torch.no_grad():
        target = Overlapping(2, 0, reduce=reduce).fix(tiled(x))
    assert target.adds_up((14, 18))
    assert not target.adds_up((18, 14))
    assert not Overlapping(1).adds_up((14, 18))
    assert relative(Gradient()(tiled, x, target), Gradient()(tiled, x, Whole(target))) <= 1e-5


def test_only_what_is_a_sum_on_this_grid_is_taken_for_one() -> None:
    mask = torch.ones(1, 14, 18, dtype=torch.long)
    fits, grid = Region(1, mask=mask), (14, 18)
    assert Select("logits", fits).adds_up(grid)
    assert Copies(Select(0, fits), 2, 1).adds_up(grid)
    assert not Region(1).adds_up(grid)
    assert not Select("logits", Region(1)).adds_up(grid)
    assert not fits.adds_up((18, 14))
    assert not Copies(Whole(fits), 2, 1).adds_up(grid)
    x = image(2, 1, size=20)
    with pytest.raises(BadInput, match="a mask on the output's grid"):
        Gradient()(Tiled(segmenter(2, x), 8), x, fits)


# ---- scores of many copies


def test_windows_that_were_seen_before_are_not_predicted_again() -> None:
    x = image(2, 2, size=20)  # 20 x 24
    net = segmenter(2, x)
    tiled = Tiled(net, 8, 0.0)  # 3 x 3 windows
    mask = torch.zeros(2, 20, 24, dtype=torch.long)
    mask[:, :8, 9:], mask[:, 9, 9] = 1, 2
    target = Region(1, 2, mask=mask)
    calls, scored = counted(net), scoring(tiled, target)
    changed, elsewhere = x.clone(), x.clone()
    changed[1, :, 2, 10] = 0
    elsewhere[:, :, 18, 1] = 0
    with torch.no_grad():
        truth = score(tiled, torch.stack([x, changed, elsewhere, changed]), target)
        calls.clear()
        found = scored(torch.stack([x, changed, elsewhere, changed]))
        assert len(calls) == 3 + 1  # three windows have weight, one of them changed
        assert relative(found, truth) <= 1e-6
        assert relative(scored(changed[None]), truth[1:2]) <= 1e-6
        assert len(calls) == 4
    before = len(calls)
    occlusion = Occlusion(window=4, stride=4)
    maps = occlusion(tiled, x, target)
    assert len(calls) - before < 3 + 3 * 2 * 6  # each of 30 covers is in few windows
    assert relative(maps, occlusion(tiled, x, Whole(target))) <= 1e-4
    assert maps[:, :, :, 12:].abs().max() == 0  # what no window with weight sees
    before = len(calls)
    shap = KernelSHAP(cubes=(3, 3), samples=100)  # cubes and windows are the same, but for the last row
    values = shap(tiled, x, target)
    assert len(calls) - before <= 3 * 2**3
    assert relative(values, shap(tiled, x, Whole(target))) <= 1e-4


def test_remembered_scores_take_whole_numbers_and_half_precision() -> None:
    x = (image(2, 1, size=20) * 10).long()

    class Rounds(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x.float(), -x.float()], 1)

    target = Region(0, 1, mask=torch.ones(1, 20, 24, dtype=torch.bool))
    assert torch.allclose(scoring(Tiled(Rounds(), 8), target)(x[None]), target(Rounds()(x))[None])


# ---- slab by slab


@every_axes
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
def test_the_streamed_map_is_the_whole_map(axes: int, overlap: float) -> None:
    x = image(axes, 2 if axes == 2 else 1, size=14)
    net = segmenter(axes, x)
    tiled = Tiled(net, 7, overlap, "gaussian")
    target = fixed(tiled, x, 1, 2, reduce="mean")
    methods = [Gradient(), LRP(first="box"), SmoothGrad(IntegratedGradients(2, "mean"), samples=2), IntegratedGradients(2, "noise")]
    for method in [*methods, InputXGradient(), GuidedBackprop()] if axes == 2 else methods[:2]:
        slabs = list(stream(method, tiled, x, target))
        assert [where[0].start for where, _ in slabs] == [0, *(where[0].stop for where, _ in slabs[:-1])]
        assert slabs[-1][0][0].stop == 14
        assert all(slab.shape[3] <= 7 for _, slab in slabs)
        assert relative(torch.cat([slab for _, slab in slabs], 3), method(tiled, x, target)) <= 1e-5
    with torch.no_grad():
        output = torch.cat([slab for _, slab in tiled.slabs(x)], 2)
        assert relative(output, tiled(x)) <= 1e-5


def test_bands_without_weight_are_zero_and_do_not_run() -> None:
    x = image(2, 1, size=20)
    net = segmenter(2, x)
    mask = torch.zeros(1, 20, 24, dtype=torch.long)
    mask[:, 2, 2] = 1
    calls = counted(net)
    slabs = [slab for _, slab in stream(Gradient(), Tiled(net, 5, 0.0), x, Region(1, mask=mask))]
    assert len(calls) == 1
    assert [bool(slab.any()) for slab in slabs] == [True, False, False, False]


def test_what_cannot_be_streamed_is_refused() -> None:
    x = image(2, 1, size=20)
    net = segmenter(2, x)
    tiled = Tiled(net, 5)
    target = fixed(net, x)
    for method in (GradCAM(), Occlusion(), SmoothGrad(GradCAM())):
        with pytest.raises(BadInput, match="a method that can be streamed"):
            stream(method, tiled, x, target)
    with pytest.raises(BadInput, match="a sum over voxels"):
        stream(Gradient(), tiled, x, Whole(target))


# ---- what it refuses


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 0}, "a window of whole numbers"),
        ({"window": 4.5}, "a window of whole numbers"),
        ({"window": 4, "overlap": 1.0}, "an overlap from 0 to below 1"),
        ({"window": 4, "blend": "mean"}, "blend among constant, gaussian"),
        ({"window": 4, "padding": "zeros"}, "padding among"),
        ({"window": 4, "batch": 0}, "batch >= 1"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Tiled(nn.Identity(), **settings)


def test_what_it_cannot_blend_is_refused() -> None:
    x = image(2, 1, size=8)
    for window, message in (((4, 4, 4), "one for each of 2 axes"), ((40, 4), "that padding='reflect' can fill up")):
        with pytest.raises(BadInput, match=message):
            Tiled(nn.Identity(), window, padding="reflect")(x)
    for model in (nn.AvgPool2d(2), nn.Flatten(), Returns(nn.Flatten(), "dict")):
        with pytest.raises(BadInput, match="an output of logits"):
            Tiled(model, 4)(x)

    class Labels(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x > 0.5).long()

    with pytest.raises(BadInput, match=r"an output of logits .* got torch.int64"):
        Tiled(Labels(), 4)(x)
