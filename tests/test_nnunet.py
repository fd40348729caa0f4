"""nnU-Net v2 folders: built here to its documented format, and beside nnU-Net itself where that is installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.interpolate import make_interp_spline

from radiolucent import BadInput, Explanation, InputWarning, Region, io, load, predict
from radiolucent.methods import LRP, AblationCAM, EigenCAM, GradCAM, Gradient, IntegratedGradients, Occlusion, ScoreCAM
from radiolucent.models.nnunet_preprocessing import Channel, NnUNetPreprocessing, resample
from radiolucent.plan import Plan, choose_targets, explain_all, segmentation
from radiolucent.protocols import Method
from radiolucent.study.recipe import Regions
from radiolucent.study.rows import names_of, region_rows
from radiolucent.targets import label_map
from radiolucent.tiling import Tiled, untiled
from radiolucent.volume import Volume

pytest.importorskip("dynamic_network_architectures", reason='the networks of nnU-Net: pip install "radiolucent[nnunet]"')

ARCHITECTURE = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "arch_kwargs": {
        "n_stages": 3,
        "features_per_stage": [4, 8, 16],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        "n_conv_per_stage": [1, 1, 1],
        "n_conv_per_stage_decoder": [1, 1],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    },
    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
}
RESIDUAL = ARCHITECTURE | {
    "network_class_name": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
    "arch_kwargs": {"n_blocks_per_stage": [1, 2, 2]}
    | {k: v for k, v in ARCHITECTURE["arch_kwargs"].items() if k != "n_conv_per_stage"},
}
FULLRES = {
    "data_identifier": "nnUNetPlans_3d_fullres",
    "preprocessor_name": "DefaultPreprocessor",
    "batch_size": 2,
    "patch_size": [8, 16, 16],
    "median_image_size_in_voxels": [8.0, 16.0, 16.0],
    "spacing": [2.0, 1.5, 1.0],
    "normalization_schemes": ["ZScoreNormalization"],
    "use_mask_for_norm": [False],
    "resampling_fn_data": "resample_data_or_seg_to_shape",
    "resampling_fn_seg": "resample_data_or_seg_to_shape",
    "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
    "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
    "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
    "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
    "architecture": ARCHITECTURE,
    "batch_dice": False,
}
OLD_STYLE = {
    "UNet_class_name": "PlainConvUNet",
    "UNet_base_num_features": 4,
    "unet_max_num_features": 16,
    "n_conv_per_stage_encoder": [1, 1, 1],
    "n_conv_per_stage_decoder": [1, 1],
    "num_pool_per_axis": [1, 2, 2],
    "pool_op_kernel_sizes": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
    "conv_kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
}
FLAT = {
    **FULLRES,
    "data_identifier": "nnUNetPlans_2d",
    "patch_size": [24, 24],
    "spacing": [1.5, 1.0],
    "architecture": ARCHITECTURE
    | {
        "arch_kwargs": ARCHITECTURE["arch_kwargs"]
        | {
            "conv_op": "torch.nn.modules.conv.Conv2d",
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
            "kernel_sizes": [[3, 3]] * 3,
            "strides": [[1, 1], [2, 2], [2, 2]],
        }
    },
}
CT = {"mean": 40.0, "std": 20.0, "min": -200.0, "max": 300.0, "percentile_00_5": -50.0, "percentile_99_5": 120.0}
LABELS = {"background": 0, "left": 1, "right": 2}
REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
DATASET = {"channel_names": {"0": "MRI"}, "labels": LABELS, "numTraining": 4, "file_ending": ".nii.gz"}


def plans(**changes: object) -> dict[str, object]:
    """plans.json with one configuration; `changes` go into it."""
    top = {key: changes.pop(key) for key in ("transpose_forward", "image_reader_writer") if key in changes}
    transpose = top.get("transpose_forward", [0, 1, 2])
    return {
        "dataset_name": "Dataset999_Test",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [2.0, 1.5, 1.0],
        "original_median_shape_after_transp": [8, 16, 16],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": transpose,
        "transpose_backward": [int(i) for i in np.argsort(transpose)],
        "configurations": {"3d_fullres": FULLRES | changes},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": CT, "1": CT},
        **top,
    }


def flat(**changes: object) -> dict[str, object]:
    """plans.json with a 2D configuration."""
    top = {key: changes.pop(key) for key in ("transpose_forward", "image_reader_writer") if key in changes}
    return plans(**top) | {"configurations": {"2d": FLAT | changes}}


def made(folder: Path, given: dict[str, object] | None = None, dataset: dict[str, object] = DATASET, folds: str = "0") -> Path:
    """A trained folder as nnU-Net leaves it, with random weights."""
    from dynamic_network_architectures.architectures import unet
    from torch import nn

    given = given or plans()
    name = "2d" if "2d" in given["configurations"] else "3d_fullres"
    root = folder / f"nnUNetTrainer__nnUNetPlans__{name}"
    heads = len([name for name in dataset["labels"] if name != "ignore"]) - ("regions_class_order" in dataset)
    residual = given["configurations"][name].get("architecture") == RESIDUAL
    kind = unet.ResidualEncoderUNet if residual else unet.PlainConvUNet
    a = (RESIDUAL if residual else FLAT["architecture"] if name == "2d" else ARCHITECTURE)["arch_kwargs"] | {
        "conv_op": nn.Conv2d if name == "2d" else nn.Conv3d,
        "norm_op": nn.InstanceNorm2d if name == "2d" else nn.InstanceNorm3d,
        "nonlin": nn.LeakyReLU,
    }
    for fold in folds.split():
        torch.manual_seed(len(fold) if fold == "all" else int(fold))
        network = kind(len(dataset["channel_names"]), num_classes=heads, deep_supervision=True, **a)
        for bias in network.decoder.seg_layers:
            nn.init.normal_(bias.weight, std=1.0)
        checkpoint = {
            "network_weights": network.state_dict(),
            "optimizer_state": {},
            "grad_scaler_state": None,
            "logging": {"mean_fg_dice": [np.float64(0.5), np.float32(0.25)], "epoch_start_timestamps": [1.0]},
            "_best_ema": np.float64(0.5),
            "current_epoch": 3,
            "init_args": {"plans": given, "configuration": name, "fold": fold, "device": torch.device("cpu")},
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": (0, 1, 2),
        }
        (root / f"fold_{fold}").mkdir(parents=True)
        torch.save(checkpoint, root / f"fold_{fold}" / "checkpoint_final.pth")
    (root / "plans.json").write_text(json.dumps(given))
    (root / "dataset.json").write_text(json.dumps(dataset))
    return root


def scan(shape: tuple[int, int, int] = (14, 10, 9), border: int = 2, channels: int = 1) -> Volume:
    """A head in air, with axes that run L, A, S and differ in spacing, shape and meaning."""
    rng = np.random.default_rng(5)
    data = rng.normal(60, 25, (channels, *shape)).astype(np.float32)
    data[:, shape[0] // 2, shape[1] // 2, shape[2] // 2] = 0  # a hole, which counts as inside
    for axis in range(1, 4):
        air = np.moveaxis(data, axis, 0)
        air[: border + (axis == 1)] = 0  # off the centre
        air[shape[axis - 1] - border :] = 0
    affine = np.diag([-0.9, 1.2, 2.5, 1.0])
    affine[:3, 3] = 30, -40, 12
    return Volume(data, affine)


# Loading.


def test_a_folder_gives_network_classes_and_preprocessing(tmp_path: Path) -> None:
    root = made(tmp_path)
    state = torch.load(root / "fold_0" / "checkpoint_final.pth", weights_only=False)["network_weights"]
    for model in (f"nnunet:{root}", root, root / "fold_0", root / "fold_0" / "checkpoint_final.pth"):
        network, card = load(model)
        torch.testing.assert_close(network.state_dict(), state, rtol=0, atol=0)
        assert not network.decoder.deep_supervision
        assert not network.training
        assert (card.task, card.classes, card.channels) == ("segmentation", ("background", "left", "right"), 1)
        assert card.notes == ()
        assert card.preprocessing == NnUNetPreprocessing((2.0, 1.5, 1.0), (8, 16, 16), (1, 1, 1), (Channel("ZScoreNormalization"),))
        assert (card.window, card.overlap, card.blend) == ((8, 16, 16), 0.5, "nnunet")
        assert json.loads(json.dumps(card.preprocessing.as_dict()))["spacing"] == [2.0, 1.5, 1.0]
    assert card.about["checkpoint"] == "fold_0/checkpoint_final.pth"


def test_residual_encoders_are_built_too(tmp_path: Path) -> None:
    network, _ = load(made(tmp_path, plans(architecture=RESIDUAL)))
    assert type(untiled(network)).__name__ == "ResidualEncoderUNet"
    assert network(torch.rand(1, 1, 4, 8, 8)).shape == (1, 3, 4, 8, 8)


def test_the_folds_and_checkpoints_are_chosen_by_their_place(tmp_path: Path) -> None:
    root = made(tmp_path, folds="0 1")
    with pytest.warns(InputWarning, match=r"one of fold_0, fold_1 is explained, fold_0; to choose: nnunet:.*fold_N"):
        first, _ = load(f"nnunet:{root}")
    second, card = load(f"nnunet:{root}/fold_1")
    assert card.about["checkpoint"] == "fold_1/checkpoint_final.pth"
    assert not torch.equal(first.decoder.seg_layers[-1].weight, second.decoder.seg_layers[-1].weight)
    best = root / "fold_0" / "checkpoint_best.pth"
    (root / "fold_0" / "checkpoint_final.pth").rename(best)
    with pytest.raises(BadInput, match=r"checkpoint_final.pth in .*fold_0; got checkpoint_best.pth. Name one: nnunet:.*best.pth"):
        load(f"nnunet:{root}/fold_0")
    for network, _ in (load(f"nnunet:{best}"), load(f"nnunet:{root}", best)):
        torch.testing.assert_close(network.state_dict(), first.state_dict(), rtol=0, atol=0)


def test_plans_before_2_4_give_the_same_network(tmp_path: Path) -> None:
    old = {k: v for k, v in FULLRES.items() if k != "architecture"} | OLD_STYLE
    given = plans()
    given["configurations"] = {"base": old, "3d_fullres": {"inherits_from": "base", "batch_size": 3}}
    new, _ = load(made(tmp_path / "new"))
    network, card = load(made(tmp_path / "old", given))
    assert card.window == (8, 16, 16)
    assert str(network) == str(new)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"previous_stage": "3d_lowres"}, "a configuration with one stage; got 3d_fullres, a cascade on another's output"),
        ({"preprocessor_name": "MyPreprocessor"}, "nnU-Net's default preprocessing; got MyPreprocessor"),
        ({"resampling_fn_data": "resample_torch_fornnunet"}, "default preprocessing; got resample_torch_fornnunet"),
        ({"image_reader_writer": "Tiff3DIO"}, "default preprocessing; got the reader Tiff3DIO"),
        ({"normalization_schemes": ["MyScheme"]}, "a normalisation among ZScoreNormalization, .*; got MyScheme"),
        ({"spacing": None}, "plans.json and dataset.json of nnU-Net v2 in .*; got TypeError"),
        (
            {"architecture": ARCHITECTURE | {"network_class_name": "my_code.Net"}},
            "got my_code.Net. It would run.*--trust-model",
        ),
        (
            {"architecture": ARCHITECTURE | {"network_class_name": "dynamic_network_architectures.architectures.unet.nn"}},
            "a class of networks or layers in plans.json; got dynamic_network",
        ),
        (
            {"architecture": ARCHITECTURE | {"arch_kwargs": ARCHITECTURE["arch_kwargs"] | {"conv_op": "os.system"}}},
            "plans that name classes of torch.nn and dynamic_network_architectures; got os.system",
        ),
        (
            {"architecture": ARCHITECTURE | {"arch_kwargs": {"n_stages": 3}}},
            r"arguments that dynamic_network_architectures.*PlainConvUNet takes; got TypeError|KeyError",
        ),
    ],
)
def test_what_cannot_be_answered_is_refused(tmp_path: Path, change: dict[str, object], match: str) -> None:
    with pytest.raises(BadInput, match=match):
        load(made(tmp_path, plans(**change)))


def test_networks_of_one_s_own_need_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_unet.py").write_text(
        "from dynamic_network_architectures.architectures.unet import PlainConvUNet\nclass Mine(PlainConvUNet):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    root = made(tmp_path, plans(architecture=ARCHITECTURE | {"network_class_name": "own_unet.Mine"}))
    with pytest.raises(BadInput, match=r"got own_unet.Mine. It would run code"):
        load(root)
    assert type(untiled(load(root, trust=True)[0])).__name__ == "Mine"


def test_classes_that_moved_are_found_and_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dynamic_network_architectures

    moved = "dynamic_network_architectures.architectures.plain_unet.PlainConvUNet"
    root = made(tmp_path, plans(architecture=ARCHITECTURE | {"network_class_name": moved}))
    assert type(untiled(load(root)[0])).__name__ == "PlainConvUNet"
    for name in [name for name in sys.modules if name.startswith("dynamic_network_architectures")]:
        monkeypatch.delitem(sys.modules, name)
    package = Path(dynamic_network_architectures.__file__).parents[1]
    monkeypatch.setattr(sys, "path", [p for p in sys.path if Path(p) != package])
    sys.path_importer_cache.clear()
    with pytest.raises(BadInput, match=r"which this model is built from; got not installed. pip install .radiolucent\[nnunet"):
        load(root)


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (
            {"background": 0, "whole": [1, 2], "core": [2]},
            r"regions_class_order with a label for each of whole, core in .*dataset.json; got None",
        ),
        ({"background": 0, "a": 1, "b": 3}, r"labels 0, 1, 2, ... in dataset.json; got \[0, 1, 3\]"),
    ],
)
def test_labels_that_are_no_classes_are_refused(tmp_path: Path, labels: dict[str, object], match: str) -> None:
    with pytest.raises(BadInput, match=match):
        load(made(tmp_path, dataset=DATASET | {"labels": labels}))


def test_an_ignored_label_has_no_output(tmp_path: Path) -> None:
    _, card = load(made(tmp_path, dataset=DATASET | {"labels": LABELS | {"ignore": 3}}))
    assert card.classes == ("background", "left", "right")


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"plans.json and dataset.json in .*; got no such folder. Give the folder of a trained"):
        load("nnunet:nowhere")
    root = made(tmp_path)
    with pytest.raises(BadInput, match=r"plans.json and dataset.json in .*; got \['nnUNetTrainer__nnUNetPlans__3d_fullres'\]"):
        load(f"nnunet:{tmp_path}")
    whole = (root / "plans.json").read_text()
    for text, match in (("{", r"JSON in .*plans.json"), ("[]", r"a table of keys and values in .*plans.json; got list")):
        (root / "plans.json").write_text(text)
        with pytest.raises(BadInput, match=match):
            load(root)
    (root / "plans.json").write_text(whole)
    (root / "fold_0" / "checkpoint_final.pth").unlink()
    with pytest.raises(BadInput, match=r"checkpoint_final.pth in .*fold_0; got no checkpoint. Is the training finished"):
        load(root)
    (root / "fold_0").rmdir()
    with pytest.raises(BadInput, match=r"a folder fold_0, ... or fold_all in .*; got none"):
        load(root)


def test_weights_of_other_plans_are_refused(tmp_path: Path) -> None:
    root = made(tmp_path)
    other = plans(architecture=ARCHITECTURE | {"arch_kwargs": ARCHITECTURE["arch_kwargs"] | {"features_per_stage": [4, 8, 12]}})
    (root / "plans.json").write_text(json.dumps(other))
    with pytest.raises(BadInput, match=r"weights for this PlainConvUNet in checkpoint_final.pth; got other shapes .*\(16, "):
        load(root)


# Preprocessing, derived again.


def by_hand(volume: Volume, p: NnUNetPreprocessing) -> np.ndarray:
    """The steps one voxel row at a time: SciPy's interpolating spline along each axis in turn, no mask tricks."""
    data = volume.data[0].transpose(2, 1, 0).transpose(p.transpose)
    spacing = np.array(volume.grid.spacing)[::-1][list(p.transpose)]
    inside = np.argwhere(data != 0)
    low, high = inside.min(0), inside.max(0) + 1
    data = data[low[0] : high[0], low[1] : high[1], low[2] : high[2]].astype(np.float64)
    data = (data - data.mean()) / data.std()
    before = data.copy()
    for axis in range(3):
        n = data.shape[axis]
        m = round(spacing[axis] / p.spacing[axis] * n)
        if m == n:
            continue
        padded = np.pad(data, [(12, 12) if a == axis else (0, 0) for a in range(3)], mode="edge")
        spline = make_interp_spline(np.arange(-12, n + 12), padded, k=3, axis=axis)
        places = np.clip((np.arange(m) + 0.5) * n / m - 0.5, -12, n + 11)
        data = np.moveaxis(spline(places), 0, 0) if axis == 0 else spline(places)
    data = np.clip(data, before.min(), before.max())
    pads = []
    for n, patch, m in zip(data.shape, p.size, p.multiple, strict=True):
        whole = max(patch, -(-n // m) * m)
        pads.append(((whole - n) // 2, whole - n - (whole - n) // 2))
    return np.pad(data, pads)


@pytest.mark.parametrize("transpose", [(0, 1, 2), (1, 0, 2), (2, 0, 1)])
def test_the_steps_are_those_of_a_slow_derivation(transpose: tuple[int, ...]) -> None:
    p = NnUNetPreprocessing((1.7, 1.1, 0.8), (8, 8, 12), (2, 4, 4), (Channel("ZScoreNormalization"),), transpose)
    image = p(scan())
    expected = by_hand(scan(), p)
    assert image.data.shape == (1, *expected.shape)
    np.testing.assert_allclose(image.data[0], expected, atol=2e-3)  # the spline's ends are treated a little differently


def test_each_voxel_of_the_network_s_grid_knows_its_place() -> None:
    """A plane in world coordinates stays that plane, so the map comes back where it belongs."""
    here = scan((20, 22, 16))
    index = np.stack(np.meshgrid(*map(np.arange, here.grid.shape), indexing="ij"), -1)
    world = index @ here.affine[:3, :3].T + here.affine[:3, 3]
    plane = (100 + world @ [1.0, 2.0, -1.5]).astype(np.float32)
    p = NnUNetPreprocessing((1.9, 1.5, 1.1), (4, 4, 4), (1, 1, 1), (Channel("NoNormalization"),), (1, 2, 0))
    image = p(Volume(plane[None], here.affine))
    index = np.stack(np.meshgrid(*map(np.arange, image.grid.shape), indexing="ij"), -1)
    world = index @ image.affine[:3, :3].T + image.affine[:3, 3]
    inner = (slice(3, -3),) * 3
    np.testing.assert_allclose(image.data[0][inner], (100 + world @ [1.0, 2.0, -1.5])[inner], atol=0.1)
    back = image.on(here.grid).data[0]
    np.testing.assert_allclose(back[inner], plane[inner], atol=0.1)


def test_anisotropic_scans_are_resampled_slice_by_slice() -> None:
    """Across the slices the nearest one is taken, so a step between two slices stays a step."""
    data = np.zeros((1, 6, 8, 8), np.float32)
    data[:, 3:] = 1
    out = resample(data, (9, 12, 12), 0, 3, 0)
    assert set(np.unique(out.round(9))) == {0, 1}
    together = resample(data, (9, 12, 12), None, 3, 0)
    assert len(np.unique(together.round(3))) > 2
    p = NnUNetPreprocessing((2.0, 1.0, 1.0), (1, 1, 1), (1, 1, 1), (Channel("NoNormalization"),))
    thick = Volume(np.moveaxis(data + 1, 1, 3), np.diag([1.0, 1.0, 4.0, 1.0]))
    assert set(np.unique(p(thick).data)) == {1, 2}
    thin = Volume(np.moveaxis(data + 1, 1, 3), np.diag([1.0, 1.0, 3.0, 1.0]))
    assert len(np.unique(p(thin).data.round(3))) > 2


@pytest.mark.parametrize(
    ("channel", "expected"),
    [
        (Channel("NoNormalization"), [-100.0, 0, 50, 200]),
        (Channel("CTNormalization", mean=40, deviation=20, low=-50, high=120), [-4.5, -2, 0.5, 4]),
        (Channel("RescaleTo01Normalization"), [0, 1 / 3, 0.5, 1]),
        (Channel("ZScoreNormalization"), np.subtract([-100.0, 0, 50, 200], 37.5) / np.std([-100, 0, 50, 200])),
        (
            Channel("ZScoreNormalization", masked=True),
            [*(np.subtract([-100.0], 50) / np.std([-100, 50, 200])), 0, 0, 150 / np.std([-100, 50, 200])],
        ),
    ],
)
def test_normalisations(channel: Channel, expected: list[float]) -> None:
    data = np.array([-100.0, 0, 50, 200], np.float32).reshape(1, 1, 4)
    found = channel(data, data != 0)
    np.testing.assert_allclose(found.ravel(), expected, rtol=1e-5, atol=1e-6)
    assert found.dtype == np.float32


def test_scans_that_do_not_fit() -> None:
    p = NnUNetPreprocessing((1.0, 1.0, 1.0), (4, 4, 4), (1, 1, 1), (Channel("RGBTo01Normalization"),))
    with pytest.raises(BadInput, match="a 3D scan for a 3D configuration"):
        p(Volume(np.ones((1, 4, 4), np.float32)))
    with pytest.raises(BadInput, match=r"1 channel\(s\), as the model was trained on; got 2. nnU-Net keeps one file per channel"):
        p(Volume(np.ones((2, 4, 4, 4), np.float32)))
    with pytest.raises(BadInput, match="values other than 0; got 0 everywhere"):
        p(Volume(np.zeros((1, 4, 4, 4), np.float32)))
    with pytest.raises(BadInput, match=r"values from 0 to 255 .*; got 1 to 300"):
        p(Volume(np.linspace(1, 300, 64, dtype=np.float32).reshape(1, 4, 4, 4)))


# Explaining.


def test_the_map_lies_on_the_scan_s_own_grid(tmp_path: Path) -> None:
    network, card = load(made(tmp_path))
    here = scan()
    prediction = predict(network, here, card.preprocessing)
    present = [int(v) for v in np.unique(prediction.output.argmax(1))][:2]
    found = prediction.explain([Gradient(), GradCAM("encoder.stages.0")], Region(*present), classes=card.classes)
    for explanation in found:
        for relevance in explanation.relevance:
            assert relevance.grid == here.grid
            assert np.abs(relevance.data).max() > 0
    assert prediction.labels().grid == here.grid
    assert json.loads(json.dumps(found[0].provenance["preprocessing"]))["kind"] == "nnunet"


def explained(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", "from radiolucent.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_the_command_line_finds_the_channels_beside_the_first(tmp_path: Path) -> None:
    both = {"normalization_schemes": ["ZScoreNormalization"] * 2, "use_mask_for_norm": [False] * 2}
    root = made(tmp_path, plans(**both), DATASET | {"channel_names": {"0": "T1", "1": "T2"}}, folds="0 1")
    here = scan(channels=2)
    for i in range(2):
        io.write(tmp_path / f"case_{i:04d}.nii.gz", here.like(here.data[i : i + 1]))
    model = ("--model", f"nnunet:{root}", "--out", "out", "--json")
    done = explained(tmp_path, "explain", "case_0000.nii.gz", "--method", "gradient", *model)
    assert done.returncode == 0, done.stderr
    assert "note: one of fold_0, fold_1 is explained, fold_0" in done.stderr
    (case,) = json.loads(done.stdout)["cases"]
    assert set(case["targets"]) <= {"left", "right"}
    assert case["notes"][0].startswith("one of fold_0, fold_1 is explained")
    saved = Explanation.load(tmp_path / "out" / "case_0000" / "gradient")
    assert saved.relevance[0].data.shape == here.data.shape
    assert saved.relevance[0].grid == here.grid
    assert saved.provenance["preprocessing"]["channels"][1]["scheme"] == "ZScoreNormalization"
    listed = explained(tmp_path, "layers", "--model", root, "--json")
    assert listed.returncode == 0, listed.stderr
    assert "encoder.stages.0.0.convs.0.conv" in [row["layer"] for row in json.loads(listed.stdout)["layers"]]
    (tmp_path / "case_0001.nii.gz").unlink()
    done = explained(tmp_path, "explain", "case_0000.nii.gz", "--method", "gradient", *model, "--overwrite")
    assert done.returncode == 3
    assert "expected a file at case_0001.nii.gz; got nothing there" in done.stdout


def test_channels_on_different_grids_are_refused(tmp_path: Path) -> None:
    here = scan()
    io.write(tmp_path / "case_0000.nii.gz", here)
    io.write(tmp_path / "case_0001.nii.gz", Volume(here.data[:, 1:], here.affine))
    with pytest.raises(BadInput, match=r"one channel on the grid of case_0000.nii.gz in case_0001.nii.gz"):
        io.read_channels(tmp_path / "case_0000.nii.gz", 2)
    assert len(io.read_channels(tmp_path / "case_0000.nii.gz", 1).data) == 1


# 2D configurations: a slice at a time.


def test_a_2d_network_sees_slice_by_slice_along_nnunet_s_first_axis(tmp_path: Path) -> None:
    network, card = load(made(tmp_path, flat(transpose_forward=[1, 0, 2])))
    here = scan()
    image = card.preprocessing(here)
    turned = here.data[0].transpose(1, 2, 0)  # (z, y, x) of the file, then the plans' choice: y, z, x
    inside = np.flatnonzero((turned != 0).any((1, 2)))
    assert image.data.shape == (1, inside[-1] - inside[0] + 1, 24, 24)  # as many slices as there are, not resampled
    x = torch.from_numpy(image.data.copy())[None]
    with torch.no_grad():
        found = network(x)
        alone = torch.stack([network.network(x[:, :, d]) for d in range(x.shape[2])], 2)
    torch.testing.assert_close(found, alone)
    assert found.shape == (1, 3, *x.shape[2:])


def test_layers_of_a_2d_network_have_the_volume_s_grid(tmp_path: Path) -> None:
    """By hand: the value and the gradient at one layer, slice after slice, put together."""
    network, card = load(made(tmp_path, flat()))
    here = scan()
    prediction = predict(network, here, card.preprocessing)
    depth = prediction.image.data.shape[1]
    layer = next(found for found in prediction.layers if found.name == "network.encoder.stages.1")
    assert layer.cells == (depth, 12, 12)
    target = Region(int(prediction.output.argmax(1).unique()[-1])).fix(prediction.output)
    kept = []
    handle = network.network.encoder.stages[1].register_forward_hook(lambda m, a, output: kept.append(output))
    score = target(network(prediction.x.requires_grad_()))
    handle.remove()
    A, G = kept[0], torch.autograd.grad(score.sum(), kept[0])[0]
    assert A.shape == (depth, 8, 12, 12)
    by_hand = torch.einsum("c,dchw->dhw", G.mean((0, 2, 3)), A).relu()
    found = GradCAM(layer.name)(network, prediction.x, target)[0, 0, 0]
    torch.testing.assert_close(found, by_hand.detach(), rtol=1e-4, atol=1e-6)
    auto = prediction.explain([GradCAM()], Region(*target.labels))[0].method.layer
    assert auto.startswith("network.decoder.stages.1")  # not the logits, which are the output in another shape


@pytest.mark.parametrize("method", [Occlusion((3, 8, 8), (3, 8, 8)), ScoreCAM(), LRP(), EigenCAM(), IntegratedGradients(4)])
def test_other_methods_on_a_2d_network(tmp_path: Path, method: Method) -> None:
    network, card = load(made(tmp_path, flat()))
    prediction = predict(network, scan(), card.preprocessing)
    label = int(prediction.output.argmax(1).unique()[-1])
    (found,) = prediction.explain([method], Region(label))
    assert found.relevance[0].grid == scan().grid
    with pytest.raises(BadInput, match=r"a layer that sees the whole image; got layer .* of a 2D network that runs slice by slice"):
        prediction.explain([AblationCAM()], Region(label))


def test_a_2d_image_with_a_2d_configuration(tmp_path: Path) -> None:
    """A dataset of pictures: (rows, columns) as stored, one unit apart; the map lies on the picture's pixels."""
    root = made(tmp_path, flat(image_reader_writer="NaturalImage2DIO", spacing=[1.0, 1.0]))
    pixels = np.zeros((30, 22), np.uint8)
    pixels[4:27, 3:20] = np.random.default_rng(2).integers(1, 255, (23, 17))
    Image.fromarray(pixels).save(tmp_path / "case_0000.png")
    _, card = load(root)
    here = io.read(tmp_path / "case_0000.png")
    image = card.preprocessing(here)
    inner = pixels[4:27, 3:20].astype(np.float64)
    expected = np.pad((inner - inner.mean()) / inner.std(), [(0, 1), (3, 4)])
    np.testing.assert_allclose(image.data[0], expected, atol=1e-5)
    done = explained(tmp_path, "explain", "case_0000.png", "--model", root, "--out", "out", "--method", "gradient", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert Explanation.load(tmp_path / "out" / "case_0000" / "gradient").relevance[0].grid == here.grid
    with pytest.raises(BadInput, match=r"a 2D image, as the model was trained on; got .*Give a picture"):
        card.preprocessing(scan())


# Regions that overlap: a sigmoid each.

OVERLAPPING = DATASET | {"labels": REGIONS, "regions_class_order": [1, 2, 3]}


def test_regions_are_targets_by_name_and_the_segmentation_is_made_in_nnunet_s_order(tmp_path: Path) -> None:
    root = made(tmp_path, dataset=OVERLAPPING)
    network, card = load(root)
    assert (card.classes, card.regions) == (("whole", "core", "enhancing"), (1, 2, 3))
    here = scan()
    prediction = predict(network, here, card.preprocessing)
    expected = np.zeros(prediction.output.shape[2:], np.int32)
    for voxel in np.ndindex(*expected.shape):
        for channel, label in enumerate((1, 2, 3)):
            expected[voxel] = label if prediction.output[(0, channel, *voxel)] > 0 else expected[voxel]
    assert np.array_equal(label_map(prediction.output, card.regions)[0].numpy(), expected)
    assert set(np.unique(prediction.labels(None, card.regions).data)) <= {0, 1, 2, 3}
    io.write(tmp_path / "case.nii.gz", here)
    arguments = ("explain", "case.nii.gz", "--model", root, "--out", "out", "--method", "gradient", "--target", "core", "--json")
    done = explained(tmp_path, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    (case,) = json.loads(done.stdout)["cases"]
    logits = prediction.output[0, 1]
    assert case["targets"]["core"] == pytest.approx(float(logits[logits > 0].sum()), rel=1e-4)
    written = io.read_labels(tmp_path / "out" / "case" / "segmentation.nii.gz").data
    assert np.array_equal(written, prediction.labels(None, card.regions).data)
    regions = (tmp_path / "out" / "case" / "regions.csv").read_text()
    assert "enhancing" in regions
    assert "enhancing, rest" not in regions
    assert "whole, rest" in regions


def test_a_study_measures_what_is_near_to_regions_that_overlap(tmp_path: Path) -> None:
    network, card = load(made(tmp_path, dataset=OVERLAPPING))
    prediction = predict(network, scan(), card.preprocessing)
    plan = Plan((Gradient(),), ("whole", "enhancing"))
    targets = choose_targets(prediction, card, plan)
    parcellation, _ = segmentation(prediction, card)
    assert parcellation is not None
    explained = explain_all(prediction, targets, card, plan, parcellation)
    rows = region_rows(
        explained, parcellation, card, Regions(near_mm=(2.0,)), names_of([e.method for e in explained.explanations], plan.methods)
    )
    for channel, target in ((0, "whole"), (2, "enhancing")):
        (inside,) = (r for r in rows if (r["target"], r["region"]) == (target, "inside the target"))
        yes = prediction.output[:, channel] > 0  # all of it, and not only what later regions leave
        volume = Volume(yes.numpy().astype(np.int32), prediction.image.affine).on(prediction.scan.grid, nearest=True)
        assert inside["voxels"] == (volume.data > 0).sum() > 0


# Beside nnU-Net itself.

VARIANTS = {
    "residual encoder": {"architecture": RESIDUAL},
    "isotropic spline": {},
    "no resampling": {"spacing": [2.5, 1.2, 0.9]},
    "slices apart": {"spacing": [2.5, 0.7, 0.7]},
    "slices apart and resampled": {"spacing": [4.0, 0.9, 0.8]},
    "CT": {"normalization_schemes": ["CTNormalization"]},
    "within the mask": {"use_mask_for_norm": [True]},
    "rescaled": {"normalization_schemes": ["RescaleTo01Normalization"]},
    "transposed": {"transpose_forward": [2, 0, 1]},
    "reoriented": {"image_reader_writer": "SimpleITKIOWithReorient"},
    "two channels": {"normalization_schemes": ["ZScoreNormalization", "NoNormalization"], "use_mask_for_norm": [False, False]},
}
SLICES = {
    "2D": {},
    "2D, transposed": {"transpose_forward": [1, 0, 2], "spacing": [2.0, 1.0]},
    "2D, thin slices": {"spacing": [9.0, 8.0]},
    "2D, thick slices": {"spacing": [0.7, 0.6]},
    "2D, within the mask": {"use_mask_for_norm": [True]},
}
PICTURES = {
    "picture": {"spacing": [1.0, 1.0]},
    "picture, resampled": {"spacing": [1.5, 1.2]},
    "picture, within the mask": {"spacing": [1.0, 1.0], "use_mask_for_norm": [True]},
}


def reference(root: Path, files: list[Path], gaussian: bool = False) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
    """What nnU-Net's own code makes of the files: image, logits of its network, logits of its predictor."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    # Its Gaussian weights are too small for half precision at a window's corners: up to 2 % of its logits is rounding there.
    device = torch.device("cpu")
    predictor = nnUNetPredictor(
        use_gaussian=gaussian, use_mirroring=False, perform_everything_on_device=False, device=device, allow_tqdm=False
    )
    predictor.initialize_from_trained_model_folder(str(root), (0,), "checkpoint_final.pth")
    maker = predictor.configuration_manager.preprocessor_class(verbose=False)
    image, _, _ = maker.run_case(
        [str(f) for f in files], None, predictor.plans_manager, predictor.configuration_manager, predictor.dataset_json
    )
    image = torch.as_tensor(np.asarray(image))
    logits = predictor.predict_logits_from_preprocessed_data(image)
    predictor.network.load_state_dict(predictor.list_of_parameters[0])
    predictor.network.eval()
    return np.asarray(image), logits.float(), predictor.network


def compared(root: Path, files: list[Path], here: Volume) -> tuple[float, float, float]:
    """Largest differences: image (absolute), the networks' logits and the predictor's (relative to the largest)."""
    image, logits, theirs = reference(root, files)
    network, card = load(root)
    ours = card.preprocessing(here)
    image, logits = (image[:, 0], logits[:, 0]) if ours.data.ndim == 3 else (image, logits)  # theirs has one slice
    inside = tuple(slice((m - n) // 2, (m - n) // 2 + n) for n, m in zip(image.shape[1:], ours.data.shape[1:], strict=True))
    assert ours.data[(slice(None), *inside)].shape == image.shape
    x = torch.from_numpy(np.ascontiguousarray(ours.data))[None]
    with torch.no_grad():
        found = network(x)[0]
        # A 2D network of theirs is given one slice at a time.
        same = torch.stack([theirs(s)[0] for s in x.unbind(2)], 1) if x[0, 0].ndim > len(card.preprocessing.size) else theirs(x)[0]
    scale = float(logits.abs().max())
    return (
        float(np.abs(ours.data[(slice(None), *inside)] - image).max()),
        float((found - same).abs().max()) / scale,
        float((found[(slice(None), *inside)] - logits).abs().max()) / scale,
    )


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.filterwarnings("ignore")  # nnU-Net's own
def test_preprocessing_and_logits_are_nnunet_s_own(tmp_path: Path, variant: str) -> None:
    pytest.importorskip("nnunetv2", reason="nnU-Net itself is not installed: pip install nnunetv2")
    change = dict(VARIANTS[variant])
    channels = len(change.get("normalization_schemes", [0]))
    given = plans(**change, patch_size=[16, 24, 24])
    root = made(tmp_path, given, DATASET | {"channel_names": {str(i): f"c{i}" for i in range(channels)}})
    here = scan((18, 14, 9), channels=channels)
    files = [io.write(tmp_path / f"case_{i:04d}.nii.gz", here.like(here.data[i : i + 1])) for i in range(channels)]
    image, networks, predicted = compared(root, files, here)
    assert image < 1e-4
    assert networks < 1e-6
    assert predicted < 1e-3  # the predictor rounds to half precision


@pytest.mark.filterwarnings("ignore")
def test_a_scan_larger_than_the_patch_is_predicted_as_by_nnunet(tmp_path: Path) -> None:
    pytest.importorskip("nnunetv2", reason="nnU-Net itself is not installed: pip install nnunetv2")
    root, here = made(tmp_path, plans(patch_size=[8, 16, 8])), scan((37, 33, 15))
    image, logits, _ = reference(root, [io.write(tmp_path / "case_0000.nii.gz", here)], gaussian=True)
    network, card = load(root)
    assert all(n > p for n, p in zip(image.shape[1:], (8, 16, 8), strict=True))
    with torch.no_grad():
        found = network(torch.from_numpy(image)[None])[0]
        moved = Tiled(untiled(network), card.window, 0.5, "gaussian")(torch.from_numpy(image)[None])[0]
    scale = float(logits.abs().max())
    # Near the image's corners it rounds a lot, see reference: nine voxels in ten are compared.
    ours, monais = (float((f - logits).abs().flatten().quantile(0.9)) / scale for f in (found, moved))
    assert ours < 1e-3 < monais


@pytest.mark.parametrize("variant", SLICES | PICTURES)
@pytest.mark.filterwarnings("ignore")
def test_2d_configurations_are_nnunet_s_own(tmp_path: Path, variant: str) -> None:
    pytest.importorskip("nnunetv2", reason="nnU-Net itself is not installed: pip install nnunetv2")
    change, is_picture = (SLICES | PICTURES)[variant], variant in PICTURES
    reader = {"image_reader_writer": "NaturalImage2DIO"} if is_picture else {}
    root = made(tmp_path, flat(**change, **reader), DATASET | {"file_ending": ".png" if is_picture else ".nii.gz"})
    if is_picture:
        pixels = np.random.default_rng(2).integers(1, 255, (23, 17)).astype(np.uint8)
        pixels[8:12, 5:9] = 0
        file = tmp_path / "case_0000.png"
        Image.fromarray(np.pad(pixels, 3)).save(file)
    else:
        file = io.write(tmp_path / "case_0000.nii.gz", scan((18, 14, 9)))
    image, networks, predicted = compared(root, [file], io.read(file))
    assert image < 1e-4
    assert networks < 1e-6
    assert predicted < 1e-3


@pytest.mark.filterwarnings("ignore")
def test_regions_become_labels_as_in_nnunet(tmp_path: Path) -> None:
    pytest.importorskip("nnunetv2", reason="nnU-Net itself is not installed: pip install nnunetv2")
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    given = plans(patch_size=[16, 24, 24])
    shuffled = OVERLAPPING | {"labels": REGIONS | {"ignore": 4}, "regions_class_order": [2, 1, 3]}
    root = made(tmp_path, given, shuffled)
    here = scan((18, 14, 9))
    image, networks, predicted = compared(root, [io.write(tmp_path / "case_0000.nii.gz", here)], here)
    assert (image < 1e-4, networks < 1e-6, predicted < 1e-3) == (True, True, True)
    network, card = load(root)
    output = predict(network, here, card.preprocessing).output
    theirs = PlansManager(given).get_label_manager(shuffled).convert_logits_to_segmentation(output[0])
    assert len(theirs.unique()) > 2
    assert torch.equal(label_map(output, card.regions)[0], theirs.long())


@pytest.mark.filterwarnings("ignore")
def test_a_folder_that_nnunet_trained() -> None:
    """RADIOLUCENT_NNUNET names the folder, and RADIOLUCENT_NNUNET_SCAN a scan that fits into its patch."""
    pytest.importorskip("nnunetv2", reason="nnU-Net itself is not installed: pip install nnunetv2")
    if "RADIOLUCENT_NNUNET" not in os.environ:
        pytest.skip("no trained folder: set RADIOLUCENT_NNUNET and RADIOLUCENT_NNUNET_SCAN")
    file = Path(os.environ["RADIOLUCENT_NNUNET_SCAN"])
    image, networks, predicted = compared(Path(os.environ["RADIOLUCENT_NNUNET"]), [file], io.read(file))
    print(f"image {image:.2g}, network's logits {networks:.2g}, predictor's logits {predicted:.2g}")
    assert image < 1e-4
    assert networks < 1e-6
    assert predicted < 1e-3
