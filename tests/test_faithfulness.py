"""Is a map faithful? Worlds where the answer is known, slow definitions, and what may be shared."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, pearsonr, spearmanr
from test_contracts import TASKS, disturb, state, world
from torch import Tensor, nn
from worlds import Breaks, ConvNet, Linear, Segmenter, image, relative

from radiolucent import BadInput, Logits, Outputs, Region, baselines
from radiolucent.errors import InputWarning
from radiolucent.methods import EigenCAM, Gradient, InputXGradient
from radiolucent.metrics import (
    FAITHFULNESS,
    ROAD,
    Deletion,
    FaithfulnessCorrelation,
    Infidelity,
    Insertion,
    Monotonicity,
    MonotonicityCorrelation,
    Sufficiency,
    ask,
    describe,
    label_of,
)
from radiolucent.metrics.faithfulness import Answer, Asked, Claim, Witness
from radiolucent.metrics.faithfulness.changed import Gone, Order, Unchanged
from radiolucent.metrics.faithfulness.curves import wilson
from radiolucent.metrics.faithfulness.findings import Asking, Check, area, fisher
from radiolucent.metrics.faithfulness.imputation import impute
from radiolucent.metrics.faithfulness.infidelity import Noisy
from radiolucent.metrics.finding import Finding
from radiolucent.protocols import Target
from radiolucent.tiling import Tiled

every_axes = pytest.mark.parametrize("axes", [2, 3])
SMALL: list[Check] = [
    FaithfulnessCorrelation(cubes=3, subset=2, samples=12),
    FaithfulnessCorrelation("voxels", samples=12),
    Infidelity(cubes=3, subset=2, samples=12),
    Deletion(cubes=3, points=4),
    Insertion("voxels", points=4),
    Sufficiency(cubes=3),
    ROAD(points=3),
    Monotonicity(cubes=3, points=4),
    MonotonicityCorrelation(cubes=3, samples=8, draws=2),
]
"""All checks, at a low price."""


class Counting(nn.Module):
    """Counts the images that go through a model, and its passes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.images, self.passes = model, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.images += len(x)
        self.passes += 1
        return self.model(x)


def linear(axes: int, channels: int = 1) -> tuple[Linear, Tensor]:
    torch.manual_seed(0)
    x = image(axes, 1, channels=channels).double()
    return Linear(tuple(x.shape[1:])).double(), x


def convolutional(axes: int, channels: int = 1) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return ConvNet(axes, channels=channels).double().eval(), image(axes, 1, channels=channels).double()


def one(model: nn.Module, x: Tensor, relevance: Tensor, targets: Target, metric: Check, **options: object) -> Answer:
    return ask(model, x, {"map": relevance}, targets, [metric], **options)[0]


# Worlds.


@every_axes
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("over", ["voxels", "cubes", "i", "j", "supervoxels", "parcellation"])
def test_on_a_linear_model_input_x_gradient_is_right(axes: int, channels: int, over: str) -> None:
    net, x = linear(axes, channels)
    if over == "supervoxels":  # which need something to follow
        x = x / 10 + torch.arange(x.shape[2]).reshape(-1, *[1] * (axes - 1)) // 4
    R = InputXGradient()(net, x, Logits(0, 2))
    labels = torch.randint(0, 9, tuple(x.shape[2:]), generator=torch.Generator().manual_seed(0))
    settings = {"over": over, "cubes": 3, "baseline": "zero"}
    subsets = settings | {"subset": 3}
    asked: list[Check] = [
        FaithfulnessCorrelation(**subsets),
        Infidelity(**subsets, scaled=False),
        Infidelity(**subsets),
        Monotonicity(**settings),
        MonotonicityCorrelation(**settings),
    ]
    answers = ask(net, x, {"map": R}, Logits(0, 2), asked, labels=labels)
    assert [a.target for a in answers] == [0] * 5 + [1] * 5
    for a in answers:
        assert a.value == pytest.approx(0 if "infidelity" in a.check else 1, abs=1e-9), a
        if "infidelity" not in a.check:
            assert a.low <= a.value <= a.high
    backwards = ask(net, x, {"map": -R}, Logits(0, 2), asked, labels=labels)
    assert backwards[0].value == pytest.approx(-1)
    assert backwards[1].value > 1e-3  # the sign is wrong, which only the scaled one forgives
    assert backwards[2].value == pytest.approx(0, abs=1e-9)
    assert backwards[3].value == pytest.approx(0, abs=1e-9)
    assert backwards[4].value == pytest.approx(1)


@every_axes
def test_a_linear_model_s_gradient_is_a_slope(axes: int) -> None:
    net, x = linear(axes, 2)
    R = Gradient()(net, x, Logits(1))
    for metric in (Infidelity(cubes=2, scaled=False), Infidelity("voxels", baseline="blur"), Infidelity(noise=0.3, scaled=False)):
        found = ask(net, x, {"map": R}, Logits(1), [metric], slopes=["map"])[0]
        assert found.value == pytest.approx(0, abs=1e-12)
    doubled = ask(net, x, {"map": 2 * R}, Logits(1), [Infidelity(noise=0.3), Infidelity(noise=0.3, scaled=False)], slopes=["map"])
    assert doubled[0].value == pytest.approx(0, abs=1e-12)
    w, sigma = net.weight[1].detach(), x.flatten(2).std(2, unbiased=False)[0]
    expected = sum(float((w[c] ** 2).sum() * (0.3 * sigma[c]) ** 2) for c in range(2))  # E (I . w)^2
    assert doubled[1].low <= doubled[1].value <= doubled[1].high
    assert doubled[1].value == pytest.approx(expected, rel=0.5)
    silent = one(net, x, R, Logits(1), Infidelity(noise=0.3))
    assert math.isnan(silent.value)
    assert "no score per unit of intensity" in silent.reason


@every_axes
def test_the_curves_of_a_linear_model_are_sums_of_its_parts(axes: int) -> None:
    net, x = linear(axes)
    R = InputXGradient()(net, x, Logits(0))
    part = R[0, 0, 0].flatten().sort(descending=True).values.numpy()  # each voxel's own share in the score, for certain
    n, S = len(part), float(R.sum())
    kept = S - np.concatenate([[0], part.cumsum()])  # of 0, 1, ... voxels deleted
    k = np.array([round(i * n / 7) for i in range(8)])
    settings = {"over": "voxels", "points": 7, "baseline": "zero"}
    deletion = one(net, x, R, Logits(0), Deletion(**settings))
    assert deletion.scores == pytest.approx(list(kept[k] / abs(S)), abs=1e-9)
    assert deletion.shares == pytest.approx(list(k / n))
    assert deletion.value == pytest.approx(np.trapezoid(kept[k] / abs(S), k / n))
    assert deletion.low < deletion.value < deletion.high
    raw = one(net, x, R, Logits(0), Deletion(**settings, relative=False))
    assert raw.value == pytest.approx(np.trapezoid(kept[k], k / n))
    insertion = one(net, x, R, Logits(0), Insertion(**settings, relative=False))
    assert insertion.scores == pytest.approx(list(S - kept[k]), abs=1e-9)
    shares = [max(1, round(s * n)) for s in (0.05, 0.1, 0.2, 0.5)]
    sufficiency = one(net, x, R, Logits(0), Sufficiency("voxels", baseline="zero", relative=False))
    assert sufficiency.value == pytest.approx(np.mean([kept[m] for m in shares]))
    assert (sufficiency.low, sufficiency.high) == pytest.approx((min(kept[shares]), max(kept[shares])))
    fine = one(net, x, R, Logits(0), Deletion("voxels", points=n, baseline="zero", relative=False))
    assert fine.low <= np.trapezoid(kept, np.arange(n + 1) / n) <= fine.high


@pytest.mark.parametrize("kind", [Deletion, Insertion, Sufficiency, ROAD])
def test_relative_scores_go_from_the_baseline_s_to_the_image_s(kind: type) -> None:
    net, x = convolutional(2)
    R = torch.randn(1, 1, 1, *x.shape[2:])
    with torch.no_grad():
        nothing, whole = (float(net(image)[0, 3]) for image in (baselines.mean(x), x))
    assert abs(nothing) > 0.01
    settings = {"over": "voxels", "baseline": "mean"}
    raw, relative = (one(net, x, R, Logits(3), kind(**settings, relative=r)) for r in (False, True))
    expected = [(S - nothing) / abs(whole - nothing) for S in raw.scores]
    assert relative.scores == pytest.approx(expected, abs=1e-6)
    if kind is Deletion:
        assert (relative.scores[0], relative.scores[-1]) == pytest.approx((expected[0], 0), abs=1e-6)
        assert abs(relative.scores[0]) == pytest.approx(1)


@every_axes
def test_a_segmentation_s_region_is_right_where_it_looks_at_its_own_voxels(axes: int) -> None:
    torch.manual_seed(1)
    net = {2: nn.Conv2d, 3: nn.Conv3d}[axes](1, 3, 1).double()
    x = image(axes, 1).double()
    targets = Region(0, 1, 2).fix(net(x)) if len(net(x).argmax(1).unique()) == 3 else Region(0, 1, mask=(x[0, 0] > 0.4).long())
    R = InputXGradient()(net, x, targets)
    rows = ask(net, x, {"map": R}, targets, [FaithfulnessCorrelation(cubes=4, baseline="zero"), Infidelity(baseline="zero")])
    for row in rows:
        assert row.value == pytest.approx(1 if "corr" in row.check else 0, abs=1e-9)


@every_axes
def test_a_map_of_noise_is_at_chance(axes: int) -> None:
    net, x = linear(axes)
    R = torch.randn(1, 1, 1, *x.shape[2:], generator=torch.Generator().manual_seed(5)).double()
    many = FaithfulnessCorrelation("voxels", samples=400, baseline="zero")
    assert abs(one(net, x, R, Logits(0), many).value) < 0.2
    d = float(torch.stack(_drops(net, x, many, 400)).square().mean())
    assert one(net, x, R, Logits(0), Infidelity("voxels", samples=400, baseline="zero")).value == pytest.approx(d, rel=0.1)


def _drops(net: nn.Module, x: Tensor, metric: FaithfulnessCorrelation, samples: int) -> list[Tensor]:
    """S - S of each subset, one after the other, for target 0."""
    units = Asked(net, x, Logits(0)).units(metric.over, metric.cubes)
    reference = baselines.baseline(metric.baseline, x)
    found = []
    with torch.no_grad():
        for drawn in metric.drawn(units)[:samples]:
            changed = x.clone()
            for index in drawn.members(units).tolist():
                where = torch.arange(units.count).reshape(units.grid) == index if units.code is None else units.code == index
                changed[:, :, where] = reference[:, :, where]
            found.append((net(x) - net(changed))[0, 0])
    return found


# Slow definitions.


@every_axes
def test_the_correlation_and_infidelity_are_those_of_a_slow_loop(axes: int) -> None:
    net, x = convolutional(axes, 2)
    R = torch.randn(1, 1, 1, *x.shape[2:]).double()
    metric = FaithfulnessCorrelation(cubes=3, subset=0.2, samples=15, baseline="mean", seed=4)
    units = Asked(net, x, Logits(0)).units("cubes", 3)
    a = [sum(float(R[0, 0, 0][units.code == u].sum()) for u in d.members(units).tolist()) for d in metric.drawn(units)]
    assert {len(d.members(units)) for d in metric.drawn(units)} == {round(0.2 * units.count)}
    d = np.array(_drops(net, x, metric, 15))
    found = one(net, x, R, Logits(0), metric)
    expected = pearsonr(a, d)
    assert found.value == pytest.approx(expected.statistic, abs=1e-9)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)), abs=1e-9)
    same = {"cubes": 3, "subset": 0.2, "samples": 15, "baseline": "mean", "seed": 4}
    assert one(net, x, R, Logits(0), Infidelity(**same, scaled=False)).value == pytest.approx(np.mean((a - d) ** 2))
    b = (a @ d) / np.square(a).sum()
    assert one(net, x, R, Logits(0), Infidelity(**same)).value == pytest.approx(np.mean((b * np.array(a) - d) ** 2))
    # as a slope: I . R with I = x - mean on the subset
    I = (x - baselines.mean(x))[0].sum(0)
    a = np.array([float((I * R[0, 0, 0] * units.where(s.members(units))).sum()) for s in metric.drawn(units)])
    slope = ask(net, x, {"map": R}, Logits(0), [Infidelity(**same, scaled=False)], slopes=["map"])[0]
    assert slope.value == pytest.approx(np.mean((a - d) ** 2))


@every_axes
def test_monotonicity_correlation_is_that_of_a_slow_loop(axes: int) -> None:
    net, x = convolutional(axes)
    R = torch.randn(1, 1, 1, *x.shape[2:]).double()
    units = Asked(net, x, Logits(0)).units("cubes", 3)
    costs = []
    with torch.no_grad():
        for u in range(units.count):
            changed = x.clone()
            changed[:, :, units.code == u] = x.amin()
            costs.append(float((net(changed) - net(x))[0, 0] ** 2))
    sums = [abs(float(R[0, 0, 0][units.code == u].sum())) for u in range(units.count)]
    metric = MonotonicityCorrelation(cubes=3, samples=1000, baseline="minimum")
    assert one(net, x, R, Logits(0), metric).value == pytest.approx(spearmanr(sums, costs).statistic, abs=1e-9)
    noisy = [one(net, x, R, Logits(0), MonotonicityCorrelation(cubes=3, samples=1000, draws=n)) for n in (1, 3)]
    assert noisy[0].evaluations == 1 + units.count
    assert noisy[1].evaluations == 1 + 3 * units.count
    assert noisy[0].value != noisy[1].value


@every_axes
def test_monotonicity_counts_steps_that_go_the_relevance_s_way(axes: int) -> None:
    net, x = convolutional(axes)
    for R in (torch.rand(1, 1, 1, *x.shape[2:]).double(), torch.randn(1, 1, 1, *x.shape[2:]).double()):
        order = R.flatten().argsort()
        right, last, n = 0, None, len(order)
        changed = baselines.blur(x)
        with torch.no_grad():
            counts = [round(i * n / 9) for i in range(10)]
            for a, b in zip([0, *counts], counts, strict=False):
                changed.flatten(2)[:, :, order[a:b]] = x.flatten(2)[:, :, order[a:b]]
                S = float(net(changed)[0, 2])
                if last is not None:
                    right += (S - last) * (-1 if R.flatten()[order[a:b]].sum() < 0 else 1) >= 0
                last = S
        found = one(net, x, R, Logits(2), Monotonicity("voxels", points=9, baseline="blur"))
        assert found.value == pytest.approx(right / 9)
        interval = binomtest(right, 9).proportion_ci(0.95, "wilson")
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize("shape", [(5, 7), (4, 5, 3)])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_imputation_solves_its_equations(shape: tuple[int, ...], share: float) -> None:
    """Against the dense system of Rong et al., written out voxel by voxel."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 2, *shape, generator=generator).double()
    gone = torch.rand(shape, generator=generator) < share
    weights = {1: 1 / 6, 2: 1 / 12} if len(shape) == 2 else {d: 3 / 44 / d for d in (1, 2, 3)}
    places = list(np.ndindex(*shape))
    A, b = np.zeros((len(places), len(places))), np.zeros((2, len(places)))
    for i, p in enumerate(places):
        if not gone[p]:
            A[i, i], b[:, i] = 1, x[(0, slice(None), *p)]
            continue
        for j, q in enumerate(places):
            d = np.subtract(p, q)
            if 0 < np.abs(d).max() <= 1:
                A[i, i] += weights[int(d @ d)]
                A[i, j] -= weights[int(d @ d)]
    expected = np.linalg.solve(A, b.T).T.reshape(1, 2, *shape)
    found = impute(x, gone, tolerance=1e-12)
    assert np.abs(found.numpy() - expected).max() < 1e-9
    assert torch.equal(found[:, :, ~gone], x[:, :, ~gone])
    assert relative(impute(x.float(), gone), torch.from_numpy(expected).float()) < 1e-3


def test_a_large_hole_is_filled_smoothly() -> None:
    """On a ramp every voxel is its neighbours' mean already: the inside of a hole comes back."""
    x = torch.linspace(0, 1, 20).expand(1, 1, 18, 16, 20).clone()
    gone = torch.zeros(18, 16, 20, dtype=torch.bool)
    gone[3:15, 3:13, 3:17] = True
    assert (impute(x * ~gone, gone) - x).abs().max() < 5e-3
    with pytest.raises(BadInput, match="a voxel that is left"):
        impute(x, torch.ones_like(gone))


@every_axes
def test_road_scores_what_was_imputed(axes: int) -> None:
    net, x = convolutional(axes)
    R = torch.randn(1, 1, 1, *x.shape[2:]).double()
    found = one(net, x, R, Logits(0), ROAD(points=4, noise=0, relative=False))
    order, n = R.flatten().argsort(descending=True), R.numel()
    with torch.no_grad():
        for k, score in zip([round(i * n / 5) for i in range(1, 5)], found.scores, strict=True):
            gone = torch.zeros(n, dtype=torch.bool)
            gone[order[:k]] = True
            assert score == pytest.approx(float(net(impute(x, gone.reshape(x.shape[2:])))[0, 0]), abs=1e-6)
    assert found.value == pytest.approx(area(found.shares, found.scores).value)
    loud = one(net, x, R, Logits(0), ROAD(points=4, noise=1.0, relative=False))
    assert loud.scores != pytest.approx(found.scores, abs=1e-4)


# Shared evaluations.


@every_axes
def test_many_maps_and_targets_cost_the_subsets_of_one(axes: int) -> None:
    net, x = convolutional(axes)
    counting = Counting(net)
    maps = {f"map {m}": torch.randn(3, 1, 1, *x.shape[2:]) for m in range(5)}
    asked: list[Check] = [FaithfulnessCorrelation(samples=40), Infidelity(samples=40), Infidelity(samples=40, scaled=False)]
    answers = ask(counting, x, maps, Logits(0, 1, 2), asked)
    assert counting.images == 41
    assert counting.passes == math.ceil(41 / 16)
    assert len(answers) == 5 * 3 * 3
    assert {a.evaluations for a in answers} == {41}
    assert all(a.seconds > 0 for a in answers)


@every_axes
def test_curves_share_what_they_can_and_fill_batches_across_maps(axes: int) -> None:
    net, x = convolutional(axes)
    counting = Counting(net)
    R = torch.randn(1, 1, 1, *x.shape[2:])
    maps = {"a": R.expand(3, *R.shape[1:]), "scaled": 3 * R.expand(3, *R.shape[1:])}  # ranks alike, for all targets
    settings = {"cubes": 4, "points": 20}
    units = 4**axes
    points = min(20, units)
    ask(counting, x, maps, Logits(0, 1, 2), [Deletion(**settings), Monotonicity(**settings)])
    assert counting.images == points + 1
    counting.images = counting.passes = 0
    ask(counting, x, maps, Logits(0, 1, 2), [Insertion(**settings), Sufficiency(**settings), Deletion(**settings)])
    own = {max(1, round(s * units)) for s in Sufficiency.shares} - {round(i * units / points) for i in range(points + 1)}
    assert counting.images == 2 * points + len(own)  # both curves have the image and the empty one
    counting.images = counting.passes = 0
    different = {f"map {m}": torch.randn(3, 1, 1, *x.shape[2:]) for m in range(2)}
    ask(counting, x, different, Logits(0, 1, 2), [Deletion("voxels", points=5)])
    assert counting.images == 2 + 6 * 4
    assert counting.passes == 2
    eigen = EigenCAM("conv2")(net, x, Logits(0, 1, 2))  # the same for all targets
    counting.images = 0
    ask(counting, x, {"eigen": eigen}, Logits(0, 1, 2), [Deletion("voxels", points=5), ROAD(points=3)])
    assert counting.images == 2 + 4 + 1 + 3


def test_an_early_stop_is_the_first_part_of_the_whole() -> None:
    net, x = linear(3)
    counting = Counting(net)
    good, noise = InputXGradient()(net, x, Logits(0)), torch.randn(1, 1, 1, *x.shape[2:])
    metric = FaithfulnessCorrelation(samples=200, error=0.02, baseline="minimum")
    quick = one(counting, x, good, Logits(0), metric)
    assert quick.evaluations - 1 == counting.images - 1 < 200
    n = quick.evaluations - 1
    assert n % 10 == 0
    whole = one(net, x, good, Logits(0), FaithfulnessCorrelation(samples=n, baseline="minimum"))
    assert (whole.value, whole.low, whole.high) == (quick.value, quick.low, quick.high)
    assert (1 - quick.value**2) / (n - 3) ** 0.5 <= 0.02
    fair = good + good.std() * noise
    middle = FaithfulnessCorrelation(samples=400, error=0.05, baseline="minimum")
    counting.images = 0
    n = one(counting, x, fair, Logits(0), middle).evaluations - 1
    assert counting.images == n + 1  # what a round asks for again has been seen
    assert 30 <= n < 400
    at, before = (one(net, x, fair, Logits(0), FaithfulnessCorrelation(samples=m)).value for m in (n, n - 10))
    assert (1 - at**2) / (n - 3) ** 0.5 <= 0.05 < (1 - before**2) / (n - 13) ** 0.5
    both = ask(net, x, {"noise": noise, "good": good}, Logits(0), [metric])  # company takes longer, and changes nothing
    assert both[0].evaluations == 201
    assert both[1].value == quick.value
    assert both[1].evaluations == quick.evaluations
    settled = one(net, x, noise, Logits(0), Infidelity(samples=500, error=0.2))
    assert settled.evaluations < 501
    assert (settled.high - settled.low) / 2 / 1.96 <= 0.2 * settled.value


def test_what_a_check_asks_for_in_any_round_is_counted() -> None:
    @dataclass(frozen=True)
    class Twice:
        name = "twice"
        category = "faithfulness"
        higher_is_better = True

        def __call__(self, claim: Claim, witness: Witness) -> Asking:
            (first,) = yield [Unchanged()]
            (second,) = yield [Gone("zero")]
            return Finding(float(first - second), 0.0, 0.0)

    net, x = linear(2)
    found = one(net, x, InputXGradient()(net, x, Logits(0)), Logits(0), Twice())
    assert found.evaluations == 2
    assert found.value == pytest.approx(float(net(x)[0, 0].detach()))


def test_out_of_memory_halves_the_batch_and_changes_nothing() -> None:
    net, x = convolutional(2)

    class Full(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 3:
                raise RuntimeError("DefaultCPUAllocator: not enough memory")
            return self.net(x)

    R = torch.randn(1, 1, 1, *x.shape[2:])
    with pytest.warns(InputWarning, match="going on with"):
        found = ask(Full(), x, {"map": R}, Logits(0), SMALL)
    assert _values(found) == pytest.approx(_values(ask(net, x, {"map": R}, Logits(0), SMALL)), nan_ok=True, abs=1e-9)


def test_windows_that_no_subset_touches_are_not_predicted_again() -> None:
    torch.manual_seed(2)
    net, x = Segmenter(3).double().eval(), image(3, 1, size=16).double()
    tiled = Tiled(net, window=8, overlap=0.25)
    targets = Region(1, mask=torch.ones(x.shape[2:], dtype=torch.bool)).fix(tiled(x))
    R = InputXGradient()(tiled, x, targets)
    counting = Counting(net)
    asked: list[Check] = [FaithfulnessCorrelation(cubes=4, subset=1, samples=10), Deletion(cubes=2, points=3)]
    found = ask(Tiled(counting, window=8, overlap=0.25), x, {"map": R}, targets, asked)
    whole = ask(nn.Sequential(tiled), x, {"map": R}, targets, asked)  # every window of every copy
    assert _values(found) == pytest.approx(_values(whole), abs=1e-9)
    counting_whole = Counting(net)
    ask(nn.Sequential(Tiled(counting_whole, window=8, overlap=0.25)), x, {"map": R}, targets, asked)
    assert counting.images < counting_whole.images / 2


def _values(answers: Sequence[Answer]) -> list[float]:
    return [v for a in answers for v in (a.value, a.low, a.high)]


# Contracts.


def _maps(x: Tensor, t: int, count: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {f"map {m}": torch.randn(t, 1, 1, *x.shape[2:], generator=generator) for m in range(count)}


@pytest.mark.parametrize("task", TASKS)
@every_axes
def test_model_and_input_are_left_as_found_also_after_an_error(task: str, axes: int) -> None:
    here = world(task, axes, batch=1)
    disturb(here.model)
    x = here.x.clone().requires_grad_()
    x.grad = torch.ones_like(x)
    before, maps = state(here.model), _maps(x, 2)
    kept = {name: m.clone() for name, m in maps.items()}
    ask(here.model, x, maps, here.target(1, 2), SMALL)
    assert state(here.model) == before
    assert torch.equal(x.detach(), here.x)
    assert torch.equal(x.grad, torch.ones_like(x))
    assert all(torch.equal(maps[name], kept[name]) for name in maps)
    with pytest.raises(BadInput):
        ask(here.model, here.x, maps, here.bad, SMALL)
    assert state(here.model) == before
    broken = nn.Sequential(here.model, Breaks("again"))
    disturb(broken)
    before = state(broken)
    with pytest.raises(RuntimeError, match="the model broke"):
        ask(broken, here.x, maps, here.target(1, 2), SMALL, batch=1)
    assert state(broken) == before


@pytest.mark.parametrize("task", TASKS)
@every_axes
def test_together_is_one_by_one(task: str, axes: int) -> None:
    here = world(task, axes, batch=1)
    model, x = here.model.double(), here.x.double()
    maps = _maps(x, 2)
    together = ask(model, x, maps, here.target(2, 1), SMALL)
    alone = []
    for name, relevance in maps.items():
        for t, label in enumerate((2, 1)):
            for metric in SMALL:
                found = ask(model, x, {name: relevance[t : t + 1]}, here.target(label), [metric], batch=1)[0]
                alone.append(found)
    assert [(a.map, a.check, a.evaluations) for a in together] == [(a.map, a.check, a.evaluations) for a in alone]
    assert _values(together) == pytest.approx(_values(alone), abs=1e-6, nan_ok=True)


@every_axes
def test_the_same_call_gives_the_same_numbers_and_another_seed_others(axes: int) -> None:
    net, x = convolutional(axes)
    maps = {"map": (torch.randn(1, 1, 1, *x.shape[2:]) > 0.5).float()}  # ties, between which chance decides
    first = _values(ask(net, x, maps, Logits(0), SMALL))
    torch.rand(1)
    np.random.rand(1)  # noqa: NPY002  # the caller's random numbers do not matter
    assert _values(ask(net, x, maps, Logits(0), SMALL)) == first
    for metric in SMALL:
        other = type(metric)(**{**vars(metric), "seed": 1})
        if getattr(metric, "over", "") == "voxels" or not hasattr(metric, "points"):  # sums over cubes have no ties
            assert _values(ask(net, x, maps, Logits(0), [other])) != _values(ask(net, x, maps, Logits(0), [metric]))


@pytest.mark.parametrize("name", FAITHFULNESS)
def test_a_check_says_what_it_is(name: str) -> None:
    text = describe(FAITHFULNESS[name])
    assert text["name"] == name
    assert text["category"] == "faithfulness"
    assert "=" in text["equation"]
    assert ("Higher is better" if FAITHFULNESS[name].higher_is_better else "Lower is better") in text["meaning"]
    assert hash(FAITHFULNESS[name]()) == hash(FAITHFULNESS[name]())
    assert label_of(FAITHFULNESS[name]()) == name


def test_labels_tell_settings_apart() -> None:
    assert label_of(Deletion("voxels", points=50)) == "deletion(over=voxels, points=50)"


# What has no value.


@pytest.mark.parametrize("metric", SMALL, ids=label_of)
def test_what_has_no_value_is_nan_with_a_reason(metric: Check) -> None:
    net, x = convolutional(2)
    shape = (1, 1, 1, *x.shape[2:])
    broken = torch.zeros(shape)
    broken[..., 3, 3] = math.nan
    good = torch.randn(shape)
    maps = {"zero": torch.zeros(shape), "flat": torch.full(shape, 0.3), "nan": broken, "good": good}
    *bad, last = ask(net, x, maps, Logits(0), [metric])
    assert [a.reason for a in bad] == ["the map is the same everywhere"] * 2 + ["the map is NaN or infinite in places"]
    assert all(math.isnan(v) for a in bad for v in (a.value, a.low, a.high))
    assert all(a.evaluations == 0 for a in bad)
    assert not last.reason
    assert math.isfinite(last.value)

    class Blind(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([[1.0, 2.0]]).expand(len(x), 2)

    blind = one(Blind(), x, good, Logits(0), metric)
    assert math.isnan(blind.value)
    assert blind.reason in ("the score does not change, whatever is hidden", "the baseline has the image's score")


def test_relevance_that_is_always_the_same_has_no_correlation() -> None:
    net, x = convolutional(2)
    R = torch.ones(1, 1, 1, *x.shape[2:])
    R[..., 0, 0] = 0  # within one cube of the least size
    R[..., :4, :4] = 0
    found = one(net, x, R, Logits(0), MonotonicityCorrelation("i", samples=4, baseline="zero"))
    assert math.isfinite(found.value) or found.reason
    labels = torch.zeros(tuple(x.shape[2:]), dtype=torch.long)
    labels[:6] = 1
    R = torch.zeros(1, 1, 1, *x.shape[2:])
    R[..., 0, 0], R[..., -1, -1] = 1, 1
    same = one(net, x, R, Logits(0), FaithfulnessCorrelation("parcellation", subset=1), labels=labels)
    assert math.isnan(same.value)
    assert same.reason == "the relevance of what is hidden is always the same"
    whole = one(net, x, R, Logits(0), FaithfulnessCorrelation("parcellation", subset=2), labels=labels)
    assert whole.reason == "a subset of 2 of 2 parcellation leaves nothing to see: hide fewer, or cut the image into more"
    few = one(net, x, torch.rand_like(R), Logits(0), FaithfulnessCorrelation("parcellation", subset=1), labels=labels)
    assert math.isfinite(few.value)
    assert math.isnan(few.low)  # there are no more than two subsets
    for metric in (MonotonicityCorrelation("parcellation"), ROAD("parcellation")):
        assert one(net, x, R, Logits(0), metric, labels=labels).reason.startswith("2 parcellation: too few for a ")
    nothing = torch.zeros(1, 1, 1, *x.shape[2:])
    nothing[..., 0, :2] = torch.tensor([1.0, -1.0])
    silent = one(net, x, nothing, Logits(0), Infidelity("parcellation", subset=1), labels=labels)
    assert silent.reason == "the map foretells no change, whatever is hidden"


# Small parts.


def test_intervals_are_scipy_s() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=30)
    b = a + rng.normal(size=30)
    expected = pearsonr(a, b)
    assert fisher(expected.statistic, 30) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert fisher(1.0, 30) == (1.0, 1.0)
    assert all(math.isnan(v) for v in fisher(0.5, 3))
    for right in (0, 4, 11):
        interval = binomtest(right, 11).proportion_ci(0.95, "wilson")
        assert wilson(right, 11) == pytest.approx((interval.low, interval.high), abs=1e-12)


def test_ties_are_in_no_order_of_their_own() -> None:
    R = torch.zeros(1000)
    R[::100] = 1
    order = Order(R, 0)
    assert set(order.ranked[:10].tolist()) == set(range(0, 1000, 100))
    rest = order.ranked[10:].double()
    assert abs(float(torch.corrcoef(torch.stack([rest, torch.arange(990.0).double()]))[0, 1])) < 0.1
    assert order == Order(2 * R, 0)
    assert order != Order(R, 1)


def test_a_claim_adds_up_channels_and_units() -> None:
    R = torch.arange(24.0).reshape(2, 3, 4)
    units = Asked(nn.Identity(), torch.zeros(1, 2, 3, 4), Logits(0)).units("j", 0)
    assert Claim(R, 0).sums(units).tolist() == R.sum((0, 1)).tolist()
    assert units.where(torch.tensor([1, 3])).tolist() == [[False, True, False, True]] * 3


def test_semantic_units_are_what_the_model_predicts() -> None:
    torch.manual_seed(0)
    net, x = Segmenter(2).eval(), image(2, 1)
    asked = Asked(net, x, Region(1))
    labels = net(x).argmax(1)[0]
    units = asked.units("semantic", 8)
    assert units.count == len(labels.unique())
    assert torch.equal(torch.unique(labels, return_inverse=True)[1], units.code)


# Refused.


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: FaithfulnessCorrelation("voxel"), "over among voxels, cubes"),
        (lambda: FaithfulnessCorrelation(samples=3), "samples as a whole number >= 4"),
        (lambda: FaithfulnessCorrelation(subset=0), "subset as a share below 1"),
        (lambda: FaithfulnessCorrelation(subset=2.5), "subset as a share below 1"),
        (lambda: FaithfulnessCorrelation(error=-1.0), "error as a number >= 0"),
        (lambda: FaithfulnessCorrelation(baseline="black"), "baseline among zero"),
        (lambda: FaithfulnessCorrelation(seed=-1), "seed as a whole number >= 0"),
        (lambda: Infidelity(noise=-0.1), "noise as a number >= 0"),
        (lambda: Deletion(points=0), "points as a whole number >= 1"),
        (lambda: ROAD(points=1), "points as a whole number >= 2"),
        (lambda: MonotonicityCorrelation(draws=0), "draws as a whole number >= 1"),
    ],
)
def test_impossible_settings_are_refused_when_a_check_is_made(wrong: object, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        wrong()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"x": torch.rand(2, 1, 8, 8)}, "one image"),
        ({"maps": {}}, "maps of the same number of targets; got none"),
        ({"maps": {"a": torch.rand(1, 1, 1, 8, 8), "b": torch.rand(2, 1, 1, 8, 8)}}, "a: 1, b: 2"),
        ({"maps": {"a": torch.rand(1, 1, 8, 8)}}, "relevance .* as the map 'a'; got shape"),
        ({"maps": {"a": torch.rand(1, 1, 3, 8, 8)}}, "relevance .* as the map 'a'; got shape"),
        ({"maps": {"a": torch.rand(2, 1, 1, 8, 8)}}, "a map for each of the 1 targets; got 2"),
        ({"checks": []}, "a list of checks"),
        ({"checks": [Deletion]}, "a list of checks"),
        ({"checks": [FaithfulnessCorrelation("k")]}, "an axis among i, j; got 'k'"),
        ({"checks": [FaithfulnessCorrelation("parcellation")]}, "a parcellation for over"),
        ({"checks": [FaithfulnessCorrelation(cubes=(2, 2, 2))]}, "cubes as one number"),
        ({"checks": [FaithfulnessCorrelation("parcellation")], "labels": torch.zeros(4, 4).long()}, "a label map on the model's"),
        ({"slopes": ["b"]}, "slopes among the maps a; got b"),
        ({"targets": Region(1)}, "output of shape"),
        ({"targets": Outputs(9)}, "target indices"),
    ],
)
def test_bad_input_is_refused_in_words(given: dict[str, object], message: str) -> None:
    usual = {"x": torch.rand(1, 1, 8, 8), "maps": {"a": torch.rand(1, 1, 1, 8, 8)}, "targets": Logits(0), "checks": [Deletion()]}
    values = usual | given
    options = {key: values.pop(key) for key in ("slopes", "labels") if key in values}
    with pytest.raises(BadInput, match=message):
        ask(ConvNet(2), *(values[k] for k in ("x", "maps", "targets", "checks")), **options)  # type: ignore[arg-type]


def test_any_seed_makes_noise() -> None:
    x = image(2, 1)
    changes = [Noisy(0.1, seed, 3).change(x) for seed in (0, 2**40, 2**62)]
    assert not any(torch.equal(a, b) for a, b in pairwise(changes))
    assert torch.equal(changes[1], Noisy(0.1, 2**40, 3).change(x))
