"""Attention rollout: the product of dense matrices, computed slowly from captured attention, in every form of attention."""

import math

import pytest
import torch
from torch import Tensor, nn
from worlds import STYLES, Transformer, image, relative

from radiolucent import BadInput, Contrast, Logits, Region
from radiolucent.hooks import attending, flowing
from radiolucent.methods import AttentionRollout, GradientRollout

both_axes = pytest.mark.parametrize("axes", [2, 3])


class Captured:
    """A Transformer of style "explicit" run once, with its attention matrices (b, heads, n, n) and their gradients."""

    def __init__(self, net: Transformer, x: Tensor, score) -> None:
        kept: list[Tensor] = []

        def keep(module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
            kept.append(args[0].requires_grad_() if not args[0].requires_grad else args[0])
            return kept[-1].clone()

        handles = [block.attn.drop.register_forward_hook(keep) for block in net.blocks]
        S = score(net.requires_grad_(False)(x))
        self.matrices = [A.detach() for A in kept]
        self.gradients = torch.autograd.grad(S, kept)
        for handle in handles:
            handle.remove()


def plain_layers(weights: list[Tensor]) -> Tensor:
    """prod_l (A_l + I) / 2 with the heads averaged, the last block on the left."""
    product = torch.eye(weights[0].shape[-1])
    for A in weights:
        product = (A.mean(1) + torch.eye(A.shape[-1])) / 2 @ product
    return product


def same_weights(net: Transformer, style: str, axes: int, **settings) -> Transformer:
    other = Transformer(axes, style=style, **settings).eval()
    other.load_state_dict(net.state_dict())
    return other


@both_axes
@pytest.mark.parametrize("style", STYLES[:3])
@pytest.mark.parametrize("class_token", [True, False])
def test_rollout_is_the_product_of_the_attention_matrices(axes: int, style: str, class_token: bool) -> None:
    net, x = Transformer(axes, class_token=class_token).eval(), image(axes, size=8)
    seen = Captured(net, x, lambda output: output[:, 1].sum())
    other = same_weights(net, style, axes, class_token=class_token)
    cells = tuple(n // 2 for n in x.shape[2:])
    for method, weights in {
        AttentionRollout(): seen.matrices,
        GradientRollout(): [(A * g).relu() for A, g in zip(seen.matrices, seen.gradients, strict=True)],
    }.items():
        product = plain_layers(weights)
        rows = product[:, 0, 1:] if class_token else product.mean(1)
        found = method(other, x, Logits(1))
        assert found.shape == (1, 2, 1, *cells)
        assert relative(found[0, :, 0], rows.unflatten(1, cells)) <= 1e-5
    assert rows.std() > 0


@both_axes
def test_a_region_is_read_from_the_tokens_under_it(axes: int) -> None:
    net, x = Transformer(axes, segments=True).eval(), image(axes, size=8)
    cells = tuple(n // 2 for n in x.shape[2:])
    coarse = torch.rand(2, *cells) > 0.7
    mask = coarse
    for axis in range(1, axes + 1):
        mask = mask.repeat_interleave(2, axis)
    seen = Captured(net, x, lambda output: output[:, 1][mask].sum())
    rows = coarse.flatten(1).float() / coarse.flatten(1).sum(1, keepdim=True)
    truth = torch.einsum("bi,bij->bj", rows, plain_layers(seen.matrices)).unflatten(1, cells)
    found = AttentionRollout()(net, x, Region(1, mask=mask))
    assert relative(found[0, :, 0], truth) <= 1e-5
    assert torch.allclose(found.flatten(1).sum(1), torch.tensor(2.0))  # 1 for each batch item
    weights = [(A * g).relu() for A, g in zip(seen.matrices, seen.gradients, strict=True)]
    truth = torch.einsum("bi,bij->bj", rows, plain_layers(weights)).unflatten(1, cells)
    assert relative(GradientRollout()(net, x, Region(1, mask=mask))[0, :, 0], truth) <= 1e-5


def test_rollout_is_blind_to_classes_and_its_gradient_form_is_not() -> None:
    net, x = Transformer(2).eval(), image(2, size=8)
    same, other = AttentionRollout()(net, x, Logits(0, 2))
    assert torch.equal(same, other)
    assert torch.allclose(AttentionRollout()(net, x, Contrast(1, 0))[0], same, atol=1e-7)
    zero, two = GradientRollout()(net, x, Logits(0, 2))
    assert relative(zero, two) > 1e-3


@both_axes
def test_pytorchs_own_encoder_layers_do_not_hide_their_attention(axes: int) -> None:
    net, x = Transformer(axes, style="encoder layer").eval(), image(axes, size=8)
    h = net.patches(x).flatten(2).transpose(1, 2)
    h = torch.cat([net.token.expand(2, -1, -1), h], 1)
    product = torch.eye(h.shape[1])
    for block in net.blocks:
        A = block.self_attn(h, h, h)[1]  # averaged over the heads
        product = (A.detach() + torch.eye(h.shape[1])) / 2 @ product
        h = block(h)
    truth = product[:, 0, 1:].unflatten(1, tuple(n // 2 for n in x.shape[2:]))
    assert relative(AttentionRollout()(net, x, Logits(0))[0, :, 0], truth) <= 1e-5
    assert GradientRollout()(net, x, Logits(0)).std() > 0


def dense_attention(weights: Tensor, cells: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...]) -> Tensor:
    """Windows' attention (b * windows, heads, n, n) as one (b, N, N) matrix over all cells, padded ones left out."""
    padded = tuple(math.ceil(c / w) * w for c, w in zip(cells, window, strict=True))
    ids = torch.full(padded, -1)
    ids[tuple(slice(c) for c in cells)] = torch.arange(math.prod(cells)).reshape(cells)
    ids = ids.roll([-s for s in shift], tuple(range(len(cells))))
    windows = [ids]
    for axis, w in enumerate(window):
        windows = [part for block in windows for part in block.split(w, axis)]
    batch = len(weights) // len(windows)
    dense = torch.zeros(batch, math.prod(cells), math.prod(cells))
    for b in range(batch):
        for number, block in enumerate(windows):
            A = weights[b * len(windows) + number].mean(0)
            for i, query in enumerate(block.flatten().tolist()):
                for j, key in enumerate(block.flatten().tolist()):
                    if query >= 0 and key >= 0:
                        dense[b, query, key] += A[i, j]
    return dense


def merging(cells: tuple[int, ...]) -> Tensor:
    """(parents, cells): each parent is a mean of its 2^d children, of which padded ones are nothing."""
    parents = tuple(math.ceil(c / 2) for c in cells)
    matrix = torch.zeros(math.prod(parents), math.prod(cells))
    for cell in range(math.prod(cells)):
        place = torch.unravel_index(torch.tensor(cell), cells)
        parent = 0
        for p, size in zip(place, parents, strict=True):
            parent = parent * size + int(p) // 2
        matrix[parent, cell] = 0.5 ** len(cells)
    return matrix


@pytest.mark.parametrize("grid", [(14, 20), (8, 12, 10)], ids=str)
def test_rollout_through_shifted_windows_and_merged_patches(grid: tuple[int, ...]) -> None:
    pytest.importorskip("einops")
    from monai.networks.nets.swin_unetr import PatchMerging, SwinTransformer

    axes, window = len(grid), (3,) * len(grid)
    swin = SwinTransformer(
        1, 4, window, (2,) * axes, (2, 2, 1, 1), (2, 2, 2, 2), spatial_dims=axes, downsample=PatchMerging
    ).requires_grad_(False)

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.swin, self.head = swin, nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.swin(x)[2].flatten(2).mean(2))  # after two stages

    net, x = Classifier().eval(), torch.rand(2, 1, *grid)
    for name, weight in net.named_parameters():
        weight.requires_grad_(False).mul_(6 if "qkv" in name or "bias_table" in name else 1)
    kept: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        kept.append(output if output.requires_grad else output.requires_grad_())
        return kept[-1].clone()

    handles = [m.register_forward_hook(keep) for m in net.modules() if isinstance(m, nn.Softmax)]
    score = net(x)[:, 1].sum()
    gradients = torch.autograd.grad(score, kept[:4])
    for handle in handles:
        handle.remove()
    weighted = [(A * g).relu() for A, g in zip(kept, gradients, strict=False)]
    for method, weights in {AttentionRollout(): [A.detach() for A in kept[:4]], GradientRollout(): weighted}.items():
        cells = tuple(n // 2 for n in grid)
        product = torch.eye(math.prod(cells)).expand(2, -1, -1)
        for stage in (0, 1):
            for block in (0, 1):
                fits = [c <= w for c, w in zip(cells, window, strict=True)]
                used = tuple(c if fit else w for c, w, fit in zip(cells, window, fits, strict=True))
                shift = tuple(0 if fit or not block else w // 2 for w, fit in zip(window, fits, strict=True))
                A = dense_attention(weights[2 * stage + block].detach(), cells, used, shift)
                product = (A + torch.eye(A.shape[-1])) / 2 @ product
            product = merging(cells) @ product
            cells = tuple(math.ceil(c / 2) for c in cells)
        truth = product.mean(1).unflatten(1, tuple(n // 2 for n in grid))
        assert relative(method(net, x, Logits(1))[0, :, 0], truth) <= 1e-5


@pytest.mark.parametrize("name", ["UNETR", "SwinUNETR"])
def test_segmenters_with_a_decoder_read_from_where_the_region_is(name: str) -> None:
    pytest.importorskip("einops")
    from monai.networks import nets

    if name == "UNETR":
        net = nets.UNETR(1, 2, (64, 32), feature_size=4, hidden_size=8, mlp_dim=8, num_heads=2, spatial_dims=2).eval()
    else:
        net = nets.SwinUNETR(
            1, 2, feature_size=12, spatial_dims=2, depths=(2, 1, 1, 1), num_heads=(1, 1, 1, 1), window_size=4
        ).eval()
    mask = torch.zeros(2, 1, 64, 32, dtype=torch.bool)
    mask[0, :, 4:12], mask[1, :, 52:60] = True, True
    x = torch.rand(1, 1, 64, 32)
    for method in (AttentionRollout(), GradientRollout()):
        top, bottom = (method(net, x, Region(1, mask=m))[0, 0, 0] for m in mask)
        assert top.shape == ((4, 2) if name == "UNETR" else (32, 16))
        assert top.min() >= 0
        assert top.sum() <= 1 + 1e-5
        half = len(top) // 2
        assert top[:half].sum() > top[half:].sum()
        assert bottom[half:].sum() > bottom[:half].sum()


def test_the_tokens_layer_can_be_named() -> None:
    net, x = Transformer(2).eval(), image(2, size=8)
    assert torch.equal(AttentionRollout("patches")(net, x, Logits(0)), AttentionRollout()(net, x, Logits(0)))
    later = AttentionRollout("blocks.0")(net, x, Logits(0))
    seen = Captured(net, x, lambda output: output[:, 0].sum())
    truth = plain_layers(seen.matrices[1:])[:, 0, 1:].unflatten(1, (4, 6))
    assert relative(later[0, :, 0], truth) <= 1e-5
    with pytest.raises(BadInput, match="the name of a layer; got 'patch'"):
        AttentionRollout("patch")(net, x, Logits(0))


def test_the_flow_loses_and_gains_nothing_on_its_way() -> None:
    """Every mean of ones is one: what a mixed network does between tokens and output."""

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1, groups=1), nn.BatchNorm2d(4)
            self.down, self.up = nn.Conv2d(4, 8, 2, 2, groups=4), nn.ConvTranspose2d(8, 4, 3, 2, 1, 1)
            self.weight, self.gate, self.head = nn.Parameter(torch.randn(4, 4)), nn.Linear(4, 4), nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = self.norm(self.conv(x)).relu_()
            h = h * self.gate(h.flatten(2).mean(2)).sigmoid()[:, :, None, None]  # squeeze and excitation
            low = torch.nn.functional.gelu(self.down(h))
            h = torch.cat([h, self.up(low)], 1)
            u = h.mean(1, keepdim=True)
            h = (h - u) / ((h - u) ** 2).mean(1, keepdim=True).sqrt()  # a norm by hand
            rows = h[:, :4].flatten(2).mT @ self.weight
            h[:, :4] += rows.mT.unflatten(2, h.shape[2:])
            return self.head(h).flatten(2).sum(2)

    x = torch.rand(2, 3, 6, 8).requires_grad_()
    net = Mixed().eval().requires_grad_(False)
    with flowing([]):
        assert not torch.zeros_like(x).requires_grad  # made of nothing, so it carries nothing
        output = net(x)
    (relevance,) = torch.autograd.grad(output[:, 0].sum(), x)
    assert torch.allclose(relevance.flatten(1).sum(1), torch.ones(2))
    assert relevance.min() > 0
    ones = torch.ones_like(x).requires_grad_()
    with flowing([]):
        ones = net(ones)
    assert torch.allclose(ones, torch.ones(2, 2))


@pytest.mark.parametrize("case", ["plain", "causal", "boolean mask", "added mask", "scale", "grouped"])
def test_each_option_of_pytorchs_attention_is_kept_exactly(case: str) -> None:
    q, k, v = torch.rand(3, 2, 4, 5, 6).unbind()
    options = {
        "plain": {},
        "causal": {"is_causal": True},
        "boolean mask": {"attn_mask": torch.rand(2, 4, 5, 5) > 0.3},
        "added mask": {"attn_mask": torch.randn(5, 5)},
        "scale": {"scale": 0.3},
        "grouped": {"enable_gqa": True},
    }[case]
    if case == "grouped":
        k, v = k[:, :2], v[:, :2]
    truth = nn.functional.scaled_dot_product_attention(q, k, v, **options)
    with attending(nn.Identity(), q) as seen:
        found = nn.functional.scaled_dot_product_attention(q, k, v, **options)
    assert relative(found.detach(), truth) <= 1e-5
    assert seen.matrices[0].shape == (2, 4, 5, 5)


def test_multihead_attention_with_keys_of_its_own_and_without_a_batch() -> None:
    x = torch.rand(5, 8)
    attention = nn.MultiheadAttention(8, 2, add_bias_kv=True, add_zero_attn=True).requires_grad_(False)
    with attending(attention, x[None]) as seen:
        attention(x, x, x)
    carried = x.clone().requires_grad_()
    with flowing([A.detach() for A in seen.matrices]):
        result = attention(carried, carried, carried)[0]
    (relevance,) = torch.autograd.grad(result[2].mean(), carried)
    truth = attention(x, x, x)[1][2, :5]  # the two keys that it adds keep their share
    assert relative(relevance.sum(1), truth) <= 1e-5
    assert truth.sum() < 0.99


def test_the_flow_follows_what_is_written_in_place_and_not_the_logits() -> None:
    x = torch.rand(2, 4, 3).requires_grad_()
    with flowing([]):
        y = x.clone()
        y.relu_()  # whose result is not used
        z = y.transpose(1, 2).clone()
        y.add_(z.transpose(1, 2))
        logits = y @ z
    assert not logits.requires_grad
    (relevance,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(relevance, torch.ones_like(x))


def test_another_path_in_the_second_run_is_refused() -> None:
    class Fickle(Transformer):
        def forward(self, x: Tensor) -> Tensor:
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls == 2:
                self.blocks = nn.ModuleList([*self.blocks, self.blocks[0]])
            return super().forward(x)

    for style in STYLES[:3]:
        with pytest.raises(BadInput, match="the same attention in each run of the model"):
            AttentionRollout("patches")(Fickle(2, style=style).eval(), image(2, size=8), Logits(0))


def test_networks_that_have_no_attention_to_roll_out_are_refused() -> None:
    from worlds import ConvNet

    for method in (AttentionRollout(), GradientRollout()):
        with pytest.raises(BadInput, match=r"a network with attention: a softmax over keys.*got none ran.*CAM"):
            method(ConvNet(2), image(2), Logits(0))


@pytest.mark.parametrize("style", STYLES)
def test_a_checkpointed_transformer_is_right_or_refused(style: str) -> None:
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(Transformer):
        def forward(self, x: Tensor) -> Tensor:
            h = self.patches(x).flatten(2).transpose(1, 2)
            for block in self.blocks:
                h = checkpoint(block, h, use_reentrant=False)
            return self.head(self.norm(h).mean(1))

    net, x = Checkpointed(2, style=style, class_token=False).eval(), image(2, size=8)
    for method in (AttentionRollout(), GradientRollout()):
        with pytest.raises(BadInput, match=r"torch.utils.checkpoint, whose second run does not see this method's change"):
            method(net, x, Logits(0))
