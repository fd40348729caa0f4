"""Slice weights and slice relevance: what the prediction used, sums that come out, and numbers against attention."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from worlds import Mean, Spread, classifier, relative

import radiolucent as rl
from radiolucent import BadInput, Logits, Outputs
from radiolucent.hooks import tap
from radiolucent.methods import SliceAttention, SliceCAM, default_method
from radiolucent.models import SliceModel
from radiolucent.slicing import agreement, alike, covered, deletion, empty, find, insertion, left_out, on_grid, repeatability, truth

GRID = (6, 9, 7)
ONE = Logits(1)


def model(pooling: str = "attention", outputs: int = 3, **settings: object) -> SliceModel:
    torch.manual_seed(2)
    heads = {"pooling_arguments": {"heads": 2}} if pooling == "attention" else {}
    net = SliceModel(classifier(2), pooling, outputs=outputs, **heads, **settings).double().eval()
    with torch.no_grad():
        net.encoder[5].weight.mul_(6)
        net.encoder[5].bias.uniform_(-0.3, 1.0)
        if pooling == "attention":
            net.pooling.attention.in_proj_weight.mul_(4)
            net.pooling.attention.in_proj_bias.uniform_(-1, 1)
    return net


def volumes(batch: int = 2) -> Tensor:
    return torch.rand(batch, 1, *GRID, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def used(net: SliceModel, x: Tensor) -> Tensor:
    """The weights of the prediction itself, by a hook of ours: (b, heads, slices)."""
    kept: list[Tensor] = []
    handle = net.pooling.weights.register_forward_hook(lambda m, a, output: kept.append(output.detach()))
    net(x)
    handle.remove()
    return kept[0]


@pytest.mark.parametrize("pooling", ["attention", "gated"])
@pytest.mark.parametrize("axes", [("i", "j", "k"), ("k", "j")])
def test_the_map_is_the_weights_that_the_prediction_used_by_hand(pooling: str, axes: tuple[str, ...]) -> None:
    net, x = model(pooling, axes=axes), volumes()
    a = used(net, x)
    torch.testing.assert_close(a.sum(-1), torch.ones_like(a.sum(-1)))
    a, truth = a.mean(1), torch.zeros(2, *GRID, dtype=torch.float64)
    starts = {axis: sum(GRID["ijk".index(b)] for b in axes[:n]) for n, axis in enumerate(axes)}
    for i in range(6):
        for j in range(9):
            for k in range(7):
                at = {"i": i, "j": j, "k": k}
                truth[:, i, j, k] = sum(a[:, starts[axis] + at[axis]] for axis in axes) / len(axes)
    found = SliceAttention()(net, x, Logits(0, 2))
    assert found.shape == (2, 2, 1, *GRID)
    for t in range(2):
        torch.testing.assert_close(found[t, :, 0], truth)
    alone = SliceAttention("k")(net, x, ONE)[0, :, 0]
    torch.testing.assert_close(alone, a[:, starts["k"] : starts["k"] + 7, None, None].movedim(1, 3).expand(-1, *GRID))


def test_a_weight_cannot_be_seen_where_there_is_none() -> None:
    x = volumes(1)
    for pooling in ("mean", "max"):
        with pytest.raises(BadInput, match=r"a pooling that weighs slices .*got MeanPooling|MaxPooling over i, j, k"):
            SliceAttention()(model(pooling), x, ONE)
        assert default_method(model(pooling)) == "slice-cam"
    with pytest.raises(BadInput, match=r"weighs slices .* along i; got AttentionPooling over k"):
        SliceAttention("i")(model(axes=("k",)), x, ONE)
    with pytest.raises(BadInput, match="axis among all, i, j, k; got 'x'"):
        SliceAttention("x")
    assert default_method(model()) == default_method(nn.Sequential(model("gated"))) == "slice-attention"


@pytest.mark.parametrize("method", [SliceAttention(), SliceCAM()])
def test_other_models_and_images_are_refused_in_words(method: SliceAttention | SliceCAM) -> None:
    plain = nn.Sequential(nn.Conv3d(1, 2, 3), Mean())
    for net, x in ((plain, volumes()), (classifier(2), volumes()[..., 0]), (nn.Sequential(model(), model()), volumes())):
        with pytest.raises(BadInput, match=r"a model that pools slices .*choose a CAM"):
            method(net, x, ONE)
    with pytest.raises(BadInput, match="a model that pools slices"):
        method(model(), volumes()[..., 0], ONE)


def constant(net: SliceModel) -> Tensor:
    """b: what the outputs are when every slice's value is 0 and the weights sum to 1."""
    z = torch.zeros(net.pooling.width, dtype=torch.float64)
    if hasattr(net.pooling, "attention"):
        z = net.pooling.attention.out_proj(net.pooling.attention.in_proj_bias.chunk(3)[2])
    return net.head(z)


@pytest.mark.parametrize("pooling", ["attention", "gated", "mean", "max"])
@pytest.mark.parametrize("layer", ["auto", "6"])
def test_relevance_within_slices_sums_to_the_score(pooling: str, layer: str) -> None:
    """The encoder ends in a mean of its last features, so nothing is lost: sum R = S - b, and slice by slice too."""
    net, x = model(pooling), volumes(1)
    found, details = SliceCAM(layer).detailed(net, x, Logits(2, 0))
    scores = net(x)[0, [2, 0]] - constant(net)[[2, 0]]
    torch.testing.assert_close(found.flatten(1).sum(1), scores)
    each = [sum(sum(axis["share"]) for axis in row["slices"].values()) for row in details]
    assert each == pytest.approx(scores.tolist())


def test_relevance_within_slices_by_hand() -> None:
    """Weight of head h x what its value counts for the score x features of the slice, cell by cell, on a grid of one voxel each."""
    net = SliceModel(nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), Mean()), axes=("j",), pooling_arguments={"heads": 2}).double()
    x = volumes(1)
    a, mha = used(net, x)[0], net.pooling.attention
    values, out = mha.in_proj_weight.chunk(3)[2], mha.out_proj.weight
    truth = torch.zeros(GRID, dtype=torch.float64)
    for s in range(9):
        for h in range(2):
            own = slice(2 * h, 2 * h + 2)
            counts = net.head.weight[1] @ out[:, own] @ values[own]  # (4,): what a feature of a slice is worth to head h
            A = net.encoder[:2](x[:, :, :, s])[0]
            truth[:, s] += a[h, s] * torch.einsum("c,chw->hw", counts, A) / (6 * 7)
    assert relative(SliceCAM("1")(net, x, ONE)[0, 0, 0], truth.detach()) < 1e-10


def test_the_way_through_the_weights_is_left_out() -> None:
    """With weights that nothing holds, the gradient at the features is another one: the held one is the value path's."""
    net, x = model(), volumes(1)
    place = find(net, x)
    with tap(net, [place.stack]) as taps:
        free = torch.autograd.grad(net(taps.input(x))[0, 1], taps[place.stack])[0]
    with tap(net, [place.stack], [place.weights]) as taps:
        held = torch.autograd.grad(net(taps.input(x))[0, 1], taps[place.stack])[0]
    assert relative(free, held) > 0.01
    out, v = net.pooling.attention.out_proj.weight, net.pooling.attention.in_proj_weight.chunk(3)[2]
    a = used(net, x)[0]
    truth = sum(a[h][:, None] * (net.head.weight[1] @ out[:, h * 4 : h * 4 + 4] @ v[h * 4 : h * 4 + 4]) for h in range(2))
    assert relative(held[0], truth.detach()) < 1e-10


@pytest.mark.parametrize("batch", [1, 5])
def test_few_slices_at_once_and_a_resized_encoder_give_the_same_sum(batch: int) -> None:
    net, x = model(size=(16, 12)), volumes()
    found = SliceCAM(batch=batch)(net, x, ONE)
    torch.testing.assert_close(found, SliceCAM()(net, x, ONE))
    torch.testing.assert_close(found.flatten(2).sum(2)[0], net(x)[:, 1] - constant(net)[1])


def test_a_share_of_cells_among_voxels_keeps_sums_and_constants() -> None:
    for cells in ((2, 3), (6, 7), (1, 1), (13, 20), (4, 4)):
        maps = torch.randn(2, 9, *cells, dtype=torch.float64)
        volume = on_grid(maps, "j", GRID)
        assert volume.shape == (2, *GRID)
        torch.testing.assert_close(volume.sum((1, 3)), maps.sum((2, 3)))
    flat = on_grid(torch.ones(9, 2, 7, dtype=torch.float64), "j", GRID)
    torch.testing.assert_close(flat, torch.full(GRID, 1 / 3, dtype=torch.float64))


def test_an_explanation_says_where_each_slice_lies() -> None:
    affine = torch.diag(torch.tensor([-2.0, 3.0, 1.5, 1.0])).numpy()
    affine[:3, 3] = (10, -20, 30)
    scan = rl.Volume(volumes(1)[0].numpy(), affine)
    for method in (SliceAttention(), SliceCAM()):
        explanation = rl.explain(model(), scan, method, Outputs(0, 1))
        for details in explanation.provenance["details"]:
            slices = details["slices"]
            assert [len(slices[a]["weight"]) for a in "ijk"] == list(GRID)
            assert len(slices["j"]["heads"]) == 2
            # slice 4 across j: through the middle of the others, at -20 + 4 x 3 mm
            assert slices["j"]["centre_mm"][4] == pytest.approx([10 - 2 * 2.5, -8, 30 + 1.5 * 3])
        assert sum(sum(slices[a]["weight"]) for a in "ijk") == pytest.approx(1)


def test_inside_another_model_weights_are_found_but_no_numbers_on_a_score_that_it_makes() -> None:
    net, x = Spread(model()), volumes(1)
    mask = torch.ones(1, *GRID, dtype=torch.long)
    _, details = SliceAttention().detailed(net, x, rl.Region(1, mask=mask))
    assert set(details[0]) == {"slices"}
    assert set(SliceAttention().detailed(model(), x, ONE)[1][0]) == {"slices", "truth"}


# Does attention tell the truth?


class Sum(nn.Module):
    """S = the sum of the levels of the slices that are there (no pooling would; here every answer is known)."""

    axes = ("k",)

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.stack, self.pooling = nn.Identity(), nn.Identity(), nn.Identity()

    def prepare(self, slices: Tensor) -> Tensor:
        return slices

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x.mean((1, 2, 3))[..., None]

    def from_features(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        there = features if mask is None else features * mask[..., None]
        return torch.cat([there.sum(1), -there.sum(1)], 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.from_features(self.features(x))


LEVELS = [3.0, 0.0, 10.0, 1.0, 6.0]


def levels(values: Sequence[float] = LEVELS) -> Tensor:
    return torch.tensor(values).expand(1, 1, 2, 2, 5).clone()


def test_curves_of_a_sum_by_hand() -> None:
    net, x = Sum(), levels()
    features, weights = net.features(x), torch.tensor([0.2, 0.0, 0.4, 0.1, 0.3])
    torch.testing.assert_close(left_out(net, features, Logits(0, 1)), torch.tensor([LEVELS, [-v for v in LEVELS]]))
    counts, scores = deletion(net, features, Logits(0), weights)
    assert counts.tolist() == [0, 1, 2, 3, 4]
    assert scores[0].tolist() == [20, 10, 4, 1, 0]
    counts, scores = insertion(net, features, Logits(0), weights)
    assert counts.tolist() == [1, 2, 3, 4, 5]
    assert scores[0].tolist() == [10, 16, 19, 20, 20]
    drops = covered(net, x, Logits(0), "zero")
    torch.testing.assert_close(drops, torch.tensor([LEVELS]))


@pytest.mark.parametrize("pooling", ["gated", "attention"])
def test_where_the_weight_of_a_slice_that_is_left_out_goes(pooling: str) -> None:
    """Gated: to the others, in proportion. Attention: its query is the mean of what is left, and the weights are others."""
    net = model(pooling)
    features = net.features(volumes(1))
    there = torch.ones(1, features.shape[1], dtype=torch.bool)
    there[0, 3] = False
    kept: list[Tensor] = []
    net.pooling.weights.register_forward_hook(lambda m, a, output: kept.append(output.detach()))
    net.from_features(features)
    net.from_features(features, there)
    whole, rest = kept
    handed_on = whole * there / (whole * there).sum(-1, keepdim=True)
    assert (relative(rest, handed_on) < 1e-12) == (pooling == "gated")
    if pooling == "attention":
        query = net.pooling.attention.in_proj_weight.chunk(3)[0]
        assert rest[0, :, 3].tolist() == [0, 0]
        with torch.no_grad():
            query.zero_()
        kept.clear()
        net.from_features(features)
        net.from_features(features, there)
        torch.testing.assert_close(kept[1], kept[0] * there / (kept[0] * there).sum(-1, keepdim=True))


def test_honest_and_dishonest_weights_are_told_apart() -> None:
    net, x = Sum(), levels()
    features = net.features(x)
    honest, lying = torch.tensor([0.2, 0.05, 0.4, 0.1, 0.25]), torch.tensor([0.1, 0.45, 0.05, 0.3, 0.1])
    good, bad = (truth(net, x, features, Logits(0), w)[0] for w in (honest, lying))
    assert good["agreement"] == pytest.approx(1)
    assert bad["agreement"] < -0.8
    assert good["deletion"] == pytest.approx(7)
    assert good["insertion"] == pytest.approx(17)
    assert good["deletion"] < good["deletion_at_random"] < bad["deletion"]
    assert bad["insertion"] < good["insertion_at_random"] < good["insertion"]
    # In any order the slices go one by one: on average 20 x (1 - gone / 5).
    assert good["deletion_at_random"] == pytest.approx(12, abs=2)
    even = truth(net, x, features, Logits(0), torch.full((5,), 0.2))[0]
    assert even["slices_in_effect"] == pytest.approx(5)
    assert math.isnan(even["agreement"])


def test_weights_on_empty_slices() -> None:
    x = torch.rand(1, 2, 4, 5, 3)
    x[:, :, :, 3:] = torch.tensor([7.0, 8.0])[:, None, None, None]
    weights = torch.tensor([1.0, 3, 1, 1, 1, 1, 1, 2, 4, 1, 1, 1]) / 18
    assert empty(x, weights, ("i", "j", "k")) == pytest.approx((6 / 18, 2 / 12))
    assert empty(x, weights, ("i", "j", "k"), tolerance=10.0) == (1.0, 1.0)


def test_repeatability_over_seeds() -> None:
    a, b = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.3, 0.5])
    assert repeatability([a, a, a]) == pytest.approx({"spearman": 1, "overlap": 1, "same_top": 1})
    assert repeatability([a, b]) == pytest.approx({"spearman": -1, "overlap": 0.7, "same_top": 0})
    assert repeatability([a, a, b])["same_top"] == pytest.approx(1 / 3)
    with pytest.raises(BadInput, match="weights of two models or more"):
        repeatability([a])
    assert math.isnan(agreement(torch.ones(3), a))


def test_alike_is_what_repeatability_averages() -> None:
    a, b = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.6, 0.1, 0.3])
    assert alike(a, b) == pytest.approx({"spearman": 0.5, "overlap": 0.8, "same_top": 1})
    assert repeatability([a, b]) == alike(a, b)


@pytest.mark.parametrize("axes", [("i", "j", "k"), ("j",)])
def test_covered_slices_are_whole_passes_for_less(axes: tuple[str, ...]) -> None:
    """One pass of the model itself for each covered slice, slowly; and only what a slice changes is encoded."""
    net, x = model(axes=axes), volumes(1)
    x[:, :, 2] = x[:, :, 2].amin()  # flat, but no minimum of the whole
    x[..., 4] = x.amin()  # nothing to cover
    target, slow = Logits(0, 2), []
    for axis in axes:
        for s in range(GRID["ijk".index(axis)]):
            changed = x.clone().movedim("ijk".index(axis) + 2, 0)
            changed[s] = x.amin()
            slow.append(target(net(x)) - target(net(changed.movedim(0, "ijk".index(axis) + 2))))
    encoded: list[int] = []
    handle = net.encoder.register_forward_hook(lambda m, a, output: encoded.append(len(output)))
    found = covered(net, x, target)
    handle.remove()
    torch.testing.assert_close(found, torch.cat(slow, 1))
    once = sum(GRID["ijk".index(axis)] for axis in axes)
    others = sum(1 + once - GRID["ijk".index(axis)] for axis in axes for _ in range(GRID["ijk".index(axis)]))
    assert sum(encoded) <= once + others
    if axes == ("j",):
        assert sum(encoded) == 2 * 9


def test_covering_is_asked_for_by_its_baseline() -> None:
    net, x = model(), volumes(1)
    _, plain = SliceAttention().detailed(net, x, Logits(0, 2))
    _, rows = SliceAttention(cover="zero").detailed(net, x, Logits(0, 2))
    drops = covered(net, x, Logits(0, 2), "zero")
    weights = used(net, x)[0].mean(0)
    for t, row in enumerate(rows):
        assert row["truth"]["occlusion"] == pytest.approx(agreement(weights, drops[t]))
        each = torch.tensor([v for axis in "ijk" for v in row["slices"][axis]["covered"]], dtype=torch.float64)
        torch.testing.assert_close(each, drops[t])
        assert {k: v for k, v in row["truth"].items() if k != "occlusion"} == plain[t]["truth"]
        assert "covered" not in plain[t]["slices"]["i"]
        left = [v for axis in "ijk" for v in plain[t]["slices"][axis]["left_out"]]
        assert left == pytest.approx(left_out(net, net.features(x), Logits(0, 2))[t].tolist())
    with pytest.raises(BadInput, match="cover among no, zero, minimum"):
        SliceAttention(cover="yes")
    mask = torch.ones(1, *GRID, dtype=torch.long)
    with pytest.raises(BadInput, match=r"a model that pools slices.*got Spread"):
        SliceAttention(cover="zero").detailed(Spread(net), x, rl.Region(1, mask=mask))


@pytest.mark.parametrize(("method", "most"), [(SliceAttention(), 22), (SliceCAM(), 2 * 22 + 3)])
def test_several_targets_cost_the_encoder_what_one_costs(method: SliceAttention | SliceCAM, most: int) -> None:
    """22 slices: the prediction's own pass; slice-cam goes through the encoder once more, after a look at each axis."""
    net, x = model(), volumes(1)
    encoded: list[int] = []
    net.encoder.register_forward_hook(lambda m, a, output: encoded.append(len(output)))
    for target in (Logits(0), Logits(0, 1, 2)):
        encoded.clear()
        method.detailed(net, x, target)
        assert sum(encoded) == most


def test_what_is_no_sliced_model_is_refused() -> None:
    with pytest.raises(BadInput, match=r"a model that pools slices.*got Linear"):
        left_out(nn.Linear(1, 1), torch.rand(1, 3, 1), ONE)


def test_a_trained_model_s_numbers_say_that_its_attention_is_honest() -> None:
    """Hand-set: gated attention that looks at bright slices, of which one decides; without it the score falls to the rest's."""
    net = SliceModel(nn.Sequential(nn.Conv2d(1, 2, 1), Mean()), "gated", axes=("k",), pooling_arguments={"hidden": 1})
    with torch.no_grad():
        for layer, weight, bias in (
            (net.encoder[0], [[1.0], [1.0]], 0.0),
            (net.pooling.signal, [[2.0, 2.0]], -2.0),
            (net.pooling.gate, [[0.0, 0.0]], 9.0),
            (net.pooling.score, [[8.0]], 0.0),
            (net.head, [[-1.0, -1.0], [1.0, 1.0]], 0.0),
        ):
            layer.weight.copy_(torch.tensor(weight).reshape(layer.weight.shape))
            layer.bias.fill_(bias)
    x = 0.2 + 0.05 * torch.rand(1, 1, 4, 4, 9)
    x[..., 5] += 1
    relevance, (row,) = SliceAttention().detailed(net.eval(), x, ONE)
    weights = torch.tensor(row["slices"]["k"]["weight"])
    assert weights.argmax() == 5
    assert weights[5] > 0.9
    assert relevance[0, 0, 0, 0, 0].argmax() == 5
    assert row["truth"]["deletion"] < row["truth"]["deletion_at_random"] < row["truth"]["insertion_at_random"] + 2
    assert row["truth"]["slices_in_effect"] < 1.3
    assert left_out(net, net.features(x), ONE)[0].argmax() == 5
