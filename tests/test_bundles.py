"""MONAI bundles, built here to the documented format: what is plain is read, the rest is refused by name."""

import json
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from radiolucent import BadInput, InputWarning, Region, Volume, load, predict
from radiolucent.methods import Gradient
from radiolucent.models import Percentile, Preprocessing, Window, ZScore
from radiolucent.tiling import untiled

NETWORK = {
    "_target_": "UNet",
    "spatial_dims": 3,
    "in_channels": "@channels_in",
    "out_channels": 2,
    "channels": [4, 8],
    "strides": "@strides::first",
    "norm": "batch",
}
TRANSFORMS = [
    {"_target_": "LoadImaged", "keys": "image"},
    {"_target_": "EnsureChannelFirstd", "keys": "image"},
    {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
    {"_target_": "Spacingd", "keys": "image", "pixdim": [1.5, 1.5, 2.0], "mode": "bilinear"},
    {
        "_target_": "monai.transforms.ScaleIntensityRanged",
        "keys": "image",
        "a_min": "@window::0",
        "a_max": 164,
        "b_min": 0,
        "b_max": 1,
        "clip": True,
    },
    {"_target_": "EnsureTyped", "keys": "image"},
]
INFERENCE = {
    "imports": ["$import glob"],
    "bundle_root": ".",
    "channels_in": 1,
    "strides": {"first": [2]},
    "window": [-57, 164],
    "network_def": NETWORK,
    "network": "$@network_def.to('cpu')",
    "preprocessing": {"_target_": "Compose", "transforms": TRANSFORMS},
    "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [96, 96, 48], "sw_batch_size": 4},
    "postprocessing": {"_target_": "Compose", "transforms": [{"_target_": "Activationsd", "keys": "pred", "softmax": True}]},
}
METADATA = {
    "name": "Spleen",
    "version": "0.1.0",
    "copyright": "nobody",
    "network_data_format": {
        "inputs": {"image": {"type": "image", "num_channels": 1, "spatial_shape": [96, 96, 96]}},
        "outputs": {"pred": {"type": "image", "format": "segmentation", "channel_def": {"0": "background", "1": "spleen"}}},
    },
}


def unet() -> nn.Module:
    from monai.networks.nets import UNet

    torch.manual_seed(1)
    return UNet(3, 1, 2, channels=(4, 8), strides=(2,), norm="batch").eval()


def made(folder: Path, suffix: str = "json", **changes: object) -> Path:
    """A bundle's folder."""
    folder = folder / "bundle"
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    values = INFERENCE | changes
    text = json.dumps(values) if suffix == "json" else yaml.safe_dump(values)
    (folder / "configs" / f"inference.{suffix}").write_text(text)
    (folder / "configs" / "metadata.json").write_text(json.dumps(METADATA))
    torch.save(unet().state_dict(), folder / "models" / "model.pt")
    return folder


def zipped(folder: Path, inside: str = "bundle/") -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.rglob("*"):
            if file.is_file():
                archive.write(file, inside + str(file.relative_to(folder)))
    return path


def scan() -> Volume:
    data = np.random.default_rng(2).normal(50, 80, (1, 30, 26, 20)).astype(np.float32)
    return Volume(data, np.diag([-1.0, 1.0, 2.5, 1.0]))


# Loading.


@pytest.mark.parametrize("form", ["folder", "bundle:folder", "yaml", "zip", "zip without a folder", "bundle:zip"])
def test_a_bundle_gives_network_classes_and_preprocessing(tmp_path, form):
    folder = made(tmp_path, "yaml" if form == "yaml" else "json")
    path = zipped(folder, "" if "without" in form else "bundle/") if "zip" in form else folder
    network, card = load(f"bundle:{path}" if ":" in form else path)
    torch.testing.assert_close(network.state_dict(), unet().state_dict(), rtol=0, atol=0)
    assert (card.name, card.task, card.channels, card.classes) == ("Spleen", "segmentation", 1, ("background", "spleen"))
    assert card.network == "monai:UNet"
    assert card.about == {"licence": "nobody"}
    assert card.notes == ()
    assert card.preprocessing == Preprocessing("RAS", (1.5, 1.5, 2.0), intensity=Window(-57, 164))
    assert (card.window, card.overlap, card.blend) == ((96, 96, 48), 0.25, "constant")


def test_the_map_lies_on_the_scan_s_own_grid(tmp_path):
    from monai.inferers import SlidingWindowInferer

    inferer = {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 8], "overlap": 0.5, "mode": "gaussian"}
    network, card = load(made(tmp_path, inferer=inferer))
    prediction = predict(network, scan(), card.preprocessing)
    assert prediction.image.grid.orientation == "RAS"
    with torch.no_grad():
        truth = SlidingWindowInferer((16, 16, 8), 2, 0.5, "gaussian")(prediction.x, untiled(network))
    torch.testing.assert_close(prediction.output, truth, rtol=0, atol=1e-5)
    label = int(torch.mode(prediction.output.argmax(1).flatten())[0])
    (found,) = prediction.explain([Gradient()], Region(label), classes=card.classes)
    assert found.relevance[0].grid == scan().grid


def test_preprocessing_is_near_monai_s_own(tmp_path):
    """MONAI resamples and then scales, with its own rule for the ends: on the inner voxels the two agree closely."""
    from monai.data import MetaTensor
    from monai.transforms import Compose, Orientation, ScaleIntensityRange, Spacing
    from scipy.ndimage import binary_erosion, gaussian_filter

    smooth = gaussian_filter(scan().data, (0, 3, 3, 3)) * 9
    smooth -= smooth.mean() - 50
    here = scan().like(smooth)
    _, card = load(made(tmp_path))
    ours = card.preprocessing(here)
    steps = Compose([Orientation("RAS"), Spacing((1.5, 1.5, 2.0), mode="bilinear"), ScaleIntensityRange(-57, 164, 0, 1, clip=True)])
    theirs = steps(MetaTensor(torch.from_numpy(here.data), affine=torch.from_numpy(here.affine)))
    image = Volume(theirs.numpy(), theirs.affine.numpy())
    moved = image.on(ours.grid)
    covered = [Volume(np.ones_like(v.data), v.affine).on(ours.grid).data[0] > 0 for v in (here, image)]
    inner = binary_erosion(covered[0] & covered[1], iterations=3)[None]
    assert inner.sum() > 300
    assert np.abs(moved.data - ours.data)[inner].max() < 0.02
    assert np.ptp(ours.data[inner]) > 0.2


def test_keep_zero_is_monai_s_nonzero():
    from monai.transforms import NormalizeIntensity

    data = np.random.default_rng(0).normal(5, 2, (2, 6, 5, 4)).astype(np.float32)
    data[:, :2] = 0
    expected = NormalizeIntensity(nonzero=True, channel_wise=True)(torch.from_numpy(data.copy())).numpy()
    np.testing.assert_allclose(ZScore(keep_zero=True)(data), expected, atol=1e-5)
    assert Preprocessing.from_dict(Preprocessing(intensity=ZScore(keep_zero=True)).as_dict()).intensity == ZScore(keep_zero=True)


def intensity(name: str, **arguments: object) -> dict[str, object]:
    return {"_target_": f"{name}d", "keys": ["image"], **arguments}


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (intensity("NormalizeIntensity"), {"intensity": ZScore()}),
        (intensity("NormalizeIntensity", nonzero=True, channel_wise=True), {"intensity": ZScore(keep_zero=True)}),
        (intensity("ScaleIntensity", minv=0.0, maxv=1.0), {"intensity": Percentile(0, 100)}),
        (
            intensity("ScaleIntensityRangePercentiles", lower=1, upper=99, b_min=0, b_max=1, clip=True),
            {"intensity": Percentile(1, 99)},
        ),
        (intensity("Resize", spatial_size=[8, 8, 4], mode="trilinear"), {"size": (8, 8, 4), "fit": "stretch"}),
        (intensity("ResizeWithPadOrCrop", spatial_size=[8, 8, 4]), {"size": (8, 8, 4)}),
        (intensity("DivisiblePad", k=8), {"multiple": 8}),
        (intensity("Orientation", axcodes="LPS"), {"orientation": "LPS"}),
        (intensity("Lambda", func="x", _disabled_=True), {}),
    ],
)
def test_transforms_that_are_known(tmp_path, step, expected):
    _, card = load(made(tmp_path, preprocessing={"_target_": "Compose", "transforms": [step]}, inferer={}))
    assert card.preprocessing == Preprocessing(**expected)


@pytest.mark.parametrize(
    ("steps", "match"),
    [
        ([intensity("CropForeground", source_key="image")], r"transforms among .*; got CropForegroundd .*source_key.*Write a card"),
        ([intensity("ScaleIntensityRange", a_min=0, a_max=9, b_min=-1, b_max=1, clip=True)], "got ScaleIntensityRanged"),
        ([intensity("ScaleIntensityRange", a_min=0, a_max=9, b_min=0, b_max=1)], "got ScaleIntensityRanged"),
        ([intensity("NormalizeIntensity", subtrahend=3)], "got NormalizeIntensityd"),
        ([intensity("Resize", spatial_size=8, size_mode="longest")], "got Resized"),
        ([intensity("Resize", spatial_size=[8, 8, 4])], "got Resized"),  # its default mode averages
        ([intensity("NormalizeIntensity"), intensity("ScaleIntensity")], "got ScaleIntensityd"),
        ([intensity("ResizeWithPadOrCrop", spatial_size=[8, 8, 4]), intensity("NormalizeIntensity")], "got NormalizeIntensityd"),
        ([intensity("Spacing", pixdim=[1, 1, 1]), intensity("Orientation", axcodes="RAS")], "got Orientationd"),
        ([{"_target_": "scripts.mine.Special"}, intensity("CropForeground")], "got scripts.mine.Special; CropForegroundd"),
        (["text"], "got 'text'"),
    ],
)
def test_transforms_that_are_not_understood_are_listed(tmp_path, steps, match):
    with pytest.raises(BadInput, match=match):
        load(made(tmp_path, preprocessing={"_target_": "Compose", "transforms": steps}))


def test_overlapping_outputs_are_warned_of(tmp_path):
    steps = [{"_target_": "Activationsd", "keys": "pred", "sigmoid": True}]
    with pytest.warns(InputWarning, match="its output channels may overlap"):
        load(made(tmp_path, postprocessing={"_target_": "Compose", "transforms": steps}))


# Row 25: expressions and names of code.


def test_row_25_expressions_are_refused_without_trust_and_noted_with_it(tmp_path):
    folder = made(
        tmp_path,
        network_def=NETWORK | {"channels": "$[4, 8]"},
        window=["$-50 - 7", 164],
    )
    with pytest.raises(BadInput, match=r"plain values at network_def::channels of the bundle; got \$\[4, 8\].*--trust-model"):
        load(folder)
    with pytest.warns(InputWarning, match=r"the bundle's expressions were trusted and run: \$\[4, 8\].*\$-50 - 7"):
        network, card = load(folder, trust=True)
    torch.testing.assert_close(network.state_dict(), unet().state_dict(), rtol=0, atol=0)
    assert card.preprocessing.intensity == Window(-57, 164)


@pytest.mark.parametrize("target", ["os.system", "scripts.networks.Mine", "monai.bundle.run", "$__import__('os').system"])
def test_row_25_a_network_of_its_own_is_refused_without_trust(tmp_path, target):
    with pytest.raises(BadInput, match="--trust-model"):
        load(made(tmp_path, network_def=NETWORK | {"_target_": target}))


@pytest.mark.parametrize("target", ["monai.networks.nets.UNet", "monai.networks.nets.unet.UNet", "UNet"])
def test_names_of_monai_s_networks(tmp_path, target):
    assert load(made(tmp_path, network_def=NETWORK | {"_target_": target}))[1].network == "monai:UNet"


def test_row_25_torchscript_in_a_bundle(tmp_path):
    folder = made(tmp_path)
    (folder / "models" / "model.pt").unlink()
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.trace(unet(), torch.zeros(1, 1, 8, 8, 8)).save(str(folder / "models" / "model.ts"))
    with pytest.raises(BadInput, match=r"a model without a program in model.ts; got a TorchScript archive"):
        load(folder)
    with pytest.warns(InputWarning, match="model.ts is a TorchScript archive"):
        network, card = load(folder, trust=True)
    x = torch.rand(1, 1, 16, 16, 16)
    torch.testing.assert_close(untiled(network)(x), unet()(x))
    assert card.classes == ("background", "spleen")


# Row 26, row 27 and damaged bundles.


def test_row_26_weights_that_do_not_fit(tmp_path):
    with pytest.raises(BadInput, match=r"weights for this UNet in model.pt; got .*other shapes|missing keys"):
        load(made(tmp_path, network_def=NETWORK | {"channels": [4, 9]}))


@pytest.mark.parametrize("name", ["../evil.py", "bundle/../../evil.py", "/tmp/evil.py", "..\\evil.py", "C:/evil.py", "link"])
def test_row_27_a_zip_that_leads_outside_is_refused_whole(tmp_path, name):
    path = zipped(made(tmp_path))
    with zipfile.ZipFile(path, "a") as archive:
        member = zipfile.ZipInfo(f"bundle/{name}" if name == "link" else name)
        member.external_attr = (stat.S_IFLNK | 0o777) << 16 if name == "link" else 0
        archive.writestr(member, "/etc/passwd")
    before = set(tmp_path.rglob("*"))
    with pytest.raises(
        BadInput, match=rf"files that stay inside bundle.zip; got .*{'link' if name == 'link' else 'evil'}.*Nothing"
    ):
        load(path)
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("file", "text", "match"),
    [
        ("configs/inference.json", "{", "JSON in inference.json; got"),
        ("configs/inference.json", "[]", "a table of keys and values in inference.json; got list"),
        ("configs/metadata.json", "{", "JSON in metadata.json; got"),
        ("models/model.pt", None, r"one of models/model.safetensors, .* in the bundle; got \['configs/inference.json'"),
        ("configs/inference.json", None, r"configs/inference.json in .*bundle; got none"),
    ],
)
def test_bundles_that_are_damaged(tmp_path, file, text, match):
    folder = made(tmp_path)
    (folder / file).unlink()
    if text is not None:
        (folder / file).write_text(text)
    with pytest.raises(BadInput, match=match):
        load(f"bundle:{folder}")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"channels_in": "@nowhere"}, r"references that lead somewhere in the bundle \(channels_in\); got @nowhere"),
        ({"channels_in": "@a", "a": "@channels_in"}, "references that lead somewhere"),
        ({"network_def": "@other", "other": 3}, "network_def with a _target_ in the bundle; got 3"),
        ({"network_def": "%other.json"}, "plain values at network_def of the bundle; got %other.json"),
        ({"network_def": {"_target_": "UNet"}}, "arguments that monai:UNet takes; got TypeError.*Correct the bundle's arguments"),
    ],
)
def test_configurations_that_do_not_hold_together(tmp_path, changes, match):
    with pytest.raises(BadInput, match=match):
        load(made(tmp_path, **changes))


def test_layers_of_a_bundle_are_listed_on_its_window(tmp_path):
    made(tmp_path, inferer={"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 8]})
    command = [sys.executable, "-W", "ignore", "-c", "from radiolucent.cli import main; main()", "layers", "--model", "bundle"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "\t4 x 8 x 8 x 4\t8 x 8 x 4" in done.stdout
    made(tmp_path / "other", inferer={"_target_": "SimpleInferer"})
    done = subprocess.run(command, cwd=tmp_path / "other", capture_output=True, text=True)
    assert "expected the size of an input" in done.stderr


def test_weights_may_be_given_apart(tmp_path):
    folder = made(tmp_path)
    (folder / "models" / "model.pt").rename(tmp_path / "mine.pt")
    network, _ = load(folder, tmp_path / "mine.pt")
    torch.testing.assert_close(network.state_dict(), unet().state_dict(), rtol=0, atol=0)
