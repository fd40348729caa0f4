"""Metrics of maps that are made again: worlds with known answers, slow re-derivations, captum and Quantus on 2D."""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import Saliency
from captum.metrics import sensitivity_max
from quantuses import quantus
from scipy.ndimage import rotate
from scipy.stats import spearmanr, t
from torch import Tensor, nn
from worlds import Bright, ConvNet, Linear, Mean, convolution, image

from radiolucent import BadInput, Logits
from radiolucent.hooks import Cost, randomised, weighted
from radiolucent.methods import EdgeMap, Gradient, GuidedBackprop, InputXGradient, IntegratedGradients, RandomMap, SmoothGrad
from radiolucent.metrics import (
    REMAKING,
    AverageSensitivity,
    Completeness,
    ComplexityRise,
    EffectiveComplexity,
    Entropy,
    Evaluations,
    MaxSensitivity,
    ParameterRandomisation,
    PeakMemory,
    Repeatability,
    Reproducibility,
    RotationContinuity,
    Seconds,
    ShiftContinuity,
    Sparseness,
    TargetRandomisation,
    describe,
)
from radiolucent.metrics.remaking import Remade, scores_of
from radiolucent.metrics.remaking.robustness import noisy, shifted, turned
from radiolucent.metrics.remaking.similarity import spearman, ssim


def made(model: nn.Module, x: Tensor, method: Any, targets: Any, seeded: Any = None, **more: Any) -> Remade:
    """A method's maps, as simply as can be; `seeded` gives the method of each run."""

    def again(x: Tensor, *, model: nn.Module = model, run: int = 0, moved: bool = False) -> Tensor:
        return (seeded(run) if seeded else method)(model, x, targets)

    return Remade(again(x), x, model, again, scores_of(model, targets), **more)


def given(*maps: Tensor) -> Remade:
    """Maps that there are, one for each target, and nothing to make them again with."""
    relevance = torch.stack(maps)[:, None, None]

    def again(*args: Any, **kwargs: Any) -> Tensor:
        raise AssertionError("it was made again")

    return Remade(relevance, torch.zeros(1, 1, *relevance.shape[3:]), nn.Identity(), again, again)


def values(metric: Any, maps: Remade) -> list[float]:
    found = metric(maps)
    assert [v.reason for v in found] == [""] * len(found)
    return [v.value for v in found]


# --- complexity


def test_complexity_of_one_voxel_and_of_all() -> None:
    one = torch.zeros(4, 5)
    one[1, 2] = -3.0
    signs = torch.tensor([1.0, -1.0]).repeat(10).reshape(4, 5)
    maps = given(one, signs, signs * 1e-30)
    assert values(EffectiveComplexity(), maps) == pytest.approx([1 / 20, 1, 1])
    assert values(Entropy(), maps) == pytest.approx([0, math.log(20), math.log(20)])
    assert values(Sparseness(), maps) == pytest.approx([1 - 1 / 20, 0, 0], abs=1e-12)


@pytest.mark.parametrize("axes", [2, 3])
def test_complexity_is_its_equation_written_slowly(axes: int) -> None:
    R = torch.randn((5, 4, 3)[:axes], generator=torch.Generator().manual_seed(4))
    a = sorted(abs(float(v)) for v in R.flatten())
    n, total = len(a), sum(a)
    maps = given(R)
    assert values(EffectiveComplexity(0.3), maps) == [pytest.approx(sum(v > 0.3 * a[-1] for v in a) / n)]
    assert values(Entropy(), maps) == [pytest.approx(-sum(v / total * math.log(v / total) for v in a))]
    gini = sum(abs(v - w) for v in a for w in a) / (2 * n * total)  # the definition by all pairs
    assert values(Sparseness(), maps) == [pytest.approx(gini)]
    for metric in (EffectiveComplexity(), Entropy(), Sparseness()):
        (found,), (scaled,) = metric(maps), metric(given(-1e6 * R))
        assert found.low == found.value == found.high
        assert scaled.value == pytest.approx(found.value, rel=1e-6)


def test_complexity_agrees_with_quantus() -> None:
    q = quantus()
    R = torch.randn(8, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    maps, a, x = given(R), R[None, None].numpy(), np.zeros((1, 1, 8, 12))
    common = {"disable_warnings": True, "display_progressbar": False}
    call: dict[str, Any] = {"model": nn.Identity(), "x_batch": x, "y_batch": np.zeros(1, int), "channel_first": True}
    theirs = q.EffectiveComplexity(eps=0.1, **common)(**call, a_batch=a.copy())
    assert values(EffectiveComplexity(), maps) == pytest.approx([theirs[0] / 96])
    assert values(Entropy(), maps) == pytest.approx(q.Complexity(**common)(**call, a_batch=a.copy()), rel=1e-5)
    assert values(Sparseness(), maps) == pytest.approx(q.Sparseness(**common)(**call, a_batch=a.copy()), rel=1e-5)


# --- robustness


def gradients(net: nn.Module, target: int) -> Callable[..., Tensor]:
    return lambda x: Gradient()(net, x, Logits(target))[0]


def test_sensitivity_of_a_linear_model_is_known() -> None:
    x = image(3, 1, size=6)
    net = Linear(x.shape[1:])
    w = net.weight.detach().flatten(1)
    settings = {"samples": 4, "radius": 0.2, "of_range": False, "seed": 5}
    noise = [(copy - x).flatten() for copy in noisy(x, 4, 0.2, False, 5)]
    ratio = torch.stack([(w * e).norm(dim=1) / (w * x.flatten()).norm(dim=1) for e in noise])
    maps = made(net, x, InputXGradient(), Logits(0, 1, 2))
    assert values(AverageSensitivity(**settings), maps) == pytest.approx(ratio.mean(0).tolist(), rel=1e-5)
    assert values(MaxSensitivity(**settings), maps) == pytest.approx(ratio.amax(0).tolist(), rel=1e-5)
    assert values(AverageSensitivity(**settings), made(net, x, Gradient(), Logits(0, 2))) == [0, 0]
    found = AverageSensitivity(**settings)(maps)[1]
    low, high = t.interval(0.95, 3, ratio[:, 1].mean(), ratio[:, 1].std() / 2)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-5)
    assert math.isnan(AverageSensitivity(samples=1)(maps)[0].low)
    largest = MaxSensitivity(**settings)(maps)[1]
    assert largest.low == largest.value
    assert math.isnan(largest.high)


def test_noise_is_within_the_radius_and_by_the_range_of_the_image() -> None:
    x = 7 + 4 * image(2, 1, size=20)
    copies = torch.cat(list(noisy(x, 5, 0.1, True, 0))) - x
    assert copies.abs().max() <= 0.1 * float(x.max() - x.min()) + 1e-5
    assert copies.abs().max() > 0.095 * float(x.max() - x.min())
    assert abs(float(copies.mean())) < 0.01
    assert float((torch.cat(list(noisy(x, 5, 0.1, False, 0))) - x).abs().max()) == pytest.approx(0.1, abs=1e-3)
    assert not torch.equal(copies[0], copies[1])


def test_both_sensitivities_share_their_maps() -> None:
    net, x = ConvNet(2), image(2, 1, size=8)
    calls = []

    def counted(run: int) -> Any:
        calls.append(run)
        return Gradient()

    maps = made(net, x, None, Logits(0), seeded=counted)
    values(AverageSensitivity(3), maps)
    values(MaxSensitivity(3), maps)
    assert len(calls) == 1 + 3


@pytest.mark.parametrize("target", [0, 2])
def test_sensitivity_agrees_with_captum(target: int) -> None:
    net, x = ConvNet(2), image(2, 1, size=8)
    settings = 6, 0.1, False, 2
    theirs = sensitivity_max(
        Saliency(net).attribute,
        x,
        perturb_func=lambda inputs: torch.cat(list(noisy(x, *settings))),
        n_perturb_samples=6,
        target=target,
        abs=False,
    )
    assert values(MaxSensitivity(*settings), made(net, x, Gradient(), Logits(target))) == pytest.approx(theirs.tolist(), rel=1e-5)


@pytest.mark.parametrize("kind", [AverageSensitivity, MaxSensitivity])
def test_sensitivity_agrees_with_quantus_since_its_issue_288(kind: Any) -> None:
    q = quantus()
    net, x = ConvNet(2).eval(), image(2, 1, size=8)
    settings = 5, 0.1, False, 3
    draws = iter(noisy(x, *settings))
    theirs = (q.AvgSensitivity if kind is AverageSensitivity else q.MaxSensitivity)(
        nr_samples=5,
        abs=False,
        normalise=False,
        disable_warnings=True,
        perturb_func=lambda arr, indices, **_: next(draws).reshape(arr.shape).numpy(),
    )(
        model=net,
        x_batch=x.numpy(),
        y_batch=np.array([1]),
        a_batch=gradients(net, 1)(x).detach().numpy(),
        channel_first=True,
        explain_func=lambda model, inputs, targets, **_: gradients(model, 1)(torch.as_tensor(inputs)).detach().numpy(),
    )
    assert values(kind(*settings), made(net, x, Gradient(), Logits(1))) == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("axes", [2, 3])
def test_a_shift_of_a_model_that_sees_places_and_of_one_that_does_not(axes: int) -> None:
    x = image(axes, 1, size=8)
    assert values(ShiftContinuity(2), made(Bright(axes), x, InputXGradient(), Logits(0, 1))) == [0, 0]
    net = Linear(x.shape[1:])
    w = net.weight[1, 0].detach()
    inside = tuple(slice(1, n - 1) for n in w.shape)
    ratios = []
    for axis in range(axes):
        for sign in (1, -1):
            moved = w.roll(sign, axis)[inside]
            ratios.append(float((w[inside] - moved).norm() / moved.norm()))
    (found,) = ShiftContinuity()(made(net, x, Gradient(), Logits(1)))
    assert found.value == pytest.approx(np.mean(ratios), rel=1e-5)
    assert found.low == found.high == found.value


@pytest.mark.parametrize("axes", [2, 3])
def test_a_turn(axes: int) -> None:
    x = image(axes, 1, size=8)
    half = RotationContinuity(180.0)  # which moves every voxel onto another
    assert values(half, made(Bright(axes), x, InputXGradient(), Logits(0))) == pytest.approx([0], abs=1e-5)
    net = Linear(x.shape[1:])
    w = net.weight[0, 0].detach().numpy()
    middle = [(n - 1) / 2 for n in w.shape]
    inside = sum((i - m) ** 2 for i, m in zip(np.indices(w.shape), middle, strict=True)) <= (min(w.shape) / 2 - 1) ** 2
    planes = [(0, 1)] if axes == 2 else [(0, 1), (0, 2), (1, 2)]
    for degrees in (180.0, 10.0):
        ratios = []
        for plane in planes:
            for sign in (1, -1):
                moved = rotate(w, sign * degrees, plane, reshape=False, order=1, mode="nearest")[inside]
                ratios.append(np.linalg.norm(w[inside] - moved) / np.linalg.norm(moved))
        assert values(RotationContinuity(degrees), made(net, x, Gradient(), Logits(0))) == pytest.approx(
            [np.mean(ratios)], rel=1e-4
        )


def test_shifts_and_turns_go_where_they_say() -> None:
    x = torch.arange(12.0).reshape(1, 1, 3, 4)
    assert shifted(x, 3, 1)[0, 0, 1].tolist() == [4, 4, 5, 6]
    assert shifted(x, 2, -2)[0, 0, :, 0].tolist() == [8, 8, 8]
    square = torch.arange(9.0).reshape(1, 1, 3, 3)
    assert torch.allclose(turned(square, (2, 3), 90.0), square.rot90(1, (2, 3)), atol=1e-5)


def test_an_image_that_is_too_small_to_move() -> None:
    maps = given(torch.rand(3, 9))
    assert ShiftContinuity(2)(maps)[0].reason == "the image has 3 voxels along an axis: too few for a shift by 2"


# --- the next time


def test_repeatability_is_the_change_by_other_seeds() -> None:
    net, x = ConvNet(2), image(2, 1, size=8)
    maps = made(net, x, None, Logits(0, 3), seeded=lambda run: SmoothGrad(samples=2, seed=run))
    R = [SmoothGrad(samples=2, seed=k)(net, x, Logits(0, 3)).flatten(1) for k in range(4)]
    truth = torch.stack([(R[k] - R[0]).norm(dim=1) / R[0].norm(dim=1) for k in (1, 2, 3)]).mean(0)
    assert values(Repeatability(), maps) == pytest.approx(truth.tolist(), rel=1e-5)
    assert values(Repeatability(), made(net, x, Gradient(), Logits(0))) == [0]


def test_reproducibility_is_the_mean_over_pairs_of_models() -> None:
    x = image(2, 1, size=8)
    nets = [ConvNet(2) for _ in range(3)]
    R = [Gradient()(net, x, Logits(0, 1)) for net in nets]
    maps = made(nets[0], x, Gradient(), Logits(0, 1), others=lambda: R[1:])
    for target, found in enumerate(values(Reproducibility(), maps)):
        rho = [spearmanr(R[i][target].abs().flatten(), R[j][target].abs().flatten())[0] for i, j in ((0, 1), (0, 2), (1, 2))]
        assert found == pytest.approx(np.mean(rho))
    alone = Reproducibility()(made(nets[0], x, Gradient(), Logits(0)))[0]
    assert alone.reason == "there is no other trained model to compare with"


# --- similarity


def test_spearman_shares_the_ranks_of_equal_values() -> None:
    a, b = torch.randint(0, 5, (2, 60), generator=torch.Generator().manual_seed(0)).float()
    assert spearman(a, b) == pytest.approx(spearmanr(a, b)[0], rel=1e-12)
    assert spearman(a, a.exp()) == pytest.approx(1)
    assert spearman(a, torch.ones(60)) == 0


@pytest.mark.parametrize("axes", [2, 3])
def test_ssim_is_its_equation_in_windows(axes: int) -> None:
    pytest.importorskip("skimage")
    for low in (0.0, -0.5):  # without and with signs, which have twice the range
        a, b = (torch.rand((1, *(9, 8, 7)[:axes]), generator=torch.Generator().manual_seed(s)) + low for s in (1, 2))
        windows = [v / v.abs().max() for v in (a, b)]
        for axis in range(axes):
            windows = [v.unfold(1 + axis, 7, 1) for v in windows]
        p, q = (v.flatten(1 + axes).double() for v in windows)
        cross = ((p - p.mean(-1, keepdim=True)) * (q - q.mean(-1, keepdim=True))).sum(-1) / (p.shape[-1] - 1)
        span = 2.0 if low else 1.0
        c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
        top = (2 * p.mean(-1) * q.mean(-1) + c1) * (2 * cross + c2)
        slow = top / ((p.mean(-1) ** 2 + q.mean(-1) ** 2 + c1) * (p.var(-1) + q.var(-1) + c2))
        assert ssim(a, b) == pytest.approx(float(slow.mean()), rel=1e-5)
    assert ssim(a, 5 * a) == pytest.approx(1)
    assert abs(ssim(a, torch.zeros_like(a))) < 0.01
    assert math.isnan(ssim(torch.rand(1, 2, 9), torch.rand(1, 2, 9)))


# --- randomisation


def test_controls_fail_randomisation_and_a_gradient_of_random_weights_does_not() -> None:
    torch.manual_seed(1)
    net, x = ConvNet(2), image(2, 1, size=16)
    for control in (RandomMap(), EdgeMap()):
        maps = made(net, x, control, Logits(0, 1))
        assert values(ParameterRandomisation(), maps) == pytest.approx([1, 1])
        assert values(ComplexityRise(), maps) == [0, 0]
    assert max(values(ParameterRandomisation(steps=1, draws=5), made(net, x, Gradient(), Logits(0, 1)))) < 0.35
    assert values(TargetRandomisation(), made(net, x, EdgeMap(), Logits(0, 1, 2))) == pytest.approx([1, 1, 1])
    assert max(map(abs, values(TargetRandomisation(), made(net, x, RandomMap(), Logits(0, 1))))) < 0.2


@pytest.mark.parametrize("order", ["cascading", "bottom-up", "independent"])
def test_parameter_randomisation_is_its_equation(order: str) -> None:
    net, x = ConvNet(3), image(3, 1, size=8)
    R = Gradient()(net, x, Logits(0, 2))
    steps = {
        "cascading": (["head"], ["head", "conv2"], ["head", "conv2", "conv1"]),
        "bottom-up": (["conv1"], ["conv1", "conv2"], ["conv1", "conv2", "head"]),
        "independent": (["head"], ["conv2"], ["conv1"]),
    }[order]
    truth = np.array(
        [
            [
                [spearmanr(a.flatten(), b.flatten())[0] for a, b in zip(R, made_by(net, layers, 4 + d, x), strict=True)]
                for layers in steps
            ]
            for d in range(3)
        ]
    )
    metric = ParameterRandomisation(order, steps=0, draws=3, seed=4)
    maps = made(net, x, Gradient(), Logits(0, 2))
    assert values(metric, maps) == pytest.approx(np.abs(truth).mean((0, 1)))
    each = np.abs(truth).mean(1)[:, 0]
    assert (metric(maps)[0].low, metric(maps)[0].high) == pytest.approx(t.interval(0.95, 2, each.mean(), each.std(ddof=1) / 3**0.5))
    names, curve = zip(*metric.curve(maps), strict=True)
    assert [name for (name,) in names] == (["conv1", "conv2", "head"] if order == "bottom-up" else ["head", "conv2", "conv1"])
    assert np.array(curve) == pytest.approx(truth[0])


def made_by(net: nn.Module, layers: Sequence[str], seed: int, x: Tensor) -> Tensor:
    return Gradient()(randomised(net, layers, seed), x, Logits(0, 2))


def test_parameter_randomisation_agrees_with_quantus_on_its_random_models(monkeypatch: pytest.MonkeyPatch) -> None:
    q = quantus()
    net, x = ConvNet(2).eval(), image(2, 1, size=8)
    score = q.MPRT(disable_warnings=True, abs=False, normalise=False, seed=1)(
        model=net,
        x_batch=x.numpy(),
        y_batch=np.array([1]),
        a_batch=gradients(net, 1)(x).detach().numpy(),
        channel_first=True,
        explain_func=lambda model, inputs, targets, **_: gradients(model, 1)(torch.as_tensor(inputs)).detach().numpy(),
    )
    generator = q.helpers.model.pytorch_model.PyTorchModel(net).get_random_layer_generator("top_down", 1)
    theirs = [copy.deepcopy(model) for _, model in generator]
    page = "radiolucent.metrics.remaking.randomisation.randomised"
    monkeypatch.setattr(page, lambda model, layers, seed: theirs[len(layers) - 1])
    maps = made(net, x, Gradient(), Logits(1))
    curve = ParameterRandomisation(steps=0).curve(maps)
    assert [f for _, (f,) in curve] == pytest.approx([score[layer][0] for ((layer,), _) in curve], rel=1e-5)


def test_complexity_rise_agrees_with_quantus_on_the_same_maps() -> None:
    q = quantus()
    net, x = ConvNet(2).eval(), image(2, 1, size=8)
    first = gradients(net, 1)(x)
    random = gradients(randomised(net, seed=6), 1)(x)
    entropy = q.functions.complexity_func.discrete_entropy
    before, after = (entropy(a=R.numpy(), x=x.numpy(), n_bins=40) for R in (first, random))
    assert values(ComplexityRise(40, seed=6), made(net, x, Gradient(), Logits(1))) == pytest.approx(
        [(after - before) / before], rel=1e-5
    )


def test_target_randomisation_agrees_with_quantus_for_two_classes() -> None:
    q = quantus()
    net, x = ConvNet(2, outputs=2).eval(), image(2, 1, size=8)
    theirs = q.RandomLogit(
        num_classes=2, abs=False, normalise=False, disable_warnings=True, similarity_func=q.correlation_spearman
    )(
        model=net,
        x_batch=x.numpy(),
        y_batch=np.array([0]),
        a_batch=gradients(net, 0)(x).detach().numpy(),
        channel_first=True,
        explain_func=lambda model, inputs, targets, **_: (
            gradients(model, int(targets[0]))(torch.as_tensor(inputs)).detach().numpy()
        ),
    )
    found = values(TargetRandomisation(), made(net, x, Gradient(), Logits(0, 1)))
    assert found == pytest.approx([theirs[0]] * 2, rel=1e-5)


def test_target_randomisation_is_the_mean_over_the_other_targets() -> None:
    R = torch.randn(3, 6, 7, generator=torch.Generator().manual_seed(1))
    rho = spearmanr(R.flatten(1).T)[0]
    assert values(TargetRandomisation(), given(*R)) == pytest.approx([(rho[i].sum() - 1) / 2 for i in range(3)])
    assert values(TargetRandomisation(), given(R[0], -R[0])) == pytest.approx([-1, -1])
    assert values(TargetRandomisation(absolute=True), given(R[0], -R[0])) == pytest.approx([1, 1])
    assert TargetRandomisation()(given(R[0]))[0].reason == "there is no other target to compare with"
    found = TargetRandomisation()(given(R[0], torch.zeros(6, 7)))
    assert [v.reason for v in found] == ["there is no other target to compare with", "the map is the same everywhere"]


def test_a_map_that_vanishes_with_the_weights_has_changed() -> None:
    net, x = ConvNet(2), image(2, 1, size=8)

    def method(model: nn.Module, x: Tensor, targets: Any) -> Tensor:
        return Gradient()(model, x, targets) * (model is net)

    for similarity in ("spearman", "ssim"):
        assert values(ParameterRandomisation(similarity=similarity), made(net, x, method, Logits(0))) == pytest.approx(
            [0], abs=0.01
        )
    assert values(ComplexityRise(), made(net, x, method, Logits(0))) == [-1]


def test_a_model_without_weights_has_nothing_to_randomise() -> None:
    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x**2).flatten(1).sum(1, keepdim=True)

    maps = made(Square(), image(2, 1, size=8), Gradient(), Logits(0))
    for metric in (ParameterRandomisation(), ComplexityRise()):
        assert metric(maps)[0].reason == "the model has no weights to make random"


def test_an_image_of_whole_numbers_gets_no_noise() -> None:
    with pytest.raises(BadInput, match="an image of floating-point numbers"):
        next(noisy(torch.zeros(1, 1, 4, 4, dtype=torch.int32), 1, 0.1, True, 0))


def test_a_copy_that_still_runs_on_the_trained_weights_gives_no_verdict() -> None:
    class Holds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = ConvNet(2)
            net = self.net
            self.run = lambda x: net(x)  # a closure, which a copy does not rewrite

        def forward(self, x: Tensor) -> Tensor:
            return self.run(x)

    found = ParameterRandomisation()(made(Holds(), image(2, 1, size=8), Gradient(), Logits(0)))[0]
    assert math.isnan(found.value)
    assert found.reason.endswith("made with the trained weights")


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, list[Tensor]]:
    """Five convolutions that tell a smooth spot from one with a fine pattern; images with smooth spots."""
    torch.manual_seed(0)
    conv, act = convolution(2), nn.ReLU
    net = nn.Sequential(
        conv(1, 8, 3, padding=1), act(), *(m for _ in range(4) for m in (conv(8, 8, 3, padding=1), act())), Mean(), nn.Linear(8, 2)
    )
    descent = torch.optim.Adam(net.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        x, y = spots(32, generator)
        descent.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        descent.step()
    x, y = spots(200, generator)
    assert (net(x).argmax(1) == y).float().mean() > 0.95
    return net, [item[None] for item in x[y == 1][:4]]


def spots(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    x = 0.3 * torch.randn(count, 1, 16, 16, generator=generator)
    y = torch.randint(0, 2, (count,), generator=generator)
    pattern = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(2, 2)
    for item, smooth in zip(x, y, strict=True):
        i, j = (int(torch.randint(2, 11, (), generator=generator)) for _ in range(2))
        item[0, i : i + 4, j : j + 4] += 1.0 if smooth else pattern
    return x, y


def test_guided_backpropagation_outlives_the_later_layers_and_the_gradient_does_not(trained: Any) -> None:
    net, images = trained
    curves = {}
    for method in (Gradient(), GuidedBackprop()):
        each = [
            np.array([f for _, (f,) in ParameterRandomisation(steps=0, seed=s).curve(made(net, x, method, Logits(1)))])
            for x in images
            for s in range(3)
        ]
        curves[type(method).__name__] = np.nanmean(np.abs(each), 0)
    later = slice(0, 4)  # the head and three of the five convolutions
    assert curves["GuidedBackprop"][later].mean() > curves["Gradient"][later].mean() + 0.1


# --- completeness


@pytest.mark.parametrize("axes", [2, 3])
def test_completeness_of_integrated_gradients_and_of_half_of_it(axes: int) -> None:
    net, x = Bright(axes), image(axes, 1, size=6)
    targets = Logits(0, 1)
    maps = made(net, x, IntegratedGradients(steps=400), targets, baseline="zero")
    assert max(values(Completeness(), maps)) < 5e-3
    half = Remade(0.5 * maps.relevance, x, net, maps.again, maps.score, baseline="zero")
    assert values(Completeness(), half) == pytest.approx([0.5, 0.5], abs=5e-3)
    linear = Linear(x.shape[1:])
    # w x is complete to zero; to the minimum it has the relevance of what lies below the minimum too much
    maps = made(linear, x, InputXGradient(), Logits(0), baseline="minimum")
    w, low = linear.weight[0].detach(), float(x.min())
    whole = float((w * (x[0] - low)).sum())
    assert values(Completeness(), maps) == pytest.approx([abs(float((w * low).sum())) / abs(whole)], rel=1e-3)
    assert Completeness()(made(net, x, Gradient(), targets))[0].reason == "the method does not promise that its map adds up"


def test_a_score_that_is_the_baselines_has_nothing_to_share_out() -> None:
    x = torch.full((1, 1, 4, 4), 0.2)
    relevance = torch.rand(1, 1, 1, 4, 4)
    maps = Remade(relevance, x, Bright(2), lambda *a, **k: relevance, scores_of(Bright(2), Logits(0)), baseline="zero")
    assert Completeness()(maps)[0].reason == "the score is that of the baseline (zero)"


# --- efficiency


def test_what_a_map_cost_is_said_of_all_targets() -> None:
    maps = given(torch.rand(3, 3), torch.rand(3, 3))
    cost = Remade(maps.relevance, maps.x, maps.model, maps.again, maps.score, Cost(1.5, 4, 2, 7.0))
    assert [values(m(), cost) for m in (Seconds, Evaluations, PeakMemory)] == [[1.5, 1.5], [6, 6], [7, 7]]
    for unmeasured in (maps, Remade(maps.relevance, maps.x, maps.model, maps.again, maps.score, Cost())):
        assert {m()(unmeasured)[0].reason for m in (Seconds, Evaluations, PeakMemory)} <= {
            "it was not measured",
            "it is not finite",
        }


# --- controls


@pytest.mark.parametrize("axes", [2, 3])
def test_edges_are_the_sobel_magnitude(axes: int) -> None:
    x = torch.zeros(1, 2, *(6, 7, 8)[:axes])
    x[:, 0] = 3 * torch.arange(float(x.shape[2])).reshape(-1, *[1] * (axes - 1))
    x[:, 1] = image(axes, 1)[0, 0][tuple(slice(n) for n in x.shape[2:])]
    R = EdgeMap()(nn.Flatten(), x, Logits(0, 5))
    assert R.shape == (2, *x.shape)
    inner = (slice(1, -1),) * axes
    assert torch.allclose(R[0, 0, 0][inner], torch.tensor(3.0 * 2 * 4 ** (axes - 1)))  # difference over 2, smoothing 1 2 1
    c, squares = x[0, 1], 0.0
    centre = (3,) * axes
    for axis in range(axes):
        total = 0.0
        for offset in np.ndindex(*(3,) * axes):
            weight = math.prod((-1, 0, 1)[o] if a == axis else (1, 2, 1)[o] for a, o in enumerate(offset))
            total += weight * float(c[tuple(p + o - 1 for p, o in zip(centre, offset, strict=True))])
        squares += total**2
    assert float(R[1, 0, 1][centre]) == pytest.approx(squares**0.5, rel=1e-5)
    assert not EdgeMap()(nn.Flatten(), torch.ones_like(x), Logits(0)).any()  # nor at the image's own edge


@pytest.mark.parametrize("axes", [2, 3])
def test_a_random_map_is_another_for_each_image_target_and_seed_and_the_same_again(axes: int) -> None:
    x = image(axes, 2, size=8)
    R = RandomMap()(nn.Identity(), x, Logits(0, 1))
    assert R.shape == (2, 2, 1, *x.shape[2:])
    assert torch.equal(RandomMap()(nn.Identity(), x, Logits(0, 1)), R)
    assert torch.equal(RandomMap()(nn.Identity(), x[1:], Logits(0, 1)), R[:, 1:])
    flat = torch.cat([R.reshape(4, -1), RandomMap(seed=1)(nn.Identity(), x, Logits(0, 1)).reshape(4, -1)])
    assert float((torch.corrcoef(flat) - torch.eye(8)).abs().max()) < 0.5
    assert abs(float(R.mean())) < 0.2
    assert abs(float(R.std()) - 1) < 0.2
    assert RandomMap(cells=3)(nn.Identity(), x, Logits(0)).shape == (1, 2, 1, *[3] * axes)


# --- all of them


@pytest.mark.parametrize("name", REMAKING)
def test_a_metric_says_what_it_is_and_its_settings_are_checked(name: str) -> None:
    text = describe(REMAKING[name])
    assert text["name"] == name
    assert "=" in text["equation"]
    assert text["category"] in ("complexity", "robustness", "randomisation", "axiomatic", "efficiency")
    assert len(text["meaning"]) > 40
    assert "better" in text["meaning"]
    metric = REMAKING[name]()
    assert eval(repr(metric), {type(metric).__name__: type(metric)}) == metric
    assert hash(metric) == hash(REMAKING[name]())


@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        (EffectiveComplexity, {"threshold": 1.0}),
        (AverageSensitivity, {"samples": 0}),
        (MaxSensitivity, {"radius": -1.0}),
        (AverageSensitivity, {"of_range": 3}),
        (ShiftContinuity, {"voxels": 0}),
        (RotationContinuity, {"degrees": 0.0}),
        (RotationContinuity, {"degrees": 200.0}),
        (Repeatability, {"runs": 0}),
        (Reproducibility, {"similarity": "pearson"}),
        (ParameterRandomisation, {"order": "top-down"}),
        (ParameterRandomisation, {"draws": 0}),
        (ComplexityRise, {"bins": 1}),
        (TargetRandomisation, {"similarity": "hog"}),
        (TargetRandomisation, {"absolute": "no"}),
        (ParameterRandomisation, {"absolute": 1}),
        (RandomMap, {"cells": -1}),
    ],
)
def test_a_setting_without_a_meaning_is_refused(kind: Any, setting: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=next(iter(setting))):
        kind(**setting)


BROKEN = {
    "the map is NaN or infinite in places": float("nan"),
    "the map is the same everywhere": 0.0,
}


@pytest.mark.parametrize("name", [n for n, kind in REMAKING.items() if kind.category != "efficiency"])
@pytest.mark.parametrize("reason", [*BROKEN, "constant"])
def test_a_map_that_says_nothing_has_no_value_and_the_others_do(name: str, reason: str) -> None:
    net, x = ConvNet(2), image(2, 1, size=8)

    def method(model: nn.Module, x: Tensor, targets: Any) -> Tensor:
        R = Gradient()(model, x, targets)
        R[1] = BROKEN.get(reason, 3.0)
        return R

    maps = made(net, x, method, Logits(0, 1, 2), baseline="zero")
    maps = Remade(
        maps.relevance, x, net, maps.again, maps.score, baseline="zero", others=lambda: [maps.again(x, model=randomised(net))]
    )
    found = REMAKING[name]()(maps)
    assert math.isnan(found[1].value)
    assert found[1].reason == (reason if reason in BROKEN else "the map is the same everywhere")
    assert all(math.isfinite(found[i].value) and not found[i].reason for i in (0, 2))


def test_only_one_image_at_a_time() -> None:
    x = image(2, 2, size=8)
    with pytest.raises(BadInput, match="of one image"):
        made(ConvNet(2), x, Gradient(), Logits(0))


def test_the_layers_are_looked_for_once() -> None:
    net, x = ConvNet(2), image(2, 1, size=8)
    maps = made(net, x, Gradient(), Logits(0))
    values(ParameterRandomisation(), maps)
    assert maps.kept["layers"] == weighted(net, x)


class Spare(nn.Module):
    """A network with a head that is not used in evaluation, as for deep supervision."""

    def __init__(self) -> None:
        super().__init__()
        self.spare, self.network = nn.Linear(4, 5), ConvNet(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


@pytest.mark.parametrize("order", ["cascading", "bottom-up", "independent"])
def test_layers_that_are_not_used_take_no_part_in_randomisation(order: str) -> None:
    torch.manual_seed(0)
    net, x = Spare().eval(), image(2, 1)
    metric = ParameterRandomisation(order, steps=0)
    whole, used = made(net, x, Gradient(), Logits(0, 1)), made(net.network, x, Gradient(), Logits(0, 1))
    curve = metric.curve(whole)
    (at,) = [k for k, (names, _) in enumerate(curve) if names == ["spare"]]
    others = [[abs(v) for v in values] for names, values in curve if not math.isnan(values[0])]
    assert len(others) >= len(metric.curve(used))
    if order == "independent" or at == 0:
        assert all(math.isnan(v) for v in curve[at][1])
    for number, found in enumerate(metric(whole)):
        assert found.reason == ""
        assert found.value == pytest.approx(sum(values[number] for values in others) / len(others))
