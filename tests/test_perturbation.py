"""Occlusion and RISE against captum, closed forms and slow re-derivations; models without gradients; memory that runs out."""

import warnings
from collections.abc import Callable
from itertools import product

import pytest
import torch
from captum.attr import Occlusion as CaptumOcclusion
from torch import Tensor, nn
from torch.nn import functional as F
from worlds import Bright, ConvNet, Linear, Returns, image, relative, segmenter

from radiolucent import BadInput, InputWarning, Logits, Outputs, Region
from radiolucent.methods import (
    RISE,
    AblationCAM,
    ExpectedGradients,
    IntegratedGradients,
    Occlusion,
    ScoreCAM,
    SmoothGrad,
    as_dict,
    from_dict,
)
from radiolucent.protocols import Method
from radiolucent.scoring import in_chunks, score, watched
from radiolucent.targets import Select

both_axes = pytest.mark.parametrize("axes", [2, 3])


def per_axis(value: int | tuple[int, ...], axes: int) -> tuple[int, ...]:
    return (value,) * axes if isinstance(value, int) else value


# Occlusion


@both_axes
@pytest.mark.parametrize(("window", "stride"), [(4, 3), (5, 5), (3, 1), ((3, 5, 4), (2, 5, 1)), ((11, 2, 1), (11, 1, 1))])
@pytest.mark.parametrize("batch", [0, 1, 7])
def test_occlusion_is_captum_s(window: int | tuple[int, ...], stride: int | tuple[int, ...], batch: int, axes: int) -> None:
    net, x = ConvNet(axes, channels=2).eval(), image(axes, channels=2, size=11)
    window, stride = per_axis(window, axes)[:axes], per_axis(stride, axes)[:axes]
    found = Occlusion(window, stride, batch=batch)(net, x, Logits(3, 0))
    for ours, target in zip(found, (3, 0), strict=True):
        truth = CaptumOcclusion(net).attribute(x, (2, *window), strides=(1, *stride), target=target)
        assert relative(ours, truth[:, :1]) <= 1e-5
        assert torch.equal(truth[:, :1], truth[:, 1:])


@both_axes
def test_occlusion_of_a_region_is_captum_s(axes: int) -> None:
    x = image(axes, size=8)
    net = segmenter(axes, x)
    targets = Region(1, 2).fix(net(x))
    found = Occlusion(3, 2)(net, x, targets)
    for ours, t in zip(found, (0, 1), strict=True):
        truth = CaptumOcclusion(lambda x, t=t: targets(net(x))[t]).attribute(x, (1, *[3] * axes), strides=(1, *[2] * axes))
        assert relative(ours, truth) <= 1e-5


@both_axes
def test_occlusion_of_single_voxels_is_exact_where_voxels_do_not_interact(axes: int) -> None:
    x = image(axes, channels=2, size=6)
    found = Occlusion(1, 1)(Bright(axes, channels=2, threshold=0.7), x, Logits(0, 1))
    truth = (x.sum(1, keepdim=True) - 0.7).relu()
    assert relative(found, torch.stack([truth, -truth])) <= 1e-4
    net = Linear(x.shape[1:])
    truth = torch.stack([(net.weight[k] * x).sum(1, keepdim=True) for k in range(3)]).detach()
    assert relative(Occlusion(1, 1)(net, x, Outputs()), truth) <= 1e-4


@both_axes
@pytest.mark.parametrize("baseline", ["zero", "minimum", "mean", "blur", "noise"])
def test_occlusion_covers_with_the_baseline_of_its_name(baseline: str, axes: int) -> None:
    from radiolucent.baselines import baseline as make

    x = image(axes, channels=2, size=6) + 0.3
    net = Linear(x.shape[1:])
    difference = (net.weight[1] * (x - make(baseline, x))).sum(1, keepdim=True).detach()
    shape, truth = x.shape[2:], torch.zeros(len(x), 1, *x.shape[2:])
    for corner in product(*(range(0, n, 2) for n in shape)):
        block = (..., *(slice(a, a + 2) for a in corner))
        truth[block] = difference[block].flatten(1).sum(1).reshape(-1, *[1] * (axes + 1))
    assert relative(Occlusion(2, 2, baseline)(net, x, Outputs(1))[0], truth) <= 1e-4


def test_occlusion_finds_a_planted_lesion_in_3d() -> None:
    x = torch.rand(1, 1, 20, 24, 16) * 0.4
    x[..., 6:10, 12:16, 4:8] = 1.0
    found = Occlusion(4, 2)(Bright(3), x, Logits(0))[0, 0, 0]
    inside = torch.zeros(20, 24, 16, dtype=torch.bool)
    inside[6:10, 12:16, 4:8] = True
    assert found[inside].min() > 5 * found[~inside].mean()
    assert inside.flatten()[found.argmax()]


WRONG = [
    (Occlusion((4, 4, 4)), r"window as one number, or one for each of the 2 axes; got \(4, 4, 4\)"),
    (Occlusion(13), "a window within the image; got .*13, 13.* for a grid .*12, 16"),
    (Occlusion(4, 5), r"a stride of at most the window; got \(5, 5\) and \(4, 4\)"),
    (RISE(cells=(3, 3, 3)), "cells as one number, or one for each of the 2 axes"),
]


@pytest.mark.parametrize(("method", "message"), WRONG, ids=[repr(method) for method, _ in WRONG])
def test_settings_that_do_not_fit_the_image_are_refused(method: Method, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        method(ConvNet(2).eval(), image(2), Logits(0))


def test_settings_of_several_numbers_come_from_lists_and_texts() -> None:
    method = Occlusion((12, 8, 4), 2)
    assert from_dict(as_dict(method)) == method
    assert from_dict({"method": "occlusion", "window": [12, 8, 4], "stride": 2}) == method
    assert from_dict({"method": "occlusion", "window": "12,8,4", "stride": "2"}) == method
    assert from_dict({"method": "score-cam", "relu": "false"}) == ScoreCAM(relu=False)
    for field, value in {"window": "a,b", "stride": 2.5, "batch": True, "baseline": 3.0 > 2}.items():
        with pytest.raises(BadInput, match=f"for the field {field} of occlusion"):
            from_dict({"method": "occlusion", field: value})
    with pytest.raises(BadInput, match="bool for the field relu of score-cam; got 1"):
        from_dict({"method": "score-cam", "relu": 1})


# RISE


def test_centred_rise_is_the_papers_without_the_mean_score() -> None:
    net, x = ConvNet(2).eval(), image(2, 2)
    method = RISE(30, 4, seed=2)
    S, M = [], []
    for mask in masks(method, tuple(x.shape[2:]), (3, 4)):
        M.append(mask)
        S.append(net(x * mask)[:, 1].detach())
    S, M = torch.stack(S), torch.stack(M)
    truth = torch.einsum("kb,k...->b...", S - S.mean(0), M) / (0.5 * 30)
    assert relative(method(net, x, Logits(1))[0, :, 0], truth) <= 1e-4
    assert method(net, x, Logits(1)).min() < 0 < method(net, x, Logits(1)).max()


def masks(method: RISE, grid: tuple[int, ...], along: tuple[int, ...]) -> Tensor:
    """The masks by torch's own interpolation: (samples, *grid)."""
    draws = torch.Generator().manual_seed(method.seed)
    size = [-(-n // a) for n, a in zip(grid, along, strict=True)]
    cells = torch.empty(method.samples, *(a + 1 for a in along), dtype=torch.bool).bernoulli_(method.shown, generator=draws)
    shifts = torch.stack([torch.randint(0, s, (method.samples,), generator=draws) for s in size], 1)
    mode = {2: "bilinear", 3: "trilinear"}[len(grid)]
    full = F.interpolate(cells[:, None].float(), [(a + 1) * s for a, s in zip(along, size, strict=True)], mode=mode)[:, 0]
    places = [tuple(slice(int(a), int(a) + n) for a, n in zip(shift, grid, strict=True)) for shift in shifts]
    return torch.stack([whole[place] for whole, place in zip(full, places, strict=True)])


@pytest.mark.parametrize(
    ("axes", "cells", "along"), [(2, 4, (3, 4)), (3, 4, (3, 4, 2)), (2, (5, 2), (5, 2)), (3, (1, 2, 9), (1, 2, 9))]
)
@pytest.mark.parametrize("batch", [0, 4])
def test_rise_is_its_equation(axes: int, cells: int | tuple[int, ...], along: tuple[int, ...], batch: int) -> None:
    method = RISE(10, cells, shown=0.3, seed=5, batch=batch, centred=False)
    net, x = ConvNet(axes, channels=2).eval(), image(axes, channels=2)
    M = masks(method, tuple(x.shape[2:]), along)
    assert 0 <= M.min() < M.max() <= 1
    with torch.no_grad():
        truth = sum(net(x * m).T[[2, 0]][..., None, *[None] * axes] * m for m in M) / (0.3 * 10)
    assert relative(method(net, x, Logits(2, 0)), truth) <= 1e-5


@both_axes
def test_every_voxel_of_a_rise_mask_shows_with_the_probability_that_was_asked_for(axes: int) -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ones(len(x), 1)

    found = RISE(3000, 3, shown=0.3, centred=False)(Constant(), image(axes, batch=1, size=7), Outputs(0))
    assert relative(found, torch.ones_like(found)) < 0.15  # E M / p1 = 1; five standard errors


def test_rise_of_a_linear_model_with_a_cell_for_each_voxel() -> None:
    x = image(2, batch=1, size=4)
    net = Linear(x.shape[1:], outputs=1)
    p, w = 0.4, (net.weight * x).detach()[0, 0]
    runs = torch.stack(
        [RISE(500, tuple(x.shape[2:]), p, seed=seed, centred=False)(net, x, Outputs(0))[0, 0, 0] for seed in range(20)]
    )
    truth = p * w.sum() + (1 - p) * w  # E[S M[q]] / p of independent binary masks
    error = runs.std(0) / 20**0.5
    assert ((runs.mean(0) - truth).abs() < 4.5 * error).all()
    assert error.max() < 0.1 * w.abs().max()


def test_rise_finds_a_planted_lesion_in_3d() -> None:
    x = torch.rand(1, 1, 20, 24, 16) * 0.4
    x[..., 6:10, 12:16, 4:8] = 1.0
    found = RISE(400, 6, centred=False)(Bright(3, threshold=0.9), x, Logits(0))[0, 0, 0]
    assert found[6:10, 12:16, 4:8].mean() > 1.3 * found.mean()
    peak = [int(n) for n in torch.unravel_index(found.argmax(), found.shape)]
    assert all(low - 1 <= n <= high for n, low, high in zip(peak, (6, 12, 4), (10, 16, 8), strict=True))


def test_another_seed_is_other_masks() -> None:
    net, x = ConvNet(2).eval(), image(2)
    assert relative(RISE(5)(net, x, Logits(0)), RISE(5, seed=1)(net, x, Logits(0))) > 1e-3


# Models that no gradient goes through (row 31 of the bad inputs), and outputs of any form


class Wrapped(nn.Module):
    """A network, and something done to what goes in or comes out."""

    def __init__(self, network: nn.Module, how: str) -> None:
        super().__init__()
        self.network, self.how = network, how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "no_grad":
            with torch.no_grad():
                return self.network(x)
        if self.how == "inference_mode":
            with torch.inference_mode():
                return self.network(x)
        if self.how == "overwrites its input":
            return self.network(x.mul_(1.0)) + 0 * x.zero_().sum()
        output = self.network(x.float() / 64 if self.how == "whole numbers" else x)
        return {"argmax": lambda o: F.one_hot(o.argmax(1), 4).float(), "detach": lambda o: o.detach()}.get(self.how, lambda o: o)(
            output
        )


METHODS_WITHOUT_GRADIENT = [
    Occlusion(4, 3),
    RISE(40, centred=False),
    ScoreCAM("network.conv2"),
    AblationCAM("network.conv2", relu=False),
]
HABITS = ["argmax", "detach", "no_grad", "inference_mode", "overwrites its input", "whole numbers"]


@both_axes
@pytest.mark.parametrize("method", METHODS_WITHOUT_GRADIENT, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("how", HABITS)
def test_models_that_autograd_cannot_follow(how: str, method: Method, axes: int) -> None:
    net = Wrapped(ConvNet(axes), how).eval()
    x = image(axes, size=8)
    x = (x * 64).round() if how == "whole numbers" else x
    given = x.to(torch.int16) if how == "whole numbers" else x.clone()
    found = method(net, given, Logits(*range(4)))
    assert torch.equal(given, x.to(given.dtype))
    scores = net(x.clone()).T
    assert (scores == 0).any() == (how == "argmax")
    # A share of a score of 0 is none.
    assert found.isfinite().all() if not isinstance(method, AblationCAM) else found[scores != 0].isfinite().all()
    assert not found.requires_grad
    if how != "argmax":
        plain = method(Wrapped(net.network, "whole numbers" if how == "whole numbers" else "").eval(), x, Logits(*range(4)))
        # Whole numbers stay whole where a soft mask dims them.
        soft = how == "whole numbers" and isinstance(method, (RISE, ScoreCAM))
        assert relative(found, plain) <= (0.05 if soft else 1e-5)
    elif isinstance(method, RISE):
        assert found.any()


@pytest.mark.parametrize("baseline", ["zero", "minimum", "mean", "blur", "noise"])
def test_whole_numbers_are_covered_by_whole_numbers(baseline: str) -> None:
    x = (image(2, size=8) * 100).to(torch.uint8)
    seen: list[Tensor] = []

    class Keeps(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.clone())
            return x.flatten(1).float().sum(1, keepdim=True)

    Occlusion(3, 3, baseline)(Keeps(), x, Outputs(0))
    assert {s.dtype for s in seen} == {torch.uint8}
    from radiolucent.baselines import baseline as make

    assert (make(baseline, x).float() - make(baseline, x.float())).abs().max() <= 0.5


@pytest.mark.parametrize("method", METHODS_WITHOUT_GRADIENT, ids=lambda m: type(m).__name__)
def test_outputs_of_any_form_are_split_by_copies(method: Method) -> None:
    net, x = ConvNet(2), image(2)
    plain = method(Wrapped(net, "").eval(), x, Logits(1, 2))
    for kind, key in (("dict", "logits"), ("tuple", 0), ("list", 0)):
        assert relative(method(Returns(net, kind).eval(), x, Select(key, Logits(1, 2))), plain) <= 1e-6


def test_masks_of_items_meet_their_own_items_in_every_copy() -> None:
    x = image(2, batch=3, size=8)
    net = segmenter(2, x)
    targets = Region(0, 1, 2).fix(net(x))
    copies = torch.rand(4, *x.shape)
    with torch.no_grad():
        truth = torch.stack([targets(net(copy)) for copy in copies])
        assert relative(score(net, copies.clone(), targets), truth) <= 1e-6


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda x: x.flatten(1).mean(1)[:1, None], r"scores of shape \(targets, 2\).* got shape \(1, 1\)"),
        (lambda x: x.flatten(1)[:, :1] / 0, "finite scores; got .*(inf|nan)"),
    ],
)
def test_scores_that_are_none_are_refused(output: Callable[[Tensor], Tensor], message: str) -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return output(x)

    for method in (Occlusion(4, 3), RISE(4, batch=1)):
        with pytest.raises(BadInput, match=message):
            method(Odd(), image(2) + 1, Outputs(0))


@both_axes
def test_half_precision_scores_are_added_up_in_single(axes: int) -> None:
    net, x = Linear(image(axes).shape[1:], 2).bfloat16(), image(axes).bfloat16()
    assert Occlusion(4, 3)(net, x, Outputs()).dtype == torch.float32


# Memory that runs out (row 36)


class Small(nn.Module):
    """A machine with room for a batch of `most`: beyond, the allocator's own error, or an accelerator's."""

    def __init__(self, network: nn.Module, most: int, error: str) -> None:
        super().__init__()
        self.network, self.most, self.error = network, most, error
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        if len(x) > self.most and self.error == "cpu":
            torch.empty(10**17)
        if len(x) > self.most:
            raise {"cuda": torch.OutOfMemoryError("CUDA out of memory"), "windows": RuntimeError("not enough memory")}[self.error]
        return self.network(x)


@pytest.mark.parametrize("method", [Occlusion(4, 3, batch=12), RISE(40, batch=12), ScoreCAM("network.conv2", batch=8)], ids=repr)
@pytest.mark.parametrize("error", ["cpu", "cuda", "windows"])
def test_fewer_copies_where_memory_runs_out(error: str, method: Method) -> None:
    net, x = Small(ConvNet(2), 6, error).eval(), image(2)
    plain = method(Small(net.network, 99, error).eval(), x, Logits(1, 2))
    with pytest.warns(InputWarning, match=r"memory for \d+ copies at once ran out .*going on with") as warned:
        found = method(net, x, Logits(1, 2))
    assert relative(found, plain) <= 1e-5
    assert [int(str(w.message).split()[-1]) for w in warned] == ([6, 3] if method.batch == 12 else [4, 2])
    assert sum(size > 6 for size in net.sizes) == 2  # it stays with what fits


def test_ablation_runs_out_behind_the_layer_only() -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv2, self.rest = nn.Conv2d(1, 6, 3), Small(nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), 4, "cuda")

        def forward(self, x: Tensor) -> Tensor:
            return self.rest(self.conv2(x))

    net, x = Head().eval(), image(2)
    net(x)
    with pytest.warns(InputWarning, match="copies at once ran out"):
        found = AblationCAM("conv2", relu=False)(net, x, Outputs())
    assert relative(found, AblationCAM("conv2", relu=False, batch=1)(net, x, Outputs())) <= 1e-5


def test_no_room_for_one_copy_is_an_error_that_says_so() -> None:
    net, x = Small(ConvNet(2), 1, "cpu").eval(), image(2)
    with pytest.raises(BadInput, match=r"memory for one forward pass of the input; got .*can't allocate memory"):
        RISE(4, batch=1)(net, x, Logits(0))


def test_other_errors_are_not_taken_for_memory() -> None:
    def broken(which: range) -> None:
        raise RuntimeError("the model broke")

    with warnings.catch_warnings(), pytest.raises(RuntimeError, match="the model broke"):
        list(in_chunks(4, 4, broken))


@pytest.mark.parametrize("size", [1, 3, 5, 9])
def test_chunks_cover_everything_once(size: int) -> None:
    assert [i for which, made in in_chunks(5, size, list) for i in made] == list(range(5))


# ---- whoever watches


@pytest.mark.parametrize(
    ("method", "steps"),
    [
        (Occlusion(8, 8, batch=1), [0, 1, 2, 3, 4]),
        (RISE(10, 3, batch=4), [0, 4, 8, 10]),
        (SmoothGrad(samples=5, batch=2), [0, 2, 4, 5]),
        (SmoothGrad(Occlusion(8, 8), samples=3, batch=1), [0, 1, 2, 3]),
        (IntegratedGradients(3, batch=3), [0, 3]),
        (ExpectedGradients(samples=2, batch=1), [0, 1, 2]),
    ],
    ids=repr,
)
def test_whoever_watches_hears_how_far_it_is(method: Method, steps: list[int]) -> None:
    heard: list[tuple[int, int]] = []
    net, x = ConvNet(2).eval(), image(2, batch=1, size=16)[..., :16, :16]
    with watched(lambda done, total: heard.append((done, total))):
        method(net, x, Logits(0))
    assert heard == [(done, steps[-1]) for done in steps]
    method(net, x, Logits(0))
    assert len(heard) == len(steps), "nobody watches any more"


def test_channels_and_halved_chunks_are_counted_once() -> None:
    heard: list[int] = []
    with watched(lambda done, total: heard.append(done)):
        ScoreCAM("conv2", batch=2)(ConvNet(2).eval(), image(2), Logits(0))
        assert heard[0] == 0
        assert heard == sorted(set(heard))
        heard.clear()

        def full(which: range) -> int:
            if len(which) > 2:
                raise torch.OutOfMemoryError("full")
            return 0

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InputWarning)
            list(in_chunks(5, 4, full))
    assert heard == [0, 2, 4, 5]


def test_what_watches_is_gone_after_an_error() -> None:
    heard: list[int] = []
    with pytest.raises(BadInput), watched(lambda done, total: heard.append(done)):
        Occlusion(99)(ConvNet(2).eval(), image(2), Logits(0))
    Occlusion(8, 8)(ConvNet(2).eval(), image(2), Logits(0))
    assert heard == []
