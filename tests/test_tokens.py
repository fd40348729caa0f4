"""Tokens and channels-last layers get their grid back, and every first-order method works on them."""

import pytest
import torch
from torch import Tensor, nn
from worlds import STYLES, Transformer, image, relative

from radiolucent import BadInput, Logits, Region, layers
from radiolucent.hooks import last_layer
from radiolucent.hooks.tokens import Form, form
from radiolucent.methods import (
    AblationCAM,
    EigenCAM,
    EigenGradCAM,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    RespondCAM,
    SaliencyTubes,
    ScoreCAM,
)
from radiolucent.methods.eigen import first_component

IMAGE_2D, IMAGE_3D = (2, 1, 224, 224), (2, 1, 96, 96, 96)

FORMS = {
    # (shape, image, what it is made of): form
    ((2, 197, 768), IMAGE_2D, None): Form("tokens", (14, 14), 1),
    ((2, 196, 768), IMAGE_2D, None): Form("tokens", (14, 14)),
    ((2, 201, 768), IMAGE_2D, None): Form("tokens", (14, 14), 5),  # class and four registers
    ((1, 197, 1024), (1, 3, 224, 224), None): Form("tokens", (14, 14), 1),  # ViT-L: its width is a number of patches, too
    ((1, 257, 1024), (1, 3, 224, 224), None): Form("tokens", (16, 16), 1),
    ((1, 1025, 1024), (1, 3, 512, 512), None): Form("tokens", (32, 32), 1),
    ((1, 513, 512), (1, 1, 128, 128, 128), None): Form("tokens", (8, 8, 8), 1),
    ((2, 50, 768), IMAGE_2D, None): Form("tokens", (7, 7), 1),
    ((2, 216, 768), IMAGE_3D, None): Form("tokens", (6, 6, 6)),
    ((2, 217, 768), IMAGE_3D, None): Form("tokens", (6, 6, 6), 1),
    ((2, 768, 216), IMAGE_3D, None): Form("tokens last", (6, 6, 6)),
    ((2, 288, 64), (2, 1, 96, 192, 64), None): Form("tokens", (6, 12, 4)),
    ((2, 72, 64), (2, 1, 96, 60), None): Form("tokens", (12, 6)),  # no equal patches: 8 x 10 is nearest
    ((2, 169, 64), (2, 1, 31, 31), None): None,  # no patch size gives 13 x 13 cells
    ((2, 9, 64), (2, 1, 31, 31), None): Form("tokens", (3, 3)),  # patches of 10 and a rest of 1
    ((2, 48, 48, 24), (2, 1, 96, 96), None): Form("channels last", (48, 48)),
    ((2, 48, 48, 48), (2, 1, 96, 96), None): Form("channels first", (48, 48)),
    ((2, 48, 48, 48), (2, 1, 96, 96), True): Form("channels last", (48, 48)),
    ((2, 48, 48, 24), (2, 1, 96, 96), False): Form("channels first", (48, 24)),
    ((2, 48, 48, 48, 48), IMAGE_3D, None): Form("channels first", (48, 48, 48)),
    ((2, 24, 24, 24, 96), IMAGE_3D, None): Form("channels last", (24, 24, 24)),
    ((2, 96, 24, 24, 24), IMAGE_3D, True): Form("channels first", (24, 24, 24)),
    ((2, 2, 2, 96), (2, 1, 12, 16), None): Form("channels last", (2, 2)),  # padded patch merging
    ((2, 64, 20, 64, 64), (2, 1, 20, 256, 256), None): Form("channels first", (20, 64, 64)),  # strides 1, 4, 4
    ((2, 320, 5, 8, 8), (2, 1, 20, 256, 256), None): Form("channels first", (5, 8, 8)),
    ((2, 8, 24, 32), (2, 1, 12, 16), None): Form("channels first", (24, 32)),  # finer than the image
    ((2, 8, 1, 1), (2, 1, 12, 16), None): None,
    ((2, 8), IMAGE_2D, None): None,
    ((16, 49, 24), IMAGE_2D, None): None,  # windows folded into the batch
    ((2, 100, 256), (2, 1, 37, 41), None): None,
    ((2, 5, 7), (2, 1, 9), None): Form("channels first", (7,)),
}


@pytest.mark.parametrize(("shape", "image", "last"), FORMS, ids=str)
def test_the_form_of_a_shape(shape, image, last) -> None:
    assert form(shape, image, last) == FORMS[shape, image, last]


def test_tokens_that_fit_in_two_ways_are_refused() -> None:
    with pytest.raises(BadInput, match=r"may be .*6 x 6 x 6.* cells"):
        form((2, 216, 64), (2, 1, 96, 96, 48))


@pytest.mark.parametrize("cells", [(3, 4), (2, 3, 4)], ids=str)
def test_restoring_puts_each_token_in_its_cell(cells) -> None:
    truth = torch.rand(2, 5, *cells)
    rows = truth.flatten(2).transpose(1, 2)
    front = torch.full((2, 3, 5), 9.0)
    for kind, values in {
        "channels first": truth,
        "channels last": truth.movedim(1, -1),
        "tokens": torch.cat([front, rows], 1),
        "tokens last": torch.cat([front, rows], 1).transpose(1, 2),
    }.items():
        extra = 3 if "tokens" in kind else 0
        assert torch.equal(Form(kind, cells, extra).restore(values), truth)


def test_the_layers_of_a_vit_and_where_auto_stands() -> None:
    net, x = Transformer(2), image(2, size=8)
    found = {layer.name: layer for layer in layers(net, x)}
    assert found["patches"].form == Form("channels first", (4, 6))
    assert found["blocks.1"].form == Form("tokens", (4, 6), 1)
    assert found["blocks.1"].cells == (4, 6)
    assert not found["blocks.1.attn.drop"].is_spatial  # (b, heads, 25, 25): an attention matrix
    assert not found["head"].is_spatial
    # Behind the last attention only the class token is read: there is no gradient at the cells.
    assert last_layer(list(found.values())) == "blocks.1.norm1"
    assert GradCAM()(net, x, Logits(0, 1)).flatten(2).any(2).all()
    pooled = Transformer(2, class_token=False)
    assert last_layer(layers(pooled, x)) == "norm"


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("style", STYLES)
def test_cams_on_tokens_are_cams_on_the_same_features_with_a_grid(axes: int, style: str) -> None:
    net, x = Transformer(axes, style=style).eval(), image(axes, size=8)
    cells = tuple(n // 2 for n in x.shape[2:])
    kept: list[Tensor] = []
    with net.blocks[0].register_forward_hook(lambda module, args, output: kept.append(output.requires_grad_())):
        scores = net.requires_grad_(False)(x)
    gradients = [torch.autograd.grad(scores[:, t].sum(), kept, retain_graph=True)[0] for t in range(4)]
    A, *gradients = (v.detach()[:, 1:].transpose(1, 2).unflatten(2, cells) for v in (kept[0], *gradients))
    for method in (GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, RespondCAM, SaliencyTubes, EigenGradCAM):
        truth = torch.stack([method().combine(A, g) for g in gradients])
        assert relative(method("blocks.0")(net, x, Logits(0, 1, 2, 3)), truth) <= 1e-4
    assert relative(EigenCAM("blocks.0")(net, x, Logits(2))[0], first_component(A)) <= 1e-4


def test_channels_last_layers_of_a_swin_have_the_grid_of_the_image() -> None:
    pytest.importorskip("einops")
    from monai.networks.nets import SwinUNETR

    net = SwinUNETR(1, 2, feature_size=12, spatial_dims=2, depths=(2, 1, 1, 1), num_heads=(2, 2, 2, 2), window_size=3).eval()
    x = torch.rand(1, 1, 32, 64)
    found = {layer.name: layer.form for layer in layers(net, x)}
    stage = "swinViT.layers1.0"
    assert found[f"{stage}.blocks.1"] == Form("channels last", (16, 32))
    assert found[f"{stage}.downsample"] == Form("channels last", (8, 16))
    assert found[stage] == Form("channels first", (8, 16))
    assert found[f"{stage}.blocks.0.attn"] is None
    target = Region(1, mask=torch.ones(1, 32, 64, dtype=torch.bool))
    last, first = (HiResCAM(name)(net, x, target) for name in (f"{stage}.downsample", stage))
    assert relative(last, first) <= 1e-5  # the same features, once with the channels last


def test_slices_of_a_volume_are_no_tokens() -> None:
    class Slices(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.mix, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.conv(x.transpose(1, 2).flatten(0, 1)).mean((2, 3))
            return self.head(self.mix(h.unflatten(0, (len(x), -1))).mean(1))

    x = torch.rand(1, 1, 8, 8, 8)  # 8 slices could pass for 2 x 2 x 2 tokens
    assert not any(layer.is_spatial for layer in layers(Slices(), x))
    with pytest.raises(BadInput, match="a grid of 3 axes and several cells at layer 'mix'"):
        GradCAM("mix")(Slices(), x, Logits(0))


def test_score_cam_and_ablation_cam_on_tokens_are_those_of_a_network_that_keeps_the_grid() -> None:
    """A network of patches and linear layers, once with rows of tokens and once with 1x1 convolutions."""

    class Rows(nn.Module):
        def __init__(self, in_rows: bool) -> None:
            super().__init__()
            self.patches, self.in_rows = nn.Conv2d(1, 4, 2, stride=2), in_rows
            self.mix = nn.Linear(4, 5) if in_rows else nn.Conv2d(4, 5, 1)
            self.head = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.patches(x).relu()
            h = self.mix(h.flatten(2).transpose(1, 2)).mT if self.in_rows else self.mix(h).flatten(2)
            return self.head((h.relu() ** 2).mean(2))

    x, rows, grid = image(2, size=8), Rows(True).eval(), Rows(False).eval()
    grid.load_state_dict({k: v[..., None, None] if k == "mix.weight" else v for k, v in rows.state_dict().items()})
    for method in (ScoreCAM("mix", relu=False), AblationCAM("mix", relu=False)):
        assert relative(method(rows, x, Logits(0, 2)), method(grid, x, Logits(0, 2))) <= 1e-4


def test_a_stage_of_token_layers_that_gives_its_channels_first_again_is_read_so() -> None:
    """Like a stage of a Swin: linear layers only inside, (b, c, *cells) outside, and as many channels as cells along an axis."""

    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x.movedim(1, -1)).movedim(-1, 1)

    net = nn.Sequential(nn.Conv2d(1, 3, 2, stride=2), Stage(), nn.Flatten(), nn.Linear(216, 2))
    found = {layer.name: layer.form for layer in layers(net, torch.rand(2, 1, 12, 12))}
    assert found["1"] == Form("channels first", (6, 6))
    assert found["1.linear"] == Form("channels last", (6, 6))


def test_inside_a_convnext_block_the_layer_before_tells() -> None:
    """Convolution, channels to the back, norm, dense, GELU, dense, channels to the front."""

    class Permute(nn.Module):
        def __init__(self, *axes: int) -> None:
            super().__init__()
            self.axes = axes

        def forward(self, x: Tensor) -> Tensor:
            return x.permute(*self.axes)

    block = nn.Sequential(
        nn.Conv2d(24, 24, 3, padding=1), Permute(0, 2, 3, 1), nn.LayerNorm(24), nn.Linear(24, 96), nn.GELU(), nn.Linear(96, 24),
        Permute(0, 3, 1, 2),
    )  # fmt: skip
    net = nn.Sequential(nn.Conv2d(1, 24, 4, 4), block, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    found = {layer.name: layer.form for layer in layers(net, torch.rand(1, 1, 64, 64)) if layer.form}
    assert found["1.4"] == Form("channels last", (16, 16))
    assert found["1.3"] == Form("channels last", (16, 16))
    assert found["1.6"] == Form("channels first", (16, 16))


def test_a_pool_behind_convolutions_is_no_channels_last_layer() -> None:
    net = nn.Sequential(nn.Conv2d(1, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d((1, 2)), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    found = {layer.name: layer.form for layer in layers(net.eval(), torch.rand(1, 1, 64, 64)) if layer.form}
    assert found["2"] == Form("channels first", (64, 32))
