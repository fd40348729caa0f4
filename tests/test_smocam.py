"""SMOCAM: the objective as the paper has it, worlds in which the mask is known, and its siblings by their papers."""

import itertools
import json
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_contracts import disturb, state
from test_replay import Skips
from torch import Tensor, nn
from worlds import Mean, Transformer, classifier, convolution, image, relative

from radiolucent import BadInput, InputWarning, Logits, Outputs, Volume, explain, predict, write_report
from radiolucent.hooks import Form
from radiolucent.methods import (
    L2CAF,
    ExtremalPerturbation,
    GradCAM,
    Gradient,
    HiResCAM,
    MeaningfulPerturbation,
    SmoCAM,
    SmoothGrad,
    Times,
)
from radiolucent.methods.descent import Descended, Steps, Until, descend
from radiolucent.methods.extremal import Smooth
from radiolucent.methods.pieces import cells_of
from radiolucent.models import read_card
from radiolucent.models.slicewise import Slicewise
from radiolucent.protocols import Method
from radiolucent.report.figures import course
from radiolucent.targets import Region, Select


class Corners(nn.Module):
    """Two outputs: the means of the features in two opposite corners, of 5 % of the cells each; layer "features"."""

    def __init__(self, shape: tuple[int, ...], corner: tuple[int, ...], scale: float = 3.0) -> None:
        super().__init__()
        self.features = convolution(len(shape))(1, 2, 1, bias=False)
        nn.init.constant_(self.features.weight, scale)
        first = torch.zeros(shape)
        first[tuple(slice(0, c) for c in corner)] = 1
        last = first.flip(*range(len(shape)))
        self.register_buffer("corners", torch.stack([first, last]))

    def forward(self, x: Tensor) -> Tensor:
        A = self.features(x).mean(1)
        sums = torch.einsum("b...,o...->bo...", A, self.corners).flatten(2).sum(2)
        return sums / self.corners.flatten(1).sum(1)


def corners(axes: int, scale: float = 3.0) -> tuple[Corners, Tensor]:
    shape, corner = {2: ((20, 20), (4, 5)), 3: ((10, 10, 12), (4, 3, 5))}[axes]
    x = 1 + 0.2 * torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(0))
    return Corners(shape, corner, scale), x


def overlap(mask: Tensor, truth: Tensor) -> float:
    kept = mask > 0
    return float((kept & (truth > 0)).sum() / (kept | (truth > 0)).sum())


def literal(M: Tensor, masked: Tensor, unmasked: Tensor, sigma: float, differences: str) -> Tensor:
    """Equation 2 of the paper for one mask, cell by cell."""
    square = torch.zeros((), dtype=M.dtype)
    for cell in itertools.product(*map(range, M.shape)):
        square = square + M[cell] ** 2
    smooth = torch.zeros((), dtype=M.dtype)
    for axis in range(M.ndim):
        total, count = torch.zeros((), dtype=M.dtype), 0
        for cell in itertools.product(*map(range, M.shape)):
            after = tuple(i + (a == axis) for a, i in enumerate(cell))
            if after[axis] < M.shape[axis]:
                total, count = total + (M[after] - M[cell]).abs(), count + 1
        smooth = smooth + (total / count if differences == "mean" else total) / M.ndim
    return (masked - unmasked).abs() / sigma + 1.5 * (1 - square.sqrt()).abs() + 30 * smooth


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("differences", ["mean", "sum"])
def test_the_objective_and_its_gradient_are_the_papers(axes: int, differences: str) -> None:
    torch.manual_seed(0)
    net = classifier(axes).double().eval()
    x = image(axes, 2, size=8).double()
    method = SmoCAM("3", sigma=0.7, norm=1.5, differences=differences)
    with torch.no_grad():
        A, S = net[:4](x), net(x)
    M = torch.rand(2, 2, 1, *A.shape[2:], dtype=torch.double, requires_grad=True)
    masked = torch.stack([net[4:](A * m)[:, t] for t, m in enumerate(M)])
    found = method.parts(M, masked, S.T[:2], torch.tensor([[0.7], [0.7]]))
    truth = torch.stack(
        [torch.stack([literal(M[t, i, 0], masked[t, i], S[i, t], 0.7, differences) for i in (0, 1)]) for t in (0, 1)]
    )
    assert relative(found.sum(0).detach(), truth.detach()) <= 1e-6
    both = [torch.autograd.grad(total.sum(), M, retain_graph=True)[0] for total in (found, truth)]
    assert relative(*both) <= 1e-6


def slowly(net: nn.Module, A: Tensor, t: int, method: SmoCAM) -> tuple[Tensor, list[float], bool]:
    """The paper's loop for one output of the network behind A, with no batch: mask, objective on the way, converged."""
    with torch.no_grad():
        S = net(A)[0, t]
    M, tau, F = torch.full(A.shape[2:], 1.1 / A[0, 0].numel() ** 0.5, dtype=A.dtype), method.step, []
    for i in range(method.iterations + 1):
        M = M.detach().requires_grad_()
        rough = sum(M.diff(dim=axis).abs().mean() for axis in range(M.ndim)) / M.ndim
        f = (net(A * M)[0, t] - S).abs() / method.sigma + method.norm * (1 - M.norm()).abs() + method.smooth * rough
        F.append(float(f.detach()))
        if i >= 50 and abs(F[i - 50] - F[i]) <= method.tolerance:
            return M.detach(), F, True
        if i and not F[i] < F[i - 1]:
            tau = 0.99 * tau
        (G,) = torch.autograd.grad(f, M)
        M = M - (tau * G if i < method.iterations else 0)
    return M.detach(), F, False


@pytest.mark.parametrize("axes", [2, 3])
def test_the_descent_is_the_papers_loop_each_output_with_its_own_step_and_stop(axes: int) -> None:
    torch.manual_seed(0)
    net, x = classifier(axes).double().eval(), image(axes, 1, size=6).double()
    method = SmoCAM("3", sigma=0.05, norm=1.5, iterations=90, tolerance={2: 4e-3, 3: 2e-3}[axes], percentile=0)
    with torch.no_grad():
        A = net[:4](x)
    with pytest.warns(InputWarning, match=r"SMOCAM: . of 4 masks have not converged after 90 iterations"):
        found, rows = method.detailed(net, x, Outputs())
    ends = set()
    for t, row in enumerate(rows):
        M, F, converged = slowly(net[4:], A, t, method)
        assert relative(found[t, 0, 0], M) <= 1e-6
        assert row["iterations"] == len(F) - 1
        assert row["converged"] is converged
        assert row["objective"] == pytest.approx(F[-1], rel=1e-6)
        parts = [sum(at) for at in zip(*(row["curve"][name] for name in ("distance", "norm", "smooth")), strict=True)]
        assert parts == pytest.approx([F[i] for i in row["curve"]["iteration"]], rel=1e-5)
        ends.add(len(F))
    assert len(ends) > 1, "the outputs are to stop at different iterations"


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("optimiser", ["paper", "adam"])
def test_the_mask_of_an_output_covers_the_corner_that_it_is_the_mean_of(axes: int, optimiser: str) -> None:
    net, x = corners(axes)
    masks, rows = SmoCAM("features", sigma=0.03, optimiser=optimiser).detailed(net, x, Outputs())
    for t, (mask, row) in enumerate(zip(masks, rows, strict=True)):
        assert overlap(mask[0, 0], net.corners[t]) >= 0.7
        assert overlap(mask[0, 0], net.corners[1 - t]) == 0
        assert row["converged"]
        assert 50 <= row["iterations"] <= 2000
        assert row["distance"] == row["curve"]["distance"][-1] < row["curve"]["distance"][0]


def test_the_percentile_keeps_its_share_of_the_cells_and_0_keeps_all() -> None:
    net, x = corners(2)
    (whole,), (kept,) = (SmoCAM("features", 0.03, percentile=p, tolerance=0.1)(net, x, Outputs(0))[0] for p in (0, 90))
    at = np.percentile(whole.numpy(), 90)
    assert torch.equal(kept, torch.where(whole >= float(at), whole, 0.0))
    assert 0.09 <= float((kept != 0).float().mean()) <= 0.11
    assert bool((whole != 0).all())


def test_the_threshold_is_each_mask_s_own_and_takes_a_whole_brain() -> None:
    many = 2**24 + 16
    M = torch.stack([torch.arange(many, dtype=torch.float32), -torch.arange(many, dtype=torch.float32) - 1])[:, None, None]
    kept = SmoCAM(percentile=75).thresholded(M)
    assert [float((k != 0).float().mean()) for k in kept] == pytest.approx([0.25, 0.25], abs=1e-6)
    assert bool((kept[0, ..., -9:] != 0).all())
    assert bool((kept[1, ..., :9] != 0).all())


def test_adam_comes_to_a_lower_objective_in_fewer_iterations_in_this_world() -> None:
    """In real ones it comes lower still: benchmarks/smocam.py."""
    net, x = corners(3)
    ends = [SmoCAM("features", 1.0, optimiser=o).detailed(net, x, Outputs(0))[1][0] for o in ("paper", "adam")]
    assert ends[1]["objective"] < ends[0]["objective"]
    assert ends[1]["iterations"] < ends[0]["iterations"]


@pytest.mark.parametrize("batch", [0, 2])
def test_all_outputs_at_once_are_the_outputs_one_by_one(batch: int) -> None:
    torch.manual_seed(0)
    net, x = classifier(2).double().eval(), image(2, 2, size=8).double()
    method = SmoCAM("3", sigma=0.1, iterations=100, batch=batch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        together = method(net, x, Outputs())
        alone = [method(net, x[i : i + 1], Outputs(t)) for t in range(4) for i in range(2)]
        assert torch.equal(method(net, x, Outputs()), together)
    assert relative(together, torch.cat(alone).unflatten(0, (4, 2)).squeeze(2)) <= 1e-9


def test_a_sigma_for_each_output_is_a_call_with_each() -> None:
    net, x = corners(2)
    together, rows = SmoCAM("features", tolerance=0.1).given([1.0, 0.03]).detailed(net, x, Outputs())
    alone = [SmoCAM("features", s, tolerance=0.1)(net, x, Outputs(t)) for t, s in enumerate((1.0, 0.03))]
    assert relative(together, torch.cat(alone)) <= 1e-5
    assert [row["sigma"] for row in rows] == [1.0, 0.03]
    in_turn = SmoCAM("features", tolerance=0.1, batch=1).given([1.0, 0.03])(net, x, Outputs())
    assert relative(in_turn, together) <= 1e-5


def test_every_form_of_layer_is_masked_cell_by_cell() -> None:
    """Class tokens stay; tokens, and channels first or last, are one mask."""
    torch.manual_seed(0)
    net, x = Transformer(2).eval(), image(2, 1, size=8)
    mask = SmoCAM("blocks.0", sigma=0.01, smooth=0.1, iterations=50, tolerance=1e9)(net, x, Logits(0))
    assert mask.shape == (1, 1, 1, 4, 6)

    class Last(nn.Module):
        def forward(self, A: Tensor) -> Tensor:
            return A.movedim(1, -1).contiguous()

    class First(nn.Module):
        def forward(self, A: Tensor) -> Tensor:
            return A.movedim(-1, 1)

    net = classifier(2).eval()
    turned = nn.Sequential(*net[:4], Last(), nn.Linear(6, 6), First(), *net[4:]).eval()
    with torch.no_grad():
        turned[5].weight.copy_(torch.eye(6))
        turned[5].bias.zero_()
    one, other = (SmoCAM(layer, 0.1, iterations=50, tolerance=1e9)(turned, x, Logits(0)) for layer in ("3", "5"))
    assert relative(one, other) <= 1e-4


@pytest.mark.parametrize("kind", ["channels first", "channels last", "tokens", "tokens last"])
def test_a_layer_s_cells_are_weighted_and_its_class_tokens_are_not(kind: str) -> None:
    extra = 2 if "tokens" in kind else 0
    shape = {"channels first": (1, 5, 3, 4), "channels last": (1, 3, 4, 5), "tokens": (1, 14, 5), "tokens last": (1, 5, 14)}[kind]
    form, values, mask = Form(kind, (3, 4), extra), torch.rand(shape), torch.rand(1, 1, 3, 4)
    found = form.weighted(values, mask)
    assert torch.equal(form.restore(found), form.restore(values) * mask)
    if extra:
        tokens, before = (v if kind == "tokens" else v.mT for v in (found, values))
        assert torch.equal(tokens[:, :2], before[:, :2])


def test_what_cannot_be_explained_is_refused_with_what_to_do() -> None:
    net, x = corners(2)
    for method, message in {
        SmoCAM("features"): "expected the standard deviation of each output .* got none. Give sigma=..., or, .*`spread`",
        SmoCAM("features").given([1.0, 0.0]): r"above 0; got \[1.0, 0.0\]",
        SmoCAM("features").given([1.0, float("nan")]): r"above 0; got \[1.0, nan\]",
        SmoCAM("features").given([1.0] * 3): "a standard deviation for each of 2 targets, or one for all; got 3",
        SmoCAM("features", 1.0, step=1e38): "a finite objective; got .* in iteration .*Try a smaller step",
        SmoCAM("elsewhere", 1.0): "elsewhere",
    }.items():
        with pytest.raises(BadInput, match=message):
            method(net, x, Outputs())
    with pytest.raises(BadInput, match=r"Outputs\(2\)"):
        SmoCAM("features", 1.0)(net, x, Outputs(2))
    with pytest.raises(BadInput, match="a grid of 2 axes and several cells at layer '8'"):
        SmoCAM("8", 1.0)(classifier(2).eval(), image(2, 1, size=8), Outputs())


def test_a_region_of_a_segmentation_is_a_target_like_any_other() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 3, 1))
    x, mask = image(2, 2, size=6), torch.randint(0, 3, (2, 6, 10))
    settings = {"sigma": 1.0, "iterations": 50, "tolerance": 1e9, "percentile": 0}
    together = SmoCAM("0", **settings)(net, x, Region(1, 2, mask=mask))
    alone = [SmoCAM("0", **settings)(net, x[i : i + 1], Region(t, mask=mask[i : i + 1])) for t in (1, 2) for i in (0, 1)]
    assert relative(together, torch.cat(alone).unflatten(0, (2, 2)).squeeze(2)) <= 1e-5


def test_the_standard_deviations_come_from_the_card_and_the_curves_reach_the_provenance() -> None:
    net, x = corners(3)
    scan = Volume(x[0].numpy(), np.eye(4))
    found = explain(net, scan, SmoCAM("features"), Outputs(1), spread=(0.1, 1.0))
    (row,) = found.provenance["details"]
    assert row["sigma"] == 1.0
    assert row["converged"]
    assert row["curve"]["iteration"][-1] == row["iterations"]
    assert overlap(torch.from_numpy(found.relevance[0].data[0]), net.corners[1]) >= 0.7
    own = explain(net, scan, SmoCAM("features", 0.5, tolerance=0.1), Outputs(1), spread=(0.1, 1.0))
    assert own.provenance["details"][0]["sigma"] == 0.5
    with pytest.raises(BadInput, match="the standard deviation of each output, up to 1; got 1 numbers"):
        explain(net, scan, SmoCAM("features"), Outputs(1), spread=(0.1,))
    with pytest.raises(BadInput, match="got none"):
        explain(net, scan, SmoCAM("features"), Outputs(1))


class Counts(nn.Module):
    """The identity; counts its runs."""

    runs = 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return x.clone()


def counted() -> tuple[nn.Sequential, list[Counts]]:
    """A network with a counter before, between and behind the layers "1", "3" and "5", all of which are masked alike."""
    torch.manual_seed(0)
    counts = [Counts(), Counts(), Counts(), Counts()]
    convolutions = [nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)]
    mixed = [part for pair in zip(counts, convolutions, strict=False) for part in pair]
    return nn.Sequential(*mixed, counts[3], Mean()).eval(), counts


def test_several_layers_and_methods_share_one_pass_of_what_lies_before_them() -> None:
    net, counts = counted()
    scan = Volume(image(2, 1, size=8)[0].numpy(), np.eye(4))
    quick = {"tolerance": 1e9, "window": 5}
    methods = [SmoCAM("1", **quick), L2CAF("3", **quick), SmoCAM("5", **quick), SmoCAM("3", **quick)]
    prediction = predict(net, scan)
    for count in counts:
        count.runs = 0
    found = prediction.explain(methods, Outputs(), spread=(0.5, 2.0))
    first, second, third, last = (count.runs for count in counts)
    iterations = 5 + 1  # of each; and behind each layer one pass to see what is used, one to check it, and one for two at once
    assert (first, second - first, third - second, last - third) == (1, iterations + 3, 2 * iterations + 3, iterations + 3)
    for one in found:
        (alone,) = prediction.explain([one.method], Outputs(), spread=(0.5, 2.0))
        assert all(np.array_equal(a.data, b.data) for a, b in zip(one.relevance, alone.relevance, strict=True))
        assert one.provenance["details"] == alone.provenance["details"]
        assert (one.provenance["shared_by_methods"], alone.provenance["shared_by_methods"]) == (4, 1)
    assert [e.method for e in found] == methods


def test_a_layer_that_cannot_serve_does_not_take_the_others_along() -> None:
    net, counts = counted()
    prediction = predict(net, Volume(image(2, 1, size=8)[0].numpy(), np.eye(4)))
    quick = {"tolerance": 1e9, "window": 5}
    methods = [SmoCAM(layer, **quick) for layer in ("1", "7", "5")] + [SmoCAM("3", step=1e38, **quick), SmoCAM("nowhere", **quick)]
    failed: dict[str, str] = {}
    found = prediction.explain(methods, Outputs(), spread=(0.5, 2.0), failed=lambda m, e: failed.update({m.layer: str(e)}))
    assert [e.method.layer for e in found] == ["1", "5"]
    assert "a grid of 2 axes" in failed["7"]
    assert "a finite objective" in failed["3"]
    assert "nowhere" in failed["nowhere"]
    failed.clear()
    counts[0].runs = 0
    some = [SmoCAM("1", **quick), SmoCAM("3", step=1e38, **quick), SmoCAM("5")]
    found = prediction.explain(some, Outputs(), failed=lambda m, e: failed.update({m.layer: str(e)}))
    assert not found
    found = prediction.explain(some[:2], Outputs(), spread=(0.5, 2.0), failed=lambda m, e: failed.update({m.layer: str(e)}))
    assert [e.method.layer for e in found] == ["1"]
    assert counts[0].runs == 1 + len(some) + 1  # where all fail, each is asked again by itself
    failed.clear()
    both = [SmoCAM("1"), GradCAM("1")]
    found = prediction.explain(both, Outputs(1), spread=(1.0,), failed=lambda m, e: failed.update({m.layer: str(e)}))
    assert [type(e.method) for e in found] == [GradCAM]
    assert "up to 1; got 1 numbers" in failed["1"]


def test_a_layer_that_does_not_run_costs_the_others_no_second_pass() -> None:
    count = Counts()
    net = nn.Sequential(count, Skips(), Mean()).eval()
    prediction = predict(net, Volume(image(2, 1, size=8)[0].numpy(), np.eye(4)))
    count.runs, failed = 0, []
    methods = [SmoCAM(f"1.{name}", 1.0, tolerance=1e9, window=5) for name in ("unused", "used")]
    found = prediction.explain(methods, Outputs(), failed=lambda m, e: failed.append((m, str(e))))
    assert [e.method for e in found] == methods[1:]
    assert [m for m, _ in failed] == methods[:1]
    assert "to run in the forward pass; got no call of it" in failed[0][1]
    assert count.runs == 1


def test_the_card_s_spread_reaches_a_mask_inside_other_methods() -> None:
    net, _ = counted()
    scan = Volume(image(2, 1, size=8)[0].numpy(), np.eye(4))
    quick = {"tolerance": 1e9, "window": 5}

    def made(sigma: float) -> Method:
        return SmoothGrad(Times(SmoCAM("1", sigma, **quick), HiResCAM("3")), samples=2)

    found = explain(net, scan, made(0.0), Outputs(1, 0), spread=np.array([0.5, 2.0]))
    truth = [explain(net, scan, made(s), Outputs(t)) for t, s in ((1, 2.0), (0, 0.5))]
    for one, other in zip(found.relevance, truth, strict=True):
        assert relative(torch.from_numpy(one.data), torch.from_numpy(other.relevance[0].data)) <= 1e-4
    assert found.method == made(0.0)
    assert relative(torch.from_numpy(found.relevance[0].data), torch.from_numpy(found.relevance[1].data)) > 0.01
    with pytest.raises(BadInput, match=r"standard deviation of each output .*got none"):
        explain(net, scan, made(0.0), Outputs(1))
    with pytest.raises(BadInput, match=r"spread as a list of numbers, one for each output; got 0\.5"):
        explain(net, scan, made(0.0), Outputs(1), spread=0.5)


def test_a_descent_ends_where_the_objective_has_stood_still_for_the_window() -> None:
    """|M - 1| with steps that halve the distance: F(i) = 2^-i, F(i-5) - F(i) = 31 2^-i <= 2^-10 from i = 15 on."""

    def parts(M: Tensor, here: Tensor, i: int) -> Tensor:
        return ((M - 1) ** 2).flatten(2).sum(2)[None] / 2

    start = torch.zeros(1, 1, 1, 1, dtype=torch.double)
    found = descend(start, lambda M, h, i: parts(M, h, i).mul(2).sqrt(), Steps("gradient", 0.0), Until(100, -1.0))
    assert not found.converged.any()
    found = descend(start, parts, Steps("gradient", 1 - 0.5**0.5), Until(100, 2.0**-11, 5))
    assert found.converged.all()
    assert int(found.steps) == 15


def test_items_and_targets_that_stop_early_stay_where_they_stopped() -> None:
    rates = torch.tensor([[0.9, 0.1], [0.5, 0.3]], dtype=torch.double)

    def run(t: list[int], b: list[int]) -> Descended:
        def parts(M: Tensor, here: Tensor, i: int) -> Tensor:
            return (rates[t][here][:, b] * ((M - 1) ** 2).flatten(2).sum(2))[None]

        start = torch.zeros(len(t), len(b), 1, 2, dtype=torch.double)
        return descend(start, parts, Steps("gradient", 0.5, 0.9), Until(200, 1e-4, 3))

    together = run([0, 1], [0, 1])
    assert together.converged.all()
    assert len(together.steps.unique()) == 4
    for t, b in itertools.product((0, 1), (0, 1)):
        alone = run([t], [b])
        assert torch.equal(together.masks[t, b], alone.masks[0, 0])
        assert int(together.steps[t, b]) == int(alone.steps) == len(alone.curve) - 1
        assert torch.equal(together.curve[: len(alone.curve), :, t, b], alone.curve[:, :, 0, 0])
        assert together.curve[len(alone.curve) :, :, t, b].isnan().all()


def test_class_specific_l2caf_is_the_direction_in_which_the_class_leads_the_others() -> None:
    """y_c = <g_c, f>, so that f = (g_t - sum of the others) / its norm."""
    for axes in (2, 3):
        net, x = corners(axes)
        g = net.corners * net.features(x)[0, 0].detach() / net.corners[0].sum()
        masks = L2CAF("features", step=0.03, tolerance=1e-7)(net, x, Outputs(0, 1))
        for t in (0, 1):
            best = g[t] - g[1 - t]
            assert relative(masks[t, 0, 0], (best / best.norm()).abs()) <= 0.02
            assert float(masks[t].norm()) == pytest.approx(1, rel=1e-5)


def test_class_oblivious_l2caf_keeps_the_whole_output_and_is_the_same_for_all_targets() -> None:
    """Two outputs with gradients at right angles: f = cos(a) g_1 / |g_1| + sin(a) g_2 / |g_2|, and a is tried out."""
    net, x = corners(2)
    with torch.no_grad():
        net.corners[1] *= torch.where(
            torch.arange(20) < 17, 1.0, 2.0
        )  # the second corner is uneven, so that the angle is not 45 degrees
    A = net.features(x)[0, 0].detach()
    g = net.corners * A / net.corners.flatten(1).sum(1)[:, None, None]
    S, size = net(x)[0].detach(), g.flatten(1).norm(dim=1)
    angle = torch.linspace(0, torch.pi / 2, 20001)
    a = angle[((angle.cos() * size[0] - S[0]) ** 2 + (angle.sin() * size[1] - S[1]) ** 2).argmin()]
    best = a.cos() * g[0] / size[0] + a.sin() * g[1] / size[1]
    masks, rows = L2CAF("features", "class-oblivious", step=0.03, tolerance=1e-7).detailed(net, x, Outputs(1, 0))
    assert relative(masks[0, 0, 0], best) <= 0.02
    assert torch.equal(masks[0], masks[1])
    assert rows[0] == rows[1]
    assert rows[0]["objective"] == pytest.approx(float((torch.einsum("oxy,xy->o", g, best) - S).square().mean()), rel=1e-3)


def test_the_class_oblivious_mask_is_found_once_however_targets_share_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = corners(2)
    descents = []

    def counted(*given: Any) -> Descended:
        descents.append(given)
        return descend(*given)

    monkeypatch.setattr("radiolucent.methods.l2caf.descend", counted)
    method = L2CAF("features", "class-oblivious", iterations=5, batch=1)
    with pytest.warns(InputWarning, match="L2-CAF"):
        masks = method(net, x, Outputs(1, 0))
    assert len(descents) == 1
    assert torch.equal(masks[0], masks[1])


def test_class_specific_l2caf_counts_the_other_classes_of_a_selected_output() -> None:
    net, x = corners(2)

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"volumes": self.inner(x)}

    method = L2CAF("features", step=0.03, iterations=30, tolerance=1e-7)
    with warnings.catch_warnings(action="ignore", category=InputWarning):  # 30 iterations are not enough to converge
        bare = method(net, x, Outputs(0))
        inside = replace(method, layer="inner.features")(Wrapped(), x, Select("volumes", Outputs(0)))
        alone = method(net, x, Outputs(1))
    assert relative(inside, bare) <= 1e-6
    assert relative(alone, bare) > 0.1


def test_an_axis_of_one_cell_does_not_count() -> None:
    M = torch.rand(1, 1, 1, 4, 5)
    zero, one = torch.zeros(1, 1), torch.ones(1, 1)
    flat = SmoCAM().parts(M, zero, zero, one)
    torch.testing.assert_close(SmoCAM().parts(M[..., None], zero, zero, one), flat)
    assert SmoCAM().parts(torch.ones(1, 1, 1, 1, 1), zero, zero, one).flatten().tolist() == [0, 0, 0]


def test_a_step_of_nothing_is_refused() -> None:
    with pytest.raises(BadInput, match="step as a number >= 1e-09; got 0"):
        SmoCAM(step=0)


@pytest.mark.parametrize("axes", [2, 3])
def test_meaningful_perturbation_takes_away_the_corner_that_the_output_is_the_mean_of(axes: int) -> None:
    net, x = corners(axes)
    for jitter, least in ((0, 0.95), (1, 0.4)):
        method = MeaningfulPerturbation(jitter=jitter, baseline="zero", iterations=100, cells=tuple(x.shape[2:]))
        maps, rows = method.detailed(net, x, Outputs())
        for t in (0, 1):
            assert overlap(maps[t, 0, 0] - 0.9, net.corners[t]) >= least
            assert bool((maps[t, 0, 0] > 0.9)[net.corners[t] > 0].all())
            assert rows[t]["curve"]["effect"][-1] < 0.15 < rows[t]["curve"]["effect"][0] == pytest.approx(1, abs=0.05)


def test_the_penalties_of_meaningful_perturbation_are_the_papers() -> None:
    m = torch.rand(1, 2, 1, 3, 4, 2, dtype=torch.double)
    area, rough = MeaningfulPerturbation(area=0.5, smooth=0.2, power=2.5).penalties(m)
    for b in (0, 1):
        total = 0.0
        for i, j, k in itertools.product(range(3), range(4), range(2)):
            for at in ((i + 1, j, k), (i, j + 1, k), (i, j, k + 1)):
                if at[0] < 3 and at[1] < 4 and at[2] < 2:
                    total += abs(float(m[0, b, 0][at] - m[0, b, 0, i, j, k])) ** 2.5
        assert float(rough[0, b]) == pytest.approx(0.2 * total)
        assert float(area[0, b]) == pytest.approx(0.5 * sum(1 - float(value) for value in m[0, b].flatten()))


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("game", ["preserve", "delete"])
def test_an_extremal_perturbation_of_the_corners_area_is_the_corner(axes: int, game: str) -> None:
    net, x = corners(axes)
    method = ExtremalPerturbation(0.05, game, width=1.0, cells=tuple(x.shape[2:]), baseline="zero", iterations=400, step=0.05)
    masks, rows = method.detailed(net, x, Outputs())
    for t in (0, 1):
        assert overlap(masks[t, 0, 0] - 0.5, net.corners[t]) >= 0.9
        assert rows[t]["area"] == pytest.approx(0.05, abs=0.03)
        effect = rows[t]["curve"]["effect"][-1]
        assert effect < -0.8 if game == "preserve" else effect < 0.2


@pytest.mark.parametrize("cells", [(4, 5), (3, 4, 3)])
def test_the_smooth_mask_is_the_smooth_maximum_over_what_lies_around(cells: tuple[int, ...]) -> None:
    p = torch.rand(2, 1, 1, *cells, dtype=torch.double)
    m = Smooth(cells, 0.8, p.device)(p)
    for u in itertools.product(*map(range, cells)):
        values = []
        for v in itertools.product(*(range(-3, n + 3) for n in cells)):  # outside there is 0
            z = float(np.linalg.norm(np.subtract(u, v))) / 0.8
            if z <= 2:
                inside = all(0 <= i < n for i, n in zip(v, cells, strict=True))
                values.append(np.exp(-2 * max(0.0, z - 0.5) ** 2) * (float(p[1, 0, 0][v]) if inside else 0.0))
        weight = np.exp(20 * np.array(values))
        assert float(m[1, 0, 0][u]) == pytest.approx(float((weight * values).sum() / weight.sum()), rel=1e-5)


def test_the_area_is_how_far_the_sorted_mask_is_from_zeros_and_ones() -> None:
    m = torch.tensor([0.9, 0.1, 0.2, 0.0, 0.6, 0.3, 0.0, 0.0, 0.0, 0.0]).reshape(1, 1, 1, 2, 5)
    truth = ((1 - 0.9) ** 2 + (1 - 0.6) ** 2 + 0.3**2 + 0.2**2 + 0.1**2) / 10
    assert float(ExtremalPerturbation(0.2).misfit(m)) == pytest.approx(truth)


def test_a_baseline_that_does_not_change_the_score_is_refused() -> None:
    net, x = corners(2)
    for method in (ExtremalPerturbation(baseline="zero"), MeaningfulPerturbation(baseline="zero")):
        with pytest.raises(BadInput, match="a score that the baseline changes"):
            method(net, torch.zeros_like(x), Outputs(0))


def test_a_card_says_the_spread_of_each_output(tmp_path: Path) -> None:
    card = {
        "name": "volumes",
        "task": "regression",
        "network": "monai:Regressor",
        "weights": "w.safetensors",
        "spread": [120, 35.5],
    }
    (tmp_path / "card.json").write_text(json.dumps(card))
    assert read_card(tmp_path).spread == (120, 35.5)
    for wrong in ([120, 0], [120, -1.0], ["120"], [float("nan")]):
        (tmp_path / "card.json").write_text(json.dumps(card | {"spread": wrong}))
        with pytest.raises(BadInput, match="numbers above 0 as spread"):
            read_card(tmp_path)


NET = """
import torch
from torch import nn

class Volumes(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.early, self.late, self.head = nn.Conv3d(1, 4, 3), nn.Conv3d(4, 2, 3), nn.Linear(2, 2)

    def forward(self, x):
        return self.head(self.late(self.early(x).relu()).flatten(2).mean(2))
"""


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """(exit code, what --json printed, standard error) of `radiolucent explain` on a scan with a small regression model."""
    from radiolucent.cli import main

    (tmp_path / "net.py").write_text(NET)
    np.save(tmp_path / "scan.npy", np.random.default_rng(0).random((8, 8, 8)))
    monkeypatch.chdir(tmp_path)
    always = ["radiolucent", "explain", "scan.npy", "--model", "net:Volumes", "--task", "regression", "--method", "smo-cam"]

    def run(*arguments: str) -> tuple[int, Any, str]:
        monkeypatch.setattr("sys.argv", [*always, "--out", "out", "--overwrite", "--json", *arguments])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        return code, json.loads(said.out)["cases"][0] if said.out else None, said.err

    return run


def test_the_command_line_says_that_a_mask_has_not_converged(command: Callable[..., Any], tmp_path: Path) -> None:
    short = ("--layer", "early", "--set", "sigma=0.01", "--set", "iterations=3")
    code, case, err = command(*short)
    assert code == 0
    assert "note: SMOCAM: 2 of 2 masks have not converged after 3 iterations" in err
    remark = "smo-cam at early: 2 of 2 masks have not converged (output 0, output 1)"
    assert remark in case["notes"]
    page = (tmp_path / "out" / "scan" / "report.html").read_text()
    assert page.count(f'<p class="note">{remark}</p>') == 1
    assert page.count("<details open><summary>Optimisation: did NOT converge in 3 iterations</summary>") == 2
    assert page.count("<td>did NOT converge in 3 iterations</td>") == 2
    assert "iteration&#34;" not in page, "the curves are drawn and not printed"
    saved = json.loads((tmp_path / "out" / "scan" / "smo-cam" / "explanation.json").read_text())
    assert [row["converged"] for row in saved["provenance"]["details"]] == [False, False]
    code, case, err = command(*short, "--set", "tolerance=1e9", "--set", "window=2")
    assert code == 0
    assert "converged" not in err
    assert not case["notes"] or "converged" not in " ".join(case["notes"])
    page = (tmp_path / "out" / "scan" / "report.html").read_text()
    assert page.count("<details><summary>Optimisation: converged after 2 iterations</summary>") == 2
    assert "NOT converge" not in page


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--layer", "early"], 3, "the standard deviation of each output .*above 0; got none. Give sigma"),
        (["--layer", "early", "--set", "sigma=0"], 3, "the standard deviation of each output .*above 0; got none. Give sigma"),
        (["--layer", "early", "--set", "sigma=nan"], 1, "sigma as a number >= 0; got nan"),
        (["--layer", "early", "--set", "sigma=-1"], 1, "sigma as a number >= 0; got -1"),
        (["--layer", "head", "--set", "sigma=1"], 3, "a grid of 3 axes and several cells at layer 'head'.*early, late"),
        (["--layer", "erly", "--set", "sigma=1"], 1, "the name of a layer; got 'erly'. Close to it: early"),
        (["--layer", "early", "--set", "sigma=1", "--target", "2"], 3, r"from 0 to 1 for Outputs\(2\); got \[2\]"),
        (["--layer", "early", "--set", "sigma=1", "--set", "step=1e38"], 3, "a finite objective; got .*Try a smaller step"),
        (["--layer", "early", "--set", "sigma=1", "--set", "optimiser=sgd"], 1, "optimiser among paper, adam; got 'sgd'"),
    ],
)
def test_the_command_line_refuses_what_cannot_be_explained(
    command: Callable[..., Any], tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    ended, case, err = command(*arguments)
    said = case["reason"] if case else err
    assert ended == code, said
    assert re.search(message, said), said
    assert not (tmp_path / "out" / "scan").exists()


class Breaking(nn.Module):
    """Gives NaN from some call on."""

    def __init__(self, call: int) -> None:
        super().__init__()
        self.call, self.calls = call, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * (torch.nan if self.calls >= self.call else 1.0)


def test_nan_is_refused_wherever_it_comes_from_and_the_model_is_left_as_it_was() -> None:
    x = image(2, 1, size=8)
    poisoned = classifier(2)
    with torch.no_grad():
        poisoned[8].weight[1, 0] = torch.nan
    holes = x.clone()
    holes[0, 0, 2, 2] = torch.nan
    late = nn.Sequential(*classifier(2), Breaking(12))
    for net, given, message in (
        (poisoned, x, "finite scores; got .*nan.*Check the weights and the input"),
        (classifier(2), holes, "finite scores; got .*nan"),
        (late, x, "a finite objective; got .*nan.* in iteration [1-9].*check the weights"),
    ):
        disturb(net)
        for method in (SmoCAM("3", 1.0), SmoCAM("3", 1.0, optimiser="adam"), L2CAF("3")):
            late[-1].calls = 0
            before = state(net)
            with pytest.raises(BadInput, match=message):
                method(net, given, Outputs())
            late[-1].calls = 0
            assert state(net) == before


@pytest.mark.parametrize("method", [SmoCAM("3"), SmoCAM("8", 1.0), SmoCAM("3", 1.0, step=1e38), SmoCAM("3", 1.0).given([1.0, 2.0])])
def test_a_refusal_leaves_the_model_as_it_was(method: Method) -> None:
    net, x = classifier(2), image(2, 1, size=8)
    disturb(net)
    before = state(net)
    with pytest.raises(BadInput):
        method(net, x, Outputs())
    assert state(net) == before


def test_the_course_of_an_optimisation_is_drawn_as_it_was() -> None:
    curve = {"iteration": [0, 2, 4], "distance": [3.0, 1.0, 0.5], "norm": [0.1, 0.0, 0.0], "smooth": [0.0, 0.2, 0.1]}
    (axis,) = course(curve).axes
    drawn = {str(line.get_label()): line.get_ydata() for line in axis.lines}
    assert {name: list(drawn[name]) for name in curve if name != "iteration"} == {
        k: v for k, v in curve.items() if k != "iteration"
    }
    assert np.allclose(drawn["objective"], [3.1, 1.2, 0.6])
    assert axis.get_yscale() == "log"
    assert axis.get_ylim()[0] > 0
    (axis,) = course({"iteration": [0, 1], "loss": [2.0, -1.0]}).axes
    assert axis.get_yscale() == "linear"
    assert [str(line.get_label()) for line in axis.lines] == ["objective"]


def test_an_axis_of_one_cell_has_no_neighbours() -> None:
    M = torch.tensor([0.1, 0.5, 0.2, 0.0]).reshape(1, 1, 1, 4, 1)
    method = SmoCAM(norm=2.0, smooth=3.0)
    distance, norm, smooth = method.parts(M, torch.tensor([[5.0]]), torch.tensor([[3.0]]), torch.tensor([[4.0]]))
    assert (float(distance), float(norm)) == pytest.approx((0.5, 2 * (1 - 0.3**0.5)))
    assert float(smooth) == pytest.approx(3 * (0.4 + 0.3 + 0.2) / 3)


@pytest.mark.parametrize(
    "method", [SmoCAM("0", 1.0, iterations=60), L2CAF("0", iterations=60), ExtremalPerturbation(iterations=9, cells=4)]
)
def test_where_items_of_a_batch_mix_targets_go_through_one_by_one(method: Method) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3, track_running_stats=False), nn.ReLU(), nn.Conv2d(3, 2, 1), Mean()
    )
    x = image(2, 2, size=8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        together = method(net, x[:1], Outputs())
        alone = torch.cat([method(net, x[:1], Outputs(t)) for t in (0, 1)])
    assert relative(together, alone) <= 1e-5
    with pytest.raises(BadInput, match="one image at a time for this model"):
        method(net, x, Outputs())


@pytest.mark.parametrize("method", [SmoCAM("0", 1.0), L2CAF("0"), ExtremalPerturbation(), MeaningfulPerturbation()])
def test_quantised_layers_and_whole_numbers_are_refused(method: Method) -> None:
    class Quantised(nn.Conv2d):
        """Of a module of torch's own quantised ones."""

    Quantised.__module__ = "torch.ao.nn.quantized.modules"
    net = nn.Sequential(Quantised(1, 2, 3), Mean())
    with pytest.raises(BadInput, match=r"quantised layers \(Quantised\)"):
        method(net, image(2, 1), Outputs())

    class Rounds(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.long()

    class Reals(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.float().flatten(1).sum(1, keepdim=True)

    message = "a layer of real numbers" if hasattr(method, "layer") else "an image of floating-point numbers"
    with pytest.raises(BadInput, match=message):
        method(nn.Sequential(Rounds(), Reals()), image(2, 1).long(), Outputs())


def test_a_network_that_runs_slice_by_slice_is_refused() -> None:
    net = Slicewise(nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 1)))
    x = image(3, 1, size=8)
    target = Region(1, mask=torch.ones(1, *x.shape[2:], dtype=torch.long))
    for method in (SmoCAM("network.0", 1.0), L2CAF("network.0")):
        with pytest.raises(BadInput, match=r"a layer of real numbers that sees the whole image; got layer .* slice by slice"):
            method(net, x, target)


def test_batch_says_how_many_targets_share_a_pass() -> None:
    net, counts = counted()
    for batch, passes in ((1, 2 * 6 + 3), (2, 6 + 4), (0, 6 + 4)):  # two at once are checked once
        counts[3].runs = 0
        SmoCAM("5", 1.0, tolerance=1e9, window=5, batch=batch)(net, image(2, 1, size=8), Outputs())
        assert counts[3].runs == passes


def test_masks_are_found_in_single_precision_whatever_the_model_s() -> None:
    torch.manual_seed(0)
    net, x = classifier(2).eval(), image(2, 1, size=8)
    settings = {"sigma": 0.05, "iterations": 60, "tolerance": 1e9, "percentile": 0}
    truth = SmoCAM("3", **settings)(net, x, Outputs(0))
    for method in (SmoCAM("3", **settings), L2CAF("3", tolerance=1e9)):
        assert method(net.bfloat16(), x.bfloat16(), Outputs(0)).dtype == torch.float32
    assert relative(SmoCAM("3", **settings)(net, x.bfloat16(), Outputs(0)), truth) <= 0.05


def test_the_step_shrinks_where_the_objective_is_not_lower_than_before_for_each_mask() -> None:
    steps, M, G = Steps("gradient", 1.0, 0.5), torch.zeros(2, 1, 1, 1), torch.ones(2, 1, 1, 1)
    sizes = []
    for one, other in ((3.0, 3.0), (3.0, 2.0), (2.0, 2.5), (2.5, 2.0)):
        sizes.append((-steps.next(M, G, torch.tensor([[one], [other]]))).flatten().tolist())
    assert sizes == [[1, 1], [0.5, 1], [0.5, 0.5], [0.25, 0.5]]
    steps.keep(torch.tensor([False, True]))
    assert float(steps.next(M[1:], G[1:], torch.tensor([[2.0]]))) == -0.25


def test_adam_takes_the_steps_of_pytorch_s_own() -> None:
    scale = torch.tensor([1.0, 10.0, 0.1]).reshape(1, 1, 1, 3)
    theirs = nn.Parameter(torch.full((1, 1, 1, 3), 2.0))
    optimiser, steps, ours = torch.optim.Adam([theirs], lr=0.05), Steps("adam", 0.05), torch.full((1, 1, 1, 3), 2.0)
    for i in range(30):
        optimiser.zero_grad()
        (scale * theirs**2).sum().backward()
        optimiser.step()
        ours = steps.next(ours, 2 * scale * ours, torch.tensor([[-float(i)]]))
        assert relative(ours, theirs.detach()) <= 1e-5


def test_a_curve_has_at_most_two_hundred_points_and_its_end() -> None:
    start = torch.ones(1, 1, 1, 2)
    found = descend(start, lambda M, h, i: (M**2).flatten(2).sum(2)[None], Steps("gradient", 1e-3), Until(1999))
    (row,) = found.rows(("loss",))
    at = row["curve"]["iteration"]
    assert (at[0], at[1], at[-1]) == (0, 10, 1999)
    assert len(at) == len(row["curve"]["loss"]) == 201
    assert row["curve"]["loss"][-1] == pytest.approx(2 * (1 - 2e-3) ** (2 * 1999), rel=1e-3)
    assert row["converged"] is False
    assert "converged" not in found.rows(("loss",), stops=False)[0]


def test_cells_are_of_about_one_size_and_no_smaller_than_voxels() -> None:
    x = torch.zeros(1, 1, 40, 10, 3)
    assert cells_of(20, x) == (20, 5, 2)
    assert cells_of(100, x) == (40, 10, 3)
    assert cells_of(4, x) == (4, 1, 1)
    assert cells_of((5, 50, 2), x) == (5, 10, 2)


def test_what_always_takes_all_its_iterations_is_not_said_not_to_converge(tmp_path: Path) -> None:
    net, x = corners(2)
    scan = Volume(x[0].numpy(), np.eye(4))
    found = explain(net, scan, MeaningfulPerturbation(iterations=3, baseline="zero"), Outputs(0))
    assert found.remarks == []
    page = write_report(tmp_path / "page.html", scan, [found, explain(net, scan, Gradient(), Outputs(0))], title="x").read_text()
    assert page.count("<details><summary>Optimisation: 3 iterations, as many as were asked for</summary>") == 1
    assert "NOT converge" not in page
    assert "have not converged" not in page
