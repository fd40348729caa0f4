"""2.5D models: slices through a 2D encoder, poolings, masks, chunks, cached features, and a planted slice to be found."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_model
from torch import Tensor, nn
from torch.nn import functional as F
from worlds import Mean, classifier, relative

from radiolucent import BadInput, load
from radiolucent.models import SliceModel
from radiolucent.models.slices import POOLINGS, build_encoder, slice_mask
from radiolucent.models.slices.poolings import AttentionPooling, GatedAttentionPooling

GRID = (6, 9, 7)
SMALL = {"attention": {"heads": 2}, "transformer": {"heads": 2, "layers": 1, "hidden": 12}, "lstm": {"hidden": 5}}
every_pooling = pytest.mark.parametrize("pooling", POOLINGS)


def small(pooling: str = "attention", **settings: object) -> SliceModel:
    torch.manual_seed(2)
    model = SliceModel(classifier(2), pooling, pooling_arguments=SMALL.get(pooling, {}), **settings)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.uniform_(0.3, 0.9)
        model.encoder[5].weight.mul_(6)  # features that are not all nearly 0
        model.encoder[5].bias.uniform_(-0.3, 1.0)
    return model


def volumes(batch: int = 2, channels: int = 1) -> Tensor:
    return torch.rand(batch, channels, *GRID, generator=torch.Generator().manual_seed(1))


def test_the_features_are_those_of_each_slice_in_the_order_of_the_axes() -> None:
    model, x = small().eval(), volumes()
    before = classifier(2)
    before.load_state_dict({**before.state_dict(), **model.encoder.state_dict()})
    encoder = nn.Sequential(*before[:-1]).eval()
    each = [encoder(x[:, :, s]) for s in range(6)] + [encoder(x[:, :, :, s]) for s in range(9)]
    each += [encoder(x[..., s]) for s in range(7)]
    torch.testing.assert_close(model.features(x), torch.stack(each, 1))
    only = small(axes=("k", "i")).eval()
    torch.testing.assert_close(only.features(x), torch.stack(each[15:] + each[:6], 1))
    assert torch.equal(model(x), model.from_features(model.features(x)))


def test_attention_pooling_is_pytorch_s_own_with_the_mean_as_the_query() -> None:
    pooling, features = AttentionPooling(8, heads=2), torch.randn(3, 11, 8)
    mask = torch.rand(3, 11) > 0.4
    kept: list[Tensor] = []
    pooling.weights.register_forward_hook(lambda m, a, output: kept.append(output))
    for here in (None, mask):
        query = torch.stack([f[m].mean(0) for f, m in zip(features, mask if here is not None else mask | True, strict=True)])
        hidden = None if here is None else ~here
        truth, weights = pooling.attention(query[:, None], features, features, hidden, average_attn_weights=False)
        torch.testing.assert_close(pooling(features, here), truth[:, 0])
        torch.testing.assert_close(kept[-1], weights[:, :, 0])


def test_gated_attention_by_hand() -> None:
    pooling, h = GatedAttentionPooling(4, hidden=3), torch.randn(1, 5, 4)
    V, U, w = pooling.signal, pooling.gate, pooling.score
    scores = [w(torch.tanh(V(h[0, s])) * torch.sigmoid(U(h[0, s]))) for s in range(5)]
    a = torch.cat(scores).exp() / torch.cat(scores).exp().sum()
    torch.testing.assert_close(pooling(h)[0], sum(a[s] * h[0, s] for s in range(5)))


@every_pooling
def test_padded_slices_have_no_weight_and_change_nothing(pooling: str) -> None:
    """Slices across k beyond 5 are padding for the first volume: whatever they hold, the output is that of 5 slices."""
    model, x = small(pooling, axes=("k",)).eval(), volumes()
    mask = slice_mask(torch.tensor([[6, 9, 5], [6, 9, 7]]), GRID, ("k",))
    assert mask.tolist() == [[True] * 5 + [False] * 2, [True] * 7]
    output = model(x, mask)
    x[0, ..., 5:] = torch.nan
    assert torch.equal(model(x, mask), output)
    torch.testing.assert_close(output[:1], model(x[:1, ..., :5]))
    torch.testing.assert_close(output[1:], model(x[1:]))
    if pooling in ("attention", "gated"):
        weights: list[Tensor] = []
        model.pooling.weights.register_forward_hook(lambda m, a, w: weights.append(w))
        model(x, mask)
        assert not weights[0][0, :, 5:].any()
        torch.testing.assert_close(weights[0].sum(-1), torch.ones(2, weights[0].shape[1]))


def test_padding_in_the_middle_of_the_slices_of_three_axes() -> None:
    for pooling in POOLINGS:
        model = small(pooling).eval()
        features, mask = torch.randn(2, 22, 8), torch.rand(2, 22) > 0.5
        found = model.from_features(features, mask)
        for b in range(2):
            torch.testing.assert_close(found[b], model.from_features(features[b : b + 1, mask[b]])[0])


def test_a_mask_that_does_not_fit_is_refused() -> None:
    model, x = small(), volumes()
    for mask in (torch.ones(2, 21, dtype=torch.bool), torch.ones(2, 22), torch.zeros(2, 22, dtype=torch.bool)):
        with pytest.raises(BadInput, match=r"a slice mask of bool, shape \(2, 22\)"):
            model(x, mask)


def test_some_slices_stand_for_all_while_it_trains() -> None:
    model, x = small(draw=6).eval(), volumes()
    seen: list[int] = []
    model.encoder.register_forward_hook(lambda m, a, output: seen.append(len(output)))
    padded = slice_mask(torch.tensor([[6, 9, 5], [1, 1, 2]]), GRID)  # the second volume has four slices
    torch.testing.assert_close(model(x), small().eval()(x))
    weights: list[Tensor] = []
    model.pooling.weights.register_forward_hook(lambda m, a, w: weights.append(w))
    for mask, counts in ((None, [6, 6]), (padded, [6, 4])):
        seen.clear()
        output = model.train()(x, mask)
        used = weights[-1].detach().amax(1) > 0
        assert sum(seen) == sum(counts)
        assert used.sum(1).tolist() == counts
        assert mask is None or not (used & ~mask).any()
        again = model(x, mask)
        assert not torch.equal(weights[-1].amax(1) > 0, used)
        assert not torch.equal(again, output)


def test_some_slices_stand_for_all_also_where_the_features_are_there_already() -> None:
    """The pooling gets `draw` of the slices, each in its own place's order, and padding only where there is nothing else."""
    model, x = small(draw=6).eval(), volumes()
    padded = slice_mask(torch.tensor([[6, 9, 5], [1, 1, 2]]), GRID)
    features = model.features(x, padded)
    torch.testing.assert_close(model.from_features(features, padded), small().eval()(x, padded))
    given: list[tuple[Tensor, Tensor]] = []
    model.stack.register_forward_pre_hook(lambda m, a: given.append(a[0]))
    masks: list[Tensor] = []
    model.pooling.register_forward_pre_hook(lambda m, a: masks.append(a[1]))
    model.train().from_features(features, padded)
    model.from_features(features, padded)
    assert not torch.equal(given[0], given[1])
    assert masks[0].sum(1).tolist() == [6, 4]
    for volume in range(2):
        whole, some = (
            features[volume].tolist(),
            [row for row, there in zip(given[0][volume].tolist(), masks[0][volume], strict=True) if there],
        )
        places = [whole.index(row) for row in some]
        assert places == sorted(set(places))
        assert padded[volume][places].all()


@every_pooling
def test_chunks_change_nothing(pooling: str) -> None:
    whole, x = small(pooling).eval(), volumes()
    for chunk in (1, 4, 100):
        torch.testing.assert_close(small(pooling, chunk=chunk).eval()(x), whole(x), atol=1e-6, rtol=1e-6)


def test_checkpointing_gives_the_same_gradients_and_the_same_statistics() -> None:
    x = volumes()
    mask = slice_mask(torch.tensor([[6, 9, 5], [4, 9, 7]]), GRID)
    found = []
    for checkpoint in (False, True):
        model = small(chunk=5, checkpoint=checkpoint).train()
        torch.manual_seed(4)  # dropout
        model(x, mask).square().sum().backward()
        found.append({n: p.grad for n, p in model.named_parameters()} | {n: b.clone() for n, b in model.named_buffers()})
        assert int(model.encoder.get_submodule("1").num_batches_tracked) == 9  # 10, 18 and 12 slices in chunks of 5
    assert all(value is not None for value in found[0].values())
    for name in found[0]:
        torch.testing.assert_close(found[1][name], found[0][name], msg=name)


def test_checkpointing_keeps_less() -> None:
    """The bytes that the graph holds on to, by autograd's own account."""
    held = []
    for checkpoint in (False, True):
        model, total = small(chunk=5, checkpoint=checkpoint).train(), 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal total
            total += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(volumes()).sum()
        held.append(total)
    assert held[1] < held[0] / 5


def test_a_frozen_encoder_stays_as_it_is_in_training_so_that_features_can_be_kept() -> None:
    model, x = small(), volumes()
    model.encoder.requires_grad_(False)
    model.train()
    assert not model.encoder.training
    assert model.pooling.training
    kept = model.features(x)
    assert not kept.requires_grad
    assert torch.equal(model(x), model.from_features(kept))
    model.from_features(kept).sum().backward()
    assert all((p.grad is None) == name.startswith("encoder") for name, p in model.named_parameters())
    model.encoder.requires_grad_(True)
    assert model.train().encoder.training


@pytest.mark.parametrize("name", SliceModel.behind_features)
def test_features_do_not_depend_on_what_lies_behind_them(name: str) -> None:
    other: dict[str, dict[str, object]] = {"pooling": {"pooling": "max", "pooling_arguments": {}}}
    other |= {"pooling_arguments": {"pooling_arguments": {"heads": 1}}, "task": {"task": "regression"}}
    given = other.get(name, {name: 4})
    encoder = classifier(2)
    one, two = (SliceModel(encoder, **({"pooling_arguments": {"heads": 2}} | more)).eval() for more in ({}, given))
    assert torch.equal(one.features(volumes()), two.features(volumes()))


def test_grey_goes_into_all_channels_and_the_adapted_stem_says_the_same() -> None:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), Mean(), nn.Linear(4, 9))
    x = volumes()
    repeated, adapted = (SliceModel(encoder, "mean", stem=stem, axes=("k",)) for stem in ("repeat", "adapted"))
    torch.testing.assert_close(repeated.features(x)[:, 2], encoder[:3](x[..., 2].expand(-1, 3, -1, -1)))
    torch.testing.assert_close(adapted.features(x), repeated.features(x))
    assert adapted.encoder[0].weight.shape == (4, 1, 3, 3)
    assert encoder[0].weight.shape == (4, 3, 3, 3), "the caller's own network was changed"
    assert isinstance(encoder[3], nn.Linear)
    three = volumes(channels=3)
    colour = SliceModel(encoder, "mean", channels=3, axes=("k",))
    torch.testing.assert_close(colour.features(three)[:, 2], encoder[:3](three[..., 2]))
    with pytest.raises(BadInput, match=r"1 or 3 channels for this encoder; got 2.*adapted"):
        SliceModel(encoder, channels=2)
    four = SliceModel(encoder, "mean", channels=4, stem="adapted", axes=("k",))
    w = encoder[0].weight * 0.75
    same = F.conv2d(volumes(channels=4)[..., 2], torch.cat([w, w[:, :1]], 1), encoder[0].bias).relu().flatten(2).mean(-1)
    torch.testing.assert_close(four.features(volumes(channels=4))[:, 2], same)


def test_slices_are_resized_and_projected_where_that_is_asked_for() -> None:
    model, x = small(size=(12, 10), width=4, axes=("j",)).eval(), volumes()
    resized = F.interpolate(x[:, :, :, 3], (12, 10), mode="bilinear")
    torch.testing.assert_close(model.features(x)[:, 3], model.encoder(resized))
    assert model.pooling.width == model.head.in_features == 4
    assert model(x).shape == (2, 2)


def test_what_an_encoder_gives_is_found_by_running_it() -> None:
    maps = SliceModel(nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU()), "mean", axes=("i",))
    x = volumes()
    torch.testing.assert_close(maps.features(x)[:, 0], maps.encoder(x[:, :, 0]).mean((2, 3)))
    kept = SliceModel(classifier(2, 6), "mean", keep_head=True)
    assert (kept.encoder_width, small().encoder_width) == (6, 8)
    with pytest.raises(BadInput, match=r"features \(n, width\); got tuple"):
        SliceModel(Pair(), "mean")
    with pytest.raises(BadInput, match=r"an encoder that takes slices \(2, 1, 64, 64\).*Set `size`"):
        SliceModel(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 64, 3)), "mean")
    fixed = SliceModel(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 64, 3)), "mean", size=(10, 10))
    assert fixed(x).shape == (2, 2)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def test_a_build_leaves_random_numbers_and_batch_statistics_alone() -> None:
    encoder = classifier(2)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    model = SliceModel(encoder, "mean")
    for key, value in model.encoder.state_dict().items():
        assert torch.equal(value, before[key])


def test_a_regression_answers_in_its_own_unit_and_learns_in_its_spread() -> None:
    model, x = small(outputs=2, task="regression").eval(), volumes()
    plain = model(x)
    model.head.standardise(torch.tensor([[10.0, 300.0], [14.0, 400.0], [12.0, 800.0]]))
    torch.testing.assert_close(model(x), torch.tensor([12.0, 500.0]) + torch.tensor([2.0, 70000.0**0.5]) * plain)
    assert small(outputs=5, task="multi-label")(x).shape == (2, 5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pooling": "median"}, "a pooling among attention, gated, mean, max, lstm, transformer; got 'median'"),
        ({"axes": ("i", "x")}, "axes among i, j, k, each once"),
        ({"axes": "ijk"}, "axes among i, j, k, each once"),
        ({"axes": ("i", "i")}, "axes among i, j, k, each once"),
        ({"stem": "grey"}, "a stem among repeat, adapted"),
        ({"size": (3,)}, r"a size \(h, w\) of slices"),
        ({"task": "segmentation"}, "a task among classification, regression, multi-label"),
        ({"outputs": 0}, "outputs as a whole number above 0"),
        ({"channels": 0}, "channels above 0"),
        ({"chunk": -1}, "width, chunk and draw from 0"),
        ({"pooling_arguments": {"heads": 3}}, "heads that divide the features' width 8; got 3"),
        ({"pooling_arguments": {"head": 2}}, "arguments that the pooling attention takes"),
    ],
)
def test_settings_without_a_meaning_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        SliceModel(classifier(2), **settings)


def test_an_image_of_the_wrong_kind_is_refused_in_words() -> None:
    with pytest.raises(BadInput, match=r"volumes \(b, 1, i, j, k\); got shape \(2, 1, 6, 9\). A 2D image has no slices"):
        small()(torch.rand(2, 1, 6, 9))
    with pytest.raises(BadInput, match=r"volumes \(b, 1, i, j, k\); got shape \(2, 3, 6, 9, 7\)"):
        small()(volumes(channels=3))


@pytest.mark.parametrize("pooling", ["attention", "gated"])
def test_attention_finds_the_slice_that_decides(pooling: str) -> None:
    """All slices across k are a little brighter or darker than grey, one far more: it says which class, and gets the weight."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), Mean())
    model = SliceModel(encoder, pooling, axes=("k",), pooling_arguments={"heads": 2} if pooling == "attention" else {})
    optimiser = torch.optim.Adam(model.parameters(), 0.02)

    def batch(n: int) -> tuple[Tensor, Tensor, Tensor]:
        level, where = 0.4 * torch.randn(n, 9).sign(), torch.randint(0, 9, (n,))
        level[torch.arange(n), where] *= 4
        label = (level[torch.arange(n), where] > 0).long()
        return level[:, None, None, None] + 0.1 * torch.randn(n, 1, 6, 6, 9), label, where

    for _ in range(200):
        x, label, _ = batch(32)
        optimiser.zero_grad()
        F.cross_entropy(model(x), label).backward()
        optimiser.step()
    weights: list[Tensor] = []
    model.pooling.weights.register_forward_hook(lambda m, a, w: weights.append(w))
    x, label, where = batch(100)
    assert (model(x).argmax(1) == label).float().mean() > 0.95
    assert (weights[0].mean(1).argmax(1) == where).float().mean() > 0.95


@every_pooling
def test_a_card_names_it_without_trust(pooling: str, tmp_path: Path) -> None:
    pytest.importorskip("monai")
    arguments = {
        "encoder": "monai:ResNet",
        "encoder_arguments": {"block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": [4, 4, 8, 8]},
        "pooling": pooling,
        "pooling_arguments": SMALL.get(pooling, {}),
        "outputs": 3,
        "axes": ["k", "j"],
        "chunk": 4,
        "size": [32, 32],
    }
    model = SliceModel(**arguments).eval()
    save_model(model, str(tmp_path / "weights.safetensors"))
    card = {"name": "m", "task": "classification", "network": "radiolucent:SliceModel", "arguments": arguments}
    (tmp_path / "card.json").write_text(json.dumps(card | {"weights": "weights.safetensors", "classes": ["a", "b", "c"]}))
    loaded, _ = load(tmp_path)
    assert torch.equal(loaded(volumes()), model(volumes()))
    card["arguments"] = arguments | {"encoder_arguments": {"pretrained": True}}
    (tmp_path / "card.json").write_text(json.dumps(card | {"weights": "weights.safetensors"}))
    with pytest.raises(BadInput, match="arguments that fetch nothing; got pretrained = True"):
        load(tmp_path)


def test_an_encoder_by_name_comes_from_known_packages_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("os:getcwd", "resnet18", "monai:", "module:factory"):
        with pytest.raises(BadInput, match="an encoder as SOURCE:NAME with a source among monai, torchvision, timm"):
            build_encoder(name)
    with pytest.raises(BadInput, match="arguments that fetch nothing"):
        build_encoder("torchvision:resnet18", {"weights": "DEFAULT"})
    timm = ModuleType("timm")
    timm.list_models = lambda: ["tiny"]  # type: ignore[attr-defined]
    timm.create_model = lambda name, pretrained, num_classes: nn.Conv2d(3, 2 + num_classes, 1)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", timm)
    assert isinstance(build_encoder("timm:tiny"), nn.Conv2d)
    with pytest.raises(BadInput, match="a network of timm; got hf-hub:someone/model"):
        build_encoder("timm:hf-hub:someone/model")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(BadInput, match="timm, which this encoder comes from"):
        build_encoder("timm:tiny")
    with pytest.raises(BadInput, match=r"a network of monai\.networks\.nets; got nothing"):
        build_encoder("monai:nothing")


def test_features_of_slices_do_not_depend_on_the_rest_of_the_batch() -> None:
    model, x = small().eval(), volumes(3)
    with torch.no_grad():
        assert relative(model(x), torch.cat([model(x[i : i + 1]) for i in range(3)])) <= 1e-6
