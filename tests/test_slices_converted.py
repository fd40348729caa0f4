"""A 2D network's weights in 3D: plain, ACS and 2.5D convolutions, what they share with 2D, and the paper's Table 2."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from worlds import Mean, classifier

from radiolucent import BadInput
from radiolucent.models import SliceModel, VolumeModel, load_encoder
from radiolucent.models.slices import KINDS, convert
from radiolucent.models.slices.converted import InPlanes


def encoder() -> nn.Sequential:
    torch.manual_seed(5)
    pool = nn.MaxPool2d(3, 2, 1)
    return nn.Sequential(
        nn.Conv2d(3, 7, 5, 2, 2),
        nn.BatchNorm2d(7),
        nn.ReLU(),
        pool,
        nn.Conv2d(7, 6, 3, padding=1, bias=False),
        Mean(),
        nn.Linear(6, 4),
    )


class Padded(nn.Conv2d):
    """TensorFlow's padding, as EfficientNets have it."""

    def __init__(self, *settings: int, groups: int = 1) -> None:
        super().__init__(*settings, groups=groups)
        self.static_padding = nn.ZeroPad2d((0, 1, 0, 1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.static_padding(x))


@pytest.mark.parametrize(
    "flat",
    [
        lambda: nn.Conv2d(4, 7, 3, 1, 1),
        lambda: nn.Conv2d(4, 6, 5, 2, 2, bias=False),
        lambda: nn.Conv2d(4, 6, 3, 1, 2, dilation=2),
        lambda: nn.Conv2d(4, 6, 1, 2),
        lambda: nn.Conv2d(4, 6, 3, 1, 0),
        lambda: nn.Conv2d(4, 6, 2, 2),
        lambda: nn.Conv2d(4, 6, 3, padding="same"),
        lambda: nn.Conv2d(4, 8, 3, 2, 1, groups=4),
        lambda: nn.Conv2d(4, 8, 3, 1, 1, groups=2),
        lambda: Padded(4, 6, 3, 2),
        lambda: Padded(4, 4, 3, 2, groups=4),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_on_what_does_not_vary_along_an_axis_a_kernel_is_its_2d_self(flat, kind: str) -> None:
    """Along the first axis: all of a repeated kernel, and the kernels across that axis; ACS likewise for each axis."""
    torch.manual_seed(0)
    conv = flat()
    wide = KINDS[kind](conv)
    x = torch.randn(2, 4, 13, 13)
    truth = conv(x)
    for axis in range(3):
        found = wide(x.unsqueeze(axis + 2).expand(*x.shape[: axis + 2], 13, *x.shape[axis + 2 :]))
        assert len(set(found.shape[2:])) == 1
        assert found.shape[2] == truth.shape[2]
        middle = found.select(axis + 2, found.shape[2] // 2)
        if kind == "3d" and axis == 0:
            torch.testing.assert_close(middle, truth)
        if kind == "acs":
            units = conv.groups if conv.groups > 1 else conv.out_channels
            ends = [round(units * n / 3) * conv.out_channels // units for n in range(4)]
            own = slice(ends[axis], ends[axis + 1])
            torch.testing.assert_close(middle[:, own], truth[:, own])
    if kind == "2.5d":
        shown = torch.randn(2, 4, 13, 13, 13)
        found = wide(shown)
        first = _middle(conv)
        for s in range(found.shape[2]):
            torch.testing.assert_close(
                found[:, :, s], conv(F.pad(shown, (0, 0, 0, 0, 20, 20))[:, :, 20 + first + s * conv.stride[0]])
            )


def _middle(conv: nn.Conv2d) -> int:
    """The slice that the middle of the first kernel along the new axis meets."""
    reach = conv.dilation[0] * (conv.kernel_size[0] - 1)
    before = 0 if isinstance(conv, Padded) else reach // 2 if conv.padding == "same" else int(conv.padding[0])
    return reach // 2 - before


def test_a_repeated_kernel_starts_as_no_3d_network_s_own_does() -> None:
    """Its layers are equal and a third in size, so `kind="3d"` with random weights is not what a 3D ResNet starts as."""
    torch.manual_seed(0)
    flat = nn.Conv2d(8, 8, 3)
    wide = convert(nn.Sequential(flat), "3d")[0].weight
    assert torch.equal(wide, (flat.weight / 3).unsqueeze(2).expand(-1, -1, 3, -1, -1))
    assert wide.std() < 0.7 * nn.Conv3d(8, 8, 3).weight.std()


def test_acs_kernels_lie_in_the_three_planes() -> None:
    """A point in the middle lights up what each output's kernel covers: a plane with one cell across its own axis."""
    conv = nn.Conv2d(1, 3, 3, padding=1, bias=False)
    nn.init.ones_(conv.weight)
    x = torch.zeros(1, 1, 5, 5, 5)
    x[0, 0, 2, 2, 2] = 1
    lit = InPlanes(conv, (0, 1, 2))(x)[0]
    for axis in range(3):
        assert [len(torch.unique(lit[axis].nonzero()[:, a])) for a in range(3)] == [1 if a == axis else 3 for a in range(3)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_converted_network_runs_under_its_old_names(kind: str) -> None:
    flat = encoder()
    model = VolumeModel(flat, kind, outputs=2).eval()
    assert set(model.encoder.state_dict()) == {k for k in flat.state_dict() if not k.startswith("6.")}
    x = torch.rand(2, 1, 12, 16, 10)
    assert model(x).shape == (2, 2)
    assert torch.equal(model(x), model.from_features(model.features(x)))
    sized = VolumeModel(flat, kind, size=(16, 16, 16)).eval()
    torch.testing.assert_close(
        sized.features(x), sized.encoder(F.interpolate(x, (16, 16, 16), mode="trilinear").expand(-1, 3, -1, -1, -1))
    )
    model.encoder.requires_grad_(False)
    assert not model.train().encoder.training


def test_along_which_nothing_varies_the_whole_inflated_network_is_the_2d_one() -> None:
    """Far from the ends, at which padding shows: layers of no more than 12 slices' reach in a volume of 48."""
    flat = classifier(2)[:4]
    x = torch.rand(1, 1, 9, 9)
    wide = convert(flat.eval(), "3d")
    torch.testing.assert_close(wide(x[:, :, None].expand(-1, -1, 48, -1, -1))[:, :, 24], flat(x))


@pytest.mark.parametrize("kind", KINDS)
def test_conversion_refuses_what_it_cannot_take_along(kind: str) -> None:
    with pytest.raises(BadInput, match="convolutions, batch norms, pooling and dropout; got UpsamplingNearest2d at '1'"):
        convert(nn.Sequential(nn.Conv2d(1, 2, 3), nn.UpsamplingNearest2d(scale_factor=2)), kind)
    with pytest.raises(BadInput, match="square kernels"):
        convert(nn.Sequential(nn.Conv2d(1, 2, (1, 3))), kind)
    with pytest.raises(BadInput, match=r"a kind among 3d, acs, 2\.5d; got '4d'"):
        convert(encoder(), "4d")


@pytest.mark.parametrize("stem", ["repeat", "adapted"])
def test_a_2d_network_s_weights_go_into_every_form_of_it(stem: str, tmp_path: Path) -> None:
    """Loading afterwards is the same as making the model from the trained network."""
    trained, fresh = encoder(), encoder()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.normal_()
    trained[1].running_mean.uniform_()
    file = tmp_path / "imagenet.safetensors"
    save_file(trained.state_dict(), str(file))
    makers = [lambda e: SliceModel(e, "mean", stem=stem)]
    makers += [lambda e, kind=kind: VolumeModel(e, kind, stem=stem) for kind in KINDS]
    for make in makers:
        model = make(fresh)
        assert load_encoder(model, file) == ()
        truth = make(trained).encoder.state_dict()
        for key, value in model.encoder.state_dict().items():
            torch.testing.assert_close(value, truth[key])
    other = trained.state_dict()
    other["8.weight"] = torch.zeros(3)
    save_file(other, str(file))
    with pytest.raises(BadInput, match=r"weights of this encoder in imagenet.safetensors; got also .*8\.weight"):
        load_encoder(makers[0](fresh), file)
    del other["8.weight"], other["0.weight"]
    save_file(other, str(file))
    with pytest.raises(BadInput, match=r"missing keys 0\.weight"):
        load_encoder(makers[0](fresh), file)


def millions(model: nn.Module) -> float:
    return round(sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6, 1)


def test_the_paper_s_table_2_and_torchvision_s_keys() -> None:
    """ResNet-18: 33.2, 11.2 and 12.2 million weights; MONAI's takes a file with torchvision's keys."""
    pytest.importorskip("monai")
    assert millions(VolumeModel("monai:resnet18", "3d")) == 33.2
    assert millions(VolumeModel("monai:resnet18", "acs")) == 11.2
    model = SliceModel("monai:resnet18", "attention")
    assert millions(model) == 12.2
    shapes = {key: tuple(value.shape) for key, value in model.encoder.state_dict().items()}
    assert shapes == resnet18()
    assert (model.encoder.conv1.stride, model.encoder_width) == ((2, 2), 512)


def resnet18() -> dict[str, tuple[int, ...]]:
    """Names and shapes in torchvision's resnet18 but for its last layer, written down from its paper and its naming."""

    def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
        vectors = {f"{name}.{v}": (width,) for v in ("weight", "bias", "running_mean", "running_var")}
        return vectors | {f"{name}.num_batches_tracked": ()}

    found = {"conv1.weight": (64, 3, 7, 7)} | norm("bn1", 64)
    before = 64
    for number, width in enumerate((64, 128, 256, 512), 1):
        for block in (0, 1):
            name = f"layer{number}.{block}"
            ins = before if block == 0 else width
            found |= {f"{name}.conv1.weight": (width, ins, 3, 3)} | norm(f"{name}.bn1", width)
            found |= {f"{name}.conv2.weight": (width, width, 3, 3)} | norm(f"{name}.bn2", width)
            if ins != width:
                found |= {f"{name}.downsample.0.weight": (width, ins, 1, 1)} | norm(f"{name}.downsample.1", width)
        before = width
    return found
