"""KernelSHAP against the definition (mean over all orders of the players), its own standard errors, and closed forms."""

import sys
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from worlds import ConvNet, Linear, Returns, image, relative, segmenter

from radiolucent import (
    BadInput,
    Explanation,
    InputWarning,
    Logits,
    Outputs,
    Parcellation,
    Preprocessing,
    Region,
    Volume,
    explain,
    predict,
)
from radiolucent.baselines import baseline
from radiolucent.io.tables import Name
from radiolucent.methods import KernelSHAP, from_dict, from_settings
from radiolucent.methods.coalitions import pairs, shapley
from radiolucent.targets import Overlapping, Select

both_axes = pytest.mark.parametrize("axes", [2, 3])


class Counts(nn.Module):
    """A network, and how many images it has seen."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.seen = network, 0

    def forward(self, x: Tensor) -> object:
        self.seen += len(x)
        return self.network(x)


def by_orders(v: np.ndarray, d: int) -> np.ndarray:
    """Shapley values (d, t) as they are defined: v (2^d, t) grows by as much when r joins, in the mean over all orders."""
    joined = np.zeros((d, *v.shape[1:]))
    orders = list(permutations(range(d)))
    for order in orders:
        there = 0
        for r in order:
            joined[r] += v[there | 1 << r] - v[there]
            there |= 1 << r
    return joined / len(orders)


def by_subsets(v: np.ndarray, d: int) -> np.ndarray:
    """The same with equal terms added up at once, for more players."""
    sizes = np.array([bin(z).count("1") for z in range(2**d)])
    weight = np.array([1 / (d * float(np.prod([(d - 1 - i) / (i + 1) for i in range(k)]))) for k in range(d)])
    without = [np.array([z for z in range(2**d) if not z >> r & 1]) for r in range(d)]
    return np.stack([weight[sizes[z]] @ (v[z | 1 << r] - v[z]) for r, z in enumerate(without)])


def all_scores(model: nn.Module, x: Tensor, reference: Tensor, regions: Tensor, targets: object) -> np.ndarray:
    """v (2^d, t) of one image x (1, c, *grid), region r shown where bit r is set; written without the package."""
    d = int(regions.max()) + 1
    found = []
    for z in range(2**d):
        shown = torch.tensor([bool(z >> r & 1) for r in range(d)])[regions]
        with torch.no_grad():
            found.append(targets(model(torch.where(shown, x, reference)))[:, 0].double().numpy())
    return np.stack(found)


def lattice(grid: tuple[int, ...], along: tuple[int, ...]) -> Tensor:
    """Numbers of the boxes, from the shares of each axis that np.array_split would not always cut alike."""
    axes = [torch.tensor([int(i * k / n) for i in range(n)]) for n, k in zip(grid, along, strict=True)]
    number = torch.zeros(grid, dtype=torch.long)
    for axis, k in enumerate(along):
        shape = [-1 if a == axis else 1 for a in range(len(grid))]
        number = number * k + axes[axis].reshape(shape)
    return number


def curved(axes: int, channels: int = 1) -> tuple[nn.Module, Tensor]:
    """A network whose score is far from additive, in double precision."""
    torch.manual_seed(7)
    net, x = ConvNet(axes, channels=channels).eval().double(), image(axes, 1, size=8, channels=channels).double()
    for p in net.parameters():
        p.data *= 3
    return nn.Sequential(net, nn.Tanh()), x


@both_axes
@pytest.mark.parametrize("base", ["zero", "mean"])
def test_with_all_coalitions_the_values_are_the_mean_over_all_orders(base: str, axes: int) -> None:
    net, x = curved(axes, channels=2)
    along = {2: (2, 4), 3: (2, 2, 2)}[axes]
    regions = lattice(tuple(x.shape[2:]), along)
    truth = by_orders(all_scores(net, x, baseline(base, x), regions, Logits(2, 0)), 8)
    found = KernelSHAP(cubes=along, samples=256, baseline=base).values(net, x, Logits(2, 0))
    assert found.evaluations == (256,)
    assert relative(found.phi[:, 0].T, torch.from_numpy(truth)) <= 1e-10
    assert not found.error.any()
    map_ = KernelSHAP(cubes=along, samples=256, baseline=base)(net, x, Logits(2, 0))
    voxels = torch.bincount(regions.flatten())
    assert relative(map_[:, 0, 0], torch.from_numpy(truth).T[:, regions] / voxels[regions]) <= 1e-10


@both_axes
@pytest.mark.parametrize("samples", [40, 120])
def test_a_sample_is_right_within_its_standard_error(samples: int, axes: int) -> None:
    net, x = curved(axes)
    along = {2: (2, 4), 3: (2, 2, 2)}[axes]
    truth = all_scores(net, x, torch.zeros_like(x), lattice(tuple(x.shape[2:]), along), Logits(2, 0))
    truth = torch.from_numpy(by_subsets(truth, 8)).T
    off = []
    for seed in range(12):
        found = KernelSHAP(cubes=along, samples=samples, seed=seed).values(net, x, Logits(2, 0))
        assert found.evaluations == (samples,)
        assert (found.error > 0).all()
        off.append(((found.phi[:, 0] - truth) / found.error[:, 0]).square())
    assert 0.3 < float(torch.stack(off).mean().sqrt()) < 1.6
    assert float((torch.stack(off) < 9).double().mean()) > 0.96


def test_the_two_ways_to_the_definition_agree() -> None:
    v = np.random.default_rng(0).normal(size=(64, 2))
    assert np.allclose(by_orders(v, 6), by_subsets(v, 6))


# The regression by itself, on games that are cheap


def play(game: Callable[[Tensor], Tensor], d: int, samples: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    asked = pairs(d, samples, seed)
    z = (asked.signs.double() + 1) / 2
    return shapley(asked, game(z) - game(1 - z), (game(torch.ones(1, d).double()) - game(torch.zeros(1, d).double()))[0])


def table_game(d: int, seed: int = 0) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """A game with all interactions, from a small random network, and its values."""
    draw = np.random.default_rng(seed)
    first, second = (torch.from_numpy(draw.normal(size=s)) for s in ((d, 20), (20, 3)))
    bits = torch.tensor([[z >> r & 1 for r in range(d)] for z in range(2**d)]).double()
    game = lambda z: torch.tanh(z @ first * 0.7) @ second  # noqa: E731
    return game, torch.from_numpy(by_subsets(game(bits).numpy(), d))


def products(d: int, sizes: list[int], seed: int = 0) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """v(z) = sum_j a_j prod of z over the players T_j: each gets a_j / |T_j|."""
    draw = np.random.default_rng(seed)
    terms = [torch.from_numpy(draw.choice(d, size, replace=False)) for size in sizes]
    a = torch.from_numpy(draw.normal(size=(len(sizes), 2)))
    phi = torch.zeros(d, 2).double()
    for t, weight in zip(terms, a, strict=True):
        phi[t] += weight / len(t)
    return lambda z: torch.stack([z[:, t].prod(1) for t in terms], 1) @ a, phi


@pytest.mark.parametrize("d", [1, 2, 3, 5, 8, 11])
def test_all_pairs_give_the_exact_values(d: int) -> None:
    game, truth = table_game(d)
    asked = pairs(d, 2**d, 0)
    assert asked.all
    assert len({tuple(s) for s in asked.signs.tolist()} | {tuple(-s) for s in asked.signs}) >= len(asked.signs)
    assert 2 * len(asked.signs) + 2 == 2**d
    phi, error = play(game, d, 2**d)
    assert relative(phi, truth) <= 1e-10
    assert not error.any()


@pytest.mark.parametrize(("d", "samples"), [(8, 60), (10, 100), (12, 200), (30, 300), (60, 150)])
def test_the_standard_error_covers_the_truth_as_often_as_it_should(d: int, samples: int) -> None:
    game, truth = table_game(d) if d <= 12 else products(d, [1] * d + [2] * d + [3] * d + [d // 3] * 5)
    within, squares, errors = [], [], []
    for seed in range(150):
        phi, error = play(game, d, samples, seed)
        within.append(((phi - truth).abs() <= 1.96 * error).double().mean())
        squares.append((phi - truth).square().mean())
        errors.append(error.square().mean())
    assert 0.9 <= float(torch.stack(within).mean()) <= 0.99
    assert 0.8 <= float((torch.stack(errors).mean() / torch.stack(squares).mean()).sqrt()) <= 1.4


@pytest.mark.parametrize(("d", "samples"), [(8, 30), (20, 60), (30, 200)])
def test_values_are_unbiased(d: int, samples: int) -> None:
    game, truth = products(d, [1] * d + [3] * d)
    found = torch.stack([play(game, d, samples, seed)[0] for seed in range(200)])
    off = (found.mean(0) - truth) / (found.std(0) / 200**0.5)
    assert off.abs().max() < 4.5


@pytest.mark.parametrize("d", [6, 13, 40])
def test_pairs_of_complements_make_pairs_of_players_no_noise(d: int) -> None:
    """z_i z_j has no odd part beyond the additive one, so a few more pairs than players settle it."""
    game, truth = products(d, [1] * d + [2] * (3 * d))
    phi, error = play(game, d, 6 * d if d > 6 else 30)
    assert relative(phi, truth) <= 1e-5
    assert error.max() <= 1e-5 * truth.abs().max()


def test_as_many_samples_as_regions_are_no_resonance() -> None:
    """Plain least squares through as many equations as unknowns is off by ten times the values here."""
    game, truth = products(100, [1] * 100 + [30] * 100)
    for samples in (150, 200, 204, 260):
        phi, error = play(game, 100, samples)
        assert (phi - truth).square().mean().sqrt() < 3 * truth.std()
        assert 0.7 < float((phi - truth).square().mean().sqrt() / error.square().mean().sqrt()) < 1.4


@pytest.mark.parametrize(("d", "samples"), [(6, 36), (8, 40), (17, 200), (64, 300), (512, 300)])
def test_coalitions_are_drawn_as_the_kernel_wants(d: int, samples: int) -> None:
    drawn = [pairs(d, samples, seed) for seed in range(30)]
    kernel = np.array([1 / (k * (d - k)) for k in range(1, d)])
    kernel = (kernel + kernel[::-1]) / kernel.sum() / 2
    found = np.zeros(d - 1)
    for asked in drawn:
        assert len(asked.signs) == (samples - 2) // 2
        once = {max(tuple(s), tuple(-n for n in s)) for s in asked.signs.tolist()}  # neither drawn again nor its complement
        assert len(once) == len(asked.signs)
        rest = (1 - float(asked.weight.sum())) / (len(asked.signs) - asked.listed)
        weight = np.r_[asked.weight.numpy(), np.full(len(asked.signs) - asked.listed, rest)]
        sizes = (asked.signs > 0).sum(1).numpy()
        for size in (sizes, d - sizes):
            found += np.bincount(size - 1, weight, d - 1) / 60
    assert np.abs(found.cumsum() - kernel.cumsum()).max() < 0.01
    assert np.abs(found - kernel)[: d // 4].max() < 0.01
    assert drawn[0].listed == {6: 6, 8: 8, 17: 17, 64: 0, 512: 0}[d]


# What the method makes of it


@both_axes
@pytest.mark.parametrize("regions", ["cubes", "semantic", "supervoxels"])
@pytest.mark.parametrize("samples", [6, 40])
def test_the_map_adds_up_to_what_the_image_has_over_the_baseline(samples: int, regions: str, axes: int) -> None:
    x = image(axes, 2, size=12)
    net = segmenter(axes, x)
    targets = Region(1, 2).fix(net(x))
    method = KernelSHAP(regions, cubes=3, samples=samples, baseline="mean")
    whole = (targets(net(x)) - targets(net(baseline("mean", x)))).detach()
    found = method.values(net, x, targets)
    assert relative(found.phi.sum(2), whole.double()) <= 1e-6
    assert relative(method(net, x, targets).flatten(2).sum(2), whole) <= 1e-4
    assert found.index.shape == (2, *x.shape[2:])


def test_the_sum_is_exact_to_the_last_digits() -> None:
    net, x = curved(2)
    found = KernelSHAP(cubes=4, samples=20).values(net, x, Logits(0, 1, 2))
    with torch.no_grad():
        whole = (net(x) - net(torch.zeros_like(x)))[0, :3]
    assert (found.phi.sum(2)[:, 0] - whole).abs().max() <= 1e-14 * found.phi.abs().sum()


def test_an_additive_model_is_solved_without_error() -> None:
    x = image(2, 2, size=8)
    net = Linear(x.shape[1:])
    method = KernelSHAP(cubes=4, samples=50)
    found = method.values(net, x, Outputs())
    regions = lattice(tuple(x.shape[2:]), (4, 4))
    shares = (net.weight[:, None] * x).detach()[:, :, 0]
    truth = torch.stack([shares[..., regions == r].sum(-1) for r in range(16)], -1)
    assert relative(found.phi, truth.double()) <= 1e-5
    assert found.error.max() <= 1e-5 * truth.abs().max()


@both_axes
def test_seventeen_classes_cost_the_passes_of_one(axes: int) -> None:
    net = Counts(ConvNet(axes, outputs=17).eval())
    x, method = image(axes, 1), KernelSHAP(cubes=3, samples=40)
    method(net, x, Logits(0))
    alone, net.seen = net.seen, 0
    together = method(net, x, Logits(*range(17)))
    assert alone == net.seen == 40
    assert relative(together[3:4], method(net, x, Logits(3))) <= 1e-5


def test_it_stops_where_the_precision_is_reached() -> None:
    net, x = curved(2)
    net = Counts(net)
    precise = {}
    for precision in (0.3, 0.1, 0.0):
        net.seen = 0
        found = KernelSHAP(cubes=4, samples=2000, precision=precision).values(net, x, Logits(0, 3))
        assert net.seen == found.evaluations[0]
        precise[precision] = found
        spans = found.phi.amax(2) - found.phi.amin(2)
        assert not precision or (found.error.amax(2) <= precision * spans).all()
    assert precise[0.3].evaluations < precise[0.1].evaluations < precise[0.0].evaluations == (2000,)
    spans = precise[0.0].phi.amax(2) - precise[0.0].phi.amin(2)
    for precision in (0.3, 0.1):
        assert ((precise[precision].phi - precise[0.0].phi).abs().amax(2) < 4 * precision * spans).all()
    never = KernelSHAP(cubes=4, samples=60, precision=1e-9).values(net, x, Logits(0))
    assert never.evaluations == (60,)


@pytest.mark.parametrize("precision", [0.0, 0.2])
def test_chunks_and_company_change_nothing(precision: float) -> None:
    x = image(2, 3, size=12, seed=4).double()
    net = segmenter(2, x.float()).double()
    for regions in ("cubes", "semantic", "supervoxels"):
        targets = Region(1, 2).fix(net(x))
        method = KernelSHAP(regions, cubes=4, samples=200, precision=precision)
        together = method(net, x, targets)
        small = KernelSHAP(regions, cubes=4, samples=200, precision=precision, batch=3)(net, x, targets)
        assert relative(small, together) <= 1e-10
        for i in range(3):
            one = slice(i, i + 1)
            assert relative(method(net, x[one], Region(1, 2).fix(net(x[one]))), together[:, one]) <= 1e-10


def test_regions_that_cannot_change_are_no_players() -> None:
    net, x = curved(2)
    x[..., :4] = 0  # a quarter of the image is what the baseline is
    net = Counts(net)
    found = KernelSHAP(cubes=4, samples=5000).values(net, x, Logits(0))
    assert net.seen == 2**12 == found.evaluations[0]
    assert not found.error.any()
    assert sorted(found.names[found.phi[0, 0] == 0].tolist()) == [0, 4, 8, 12]


def test_one_region_gets_all_and_no_change_gives_nothing() -> None:
    net, x = curved(2)
    found = KernelSHAP(cubes=1, samples=2).values(net, x, Logits(0, 1))
    with torch.no_grad():
        whole = (net(x) - net(torch.zeros_like(x)))[0, :2]
    assert relative(found.phi[:, 0, 0], whole) <= 1e-12
    assert not found.error.any()
    nothing = KernelSHAP().values(net, torch.zeros_like(x), Logits(0, 1))
    assert nothing.evaluations == (2,)
    assert not nothing.phi.any()
    assert KernelSHAP()(net, torch.zeros_like(x), Logits(0, 1)).shape == (2, 1, 1, *x.shape[2:])
    flat = KernelSHAP("supervoxels", cubes=2, samples=40)(net, torch.full_like(x, 0.5), Logits(0))
    assert flat.isfinite().all()


# Regions


def test_more_cubes_than_voxels_are_the_voxels() -> None:
    x = image(2, 2, size=4)
    found = KernelSHAP(cubes=50, samples=100).values(Linear(x.shape[1:]), x, Outputs(0))
    assert found.index[0].unique().numel() == x[0].numel() == len(found.names)


@both_axes
def test_semantic_regions_are_the_models_own(axes: int) -> None:
    x = image(axes, 2, size=12)
    net = segmenter(axes, x)
    targets = Region(1, 2).fix(net(x))
    found = KernelSHAP("semantic", samples=8).values(net, x, targets)
    labels = net(x).argmax(1)
    assert torch.equal(found.names[found.index], labels)
    for i in range(2):
        mine = Region(1, 2).fix(net(x[i : i + 1]))
        truth = by_orders(all_scores(net, x[i : i + 1], torch.zeros_like(x[:1]), labels[i], mine), 3)
        assert relative(found.phi[:, i].T, torch.from_numpy(truth)) <= 1e-5
    part = Select("logits", Region(1, 2)).fix(Returns(net, "dict")(x))
    inside = KernelSHAP("semantic", samples=8).values(Returns(net, "dict"), x, part)
    assert torch.equal(inside.phi, found.phi)


def test_semantic_regions_of_channels_that_overlap_are_what_the_model_says_yes_to() -> None:
    x = image(2, 1, size=12) + 0.1
    channels = nn.Conv2d(1, 2, 1)
    with torch.no_grad():
        channels.weight.fill_(1)
        channels.bias.copy_(torch.tensor([-0.3, -0.8]))
        yes = channels(x)[0] > 0
        both = yes[0].long() + 2 * yes[1].long()
        targets = Overlapping(0, 1).fix(channels(x))
        found = KernelSHAP("semantic", samples=64).values(channels, x, targets)
    assert torch.equal(found.names[found.index[0]], both)
    assert len(found.names) > 2  # which two classes would not have


class Coarse(nn.Module):
    """One logit, on a grid of half the size."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x, 2) - 0.5


def test_semantic_regions_of_one_channel_on_a_coarse_grid() -> None:
    x = image(2, 1, size=12)
    targets = Region(0, 1).fix(Coarse()(x))
    found = KernelSHAP("semantic", samples=4).values(Coarse(), x, targets)
    small = Coarse()(x)[:, 0] > 0
    assert torch.equal(found.index, small.repeat_interleave(2, 1).repeat_interleave(2, 2).long())
    assert found.names.tolist() == [0, 1]


def test_supervoxels_follow_the_image() -> None:
    x = torch.zeros(1, 1, 20, 24, 16)
    x[..., 5:12, 7:15, 3:11] = 1.0
    found = KernelSHAP("supervoxels", cubes=3, samples=30).values(Linear(x.shape[1:]), x + 0.1, Outputs(0))
    assert 10 <= len(found.names) <= 60
    inside = set(found.index[x[:, 0] > 0.5].tolist())
    assert not inside & set(found.index[x[:, 0] < 0.5].tolist())


def test_supervoxels_without_scikit_image_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(BadInput, match=r"scikit-image.*radiolucent\[study\]"):
        KernelSHAP("supervoxels")(ConvNet(2).eval(), image(2), Logits(0))


def test_your_own_regions() -> None:
    net, x = curved(2)
    labels = torch.zeros(x.shape[2:], dtype=torch.int32)
    labels[:3], labels[3:, 5:] = 7, 41
    truth = by_orders(all_scores(net, x, torch.zeros_like(x), (labels > 0).long() + (labels > 7), Logits(1)), 3)
    method = KernelSHAP("parcellation", samples=8)
    for given in (labels, labels[None], labels.to(torch.uint8)):
        found = method.over(given).values(net, x, Logits(1))
        assert found.names.tolist() == [0, 7, 41]
        assert relative(found.phi[0, 0], torch.from_numpy(truth)[:, 0]) <= 1e-10
    assert torch.equal(method.over(labels)(net, x, Logits(1)), found.spread())
    (row,) = found.rows()
    assert row["regions"] == [0, 7, 41]
    assert row["values"] == found.phi[0, 0].tolist()
    assert row["errors"] == [0.0, 0.0, 0.0]
    assert row["evaluations"] == 8


WRONG = [
    (KernelSHAP("semantic"), 'a segmentation .* for regions="semantic"; got an output of shape'),
    (KernelSHAP("parcellation"), 'a parcellation for regions="parcellation"; got none'),
    (KernelSHAP(cubes=(2, 2, 2)), "cubes as one number, or one for each of the 2 axes"),
    (KernelSHAP(samples=5), "at least 6 samples, or 2 to the power of the regions; got 5"),
    (KernelSHAP().over(torch.zeros(3, 3).long()), r"a label map on the model's grid, .*; got shape \(3, 3\)"),
    (KernelSHAP().over(torch.zeros(3, 12, 16).long()), r"a label map on the model's grid, .*; got shape \(3, 12, 16\)"),
    (KernelSHAP().over(torch.zeros(12, 16)), "whole numbers as a label map; got torch.float32"),
]


@pytest.mark.parametrize(("method", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_what_does_not_fit_the_image_is_refused(method: KernelSHAP, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        method(ConvNet(2).eval(), image(2), Logits(0))


def test_settings_without_a_meaning_are_refused() -> None:
    with pytest.raises(BadInput, match="regions among cubes, semantic, supervoxels, parcellation; got 'cube'"):
        KernelSHAP("cube")
    with pytest.raises(BadInput, match=r"precision as a number >= 0; got -1\.0"):
        KernelSHAP(precision=-1.0)


def test_settings_from_the_command_line() -> None:
    (method,) = from_settings(["kernel-shap"], ["regions=semantic", "samples=200", "precision=0.05", "cubes=4,4,2"], ["auto"])
    assert method == KernelSHAP("semantic", cubes=(4, 4, 2), samples=200, precision=0.05)
    assert from_dict({"method": "kernel-shap", "cubes": [4, 4, 2]}) == KernelSHAP(cubes=(4, 4, 2))


def test_memory_that_runs_out_changes_nothing() -> None:
    class Narrow(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 3:
                raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes")
            return self.network(x)

    net, x = curved(2)
    method = KernelSHAP(cubes=3, samples=40)
    with pytest.warns(InputWarning, match="memory for") as warned:
        found = method(Narrow(net), x, Logits(0))
    assert len(warned) == 3  # 16, 8, 4
    assert relative(found, method(net, x, Logits(0))) <= 1e-10


# In an explanation


def test_an_explanation_keeps_the_values_and_their_errors(tmp_path: Path) -> None:
    net, x = curved(2)
    volume = Volume(x[0].float().numpy(), np.eye(4))
    method = KernelSHAP(cubes=3, samples=60)
    found = explain(net.float(), volume, method, Logits(0, 2))
    truth = method.values(net, x.float(), Logits(0, 2))
    assert [d["values"] for d in found.provenance["details"]] == truth.phi[:, 0].tolist()
    assert [d["errors"] for d in found.provenance["details"]] == truth.error[:, 0].tolist()
    assert Explanation.load(found.save(tmp_path / "here")) == found
    assert "details" not in explain(net, volume, from_dict({"method": "occlusion", "window": 3, "stride": 3}), Logits(0)).provenance


def test_details_belong_to_the_targets_that_are_left() -> None:
    net, x = Linear((1, 8, 12)), image(2, 1, size=8)
    net.weight.data[1] = 0
    failed: list[BadInput] = []
    (found,) = predict(net, Volume(x[0].numpy(), np.eye(4))).explain(
        [KernelSHAP(cubes=2, samples=16)], Outputs(0, 1, 2), failed=lambda method, error: failed.append(error)
    )
    assert len(failed) == 1
    truth = KernelSHAP(cubes=2, samples=16).values(net, x, Outputs(0, 2))
    assert np.allclose([d["values"] for d in found.provenance["details"]], truth.phi[:, 0], atol=1e-5)


def test_a_parcellation_lies_on_the_models_grid() -> None:
    """The scan is stored in another orientation than the model wants, and the model's grid is cropped and padded."""
    net, x = curved(3)
    affine = np.diag([-1.0, 1.0, 1.0, 1.0])
    volume = Volume(x[0].float().numpy(), affine)
    labels = np.zeros((1, *x.shape[2:]), np.int32)
    labels[0, :3], labels[0, 3:, 5:] = 7, 41
    names = {7: Name("seven"), 41: Name("forty-one")}
    preprocessing = Preprocessing(orientation="RAS", size=(6, 14, 6))
    method = KernelSHAP("parcellation", samples=8)
    given = Parcellation(Volume(labels, affine), names)
    found = explain(net.float(), volume, method, Logits(0), preprocessing=preprocessing, parcellation=given)
    turned = np.pad(labels[:, ::-1], ((0, 0), (0, 0), (1, 1), (0, 0)))[:, 1:7].copy()
    at = preprocessing(volume)
    assert at.data.shape[1:] == turned.shape[1:]
    truth = method.over(torch.from_numpy(turned)).values(net, torch.from_numpy(at.data)[None], Logits(0))
    assert found.provenance["details"][0]["values"] == truth.phi[0, 0].tolist()
    assert found.provenance["details"][0]["regions"] == [0, 7, 41]
    with pytest.raises(BadInput, match="a parcellation for regions"):
        explain(net, volume, method, Logits(0), preprocessing=preprocessing)
