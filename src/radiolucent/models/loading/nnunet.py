"""Trained nnU-Net v2 folders: plans.json, dataset.json and fold_*/checkpoint_*.pth, without nnU-Net itself.

A folder is one configuration, such as `nnUNetTrainer__nnUNetPlans__3d_fullres`. The network is built by
dynamic_network_architectures, the small package that nnU-Net itself takes its networks from.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from radiolucent.errors import BadInput
from radiolucent.models.card import Card
from radiolucent.models.loading.factories import made
from radiolucent.models.loading.files import ASK
from radiolucent.models.loading.weights import fit, read_checkpoint
from radiolucent.models.nnunet_preprocessing import Channel, NnUNetPreprocessing
from radiolucent.models.slicewise import Slicewise

_PACKAGE = "dynamic_network_architectures"
_UNETS = f"{_PACKAGE}.architectures.unet"


def root_of(path: Path) -> Path | None:
    """The configuration's folder, for itself, for a fold in it, or for a checkpoint in a fold."""
    for folder in (path, path.parent, path.parent.parent):
        if (folder / "plans.json").is_file() and (folder / "dataset.json").is_file():
            return folder
    return None


def load(path: Path, weights: Path | None, trust: bool) -> tuple[nn.Module, Card]:
    """The network of one fold, and a card with nnU-Net's own preprocessing."""
    root = root_of(path)
    if root is None:
        have = sorted(p.name for p in path.iterdir())[:10] if path.is_dir() else "no such folder"
        do = "Give the folder of a trained configuration, such as nnUNetTrainer__nnUNetPlans__3d_fullres."
        raise BadInput(f"plans.json and dataset.json in {path}", f"{have}", do)
    plans, dataset = _json(root / "plans.json"), _json(root / "dataset.json")
    file, notes = _checkpoint(root, path, weights)
    checkpoint = read_checkpoint(file, trust=trust)
    try:
        name = (checkpoint.rest or {}).get("init_args", {}).get("configuration") or root.name.split("__")[-1]
        configuration = _configuration(plans, name)
        channels = list((dataset.get("channel_names") or dataset["modality"]).values())
        classes, regions = _classes(dataset, root)
        preprocessing = _preprocessing(plans, configuration, len(channels))
        network = _network(configuration, len(channels), len(classes), trust)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        reason = f"{type(error).__name__}: {error}"
        raise BadInput(f"plans.json and dataset.json of nnU-Net v2 in {root}", reason, "Is it a folder of v1?") from error
    notes += checkpoint.notes + fit(network, checkpoint, file.name)
    network = Slicewise(network) if len(configuration["patch_size"]) == 2 else network
    about = {"configuration": root.name, "checkpoint": f"{file.parent.name}/{file.name}", "channels": channels}
    return network, Card(
        name=f"{plans.get('dataset_name', root.parent.name)} {name}",
        task="segmentation",
        network="nnunet",
        weights=str(file),
        channels=len(channels),
        classes=classes,
        regions=regions,
        preprocessing=preprocessing,
        # As nnU-Net predicts, but for its mirrored copies; slices of 2D configurations are seen whole.
        window=preprocessing.size if len(preprocessing.size) == 3 else None,
        overlap=0.5,
        blend="nnunet",
        about=about,
        notes=notes,
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"JSON in {path}", str(error), "Copy the folder again.") from None
    if not isinstance(values, dict):
        raise BadInput(f"a table of keys and values in {path}", type(values).__name__, "Copy the folder again.")
    return values


def _checkpoint(root: Path, path: Path, weights: Path | None) -> tuple[Path, tuple[str, ...]]:
    """The checkpoint that was named, or the final one of the first fold."""
    if weights or path.suffix == ".pth":
        return weights or path, ()
    folds = sorted(p for p in root.glob("fold_*") if p.is_dir())
    if not folds:
        raise BadInput(f"a folder fold_0, ... or fold_all in {root}", "none", "Give the folder of a trained configuration.")
    chosen, notes = (path if path in folds else folds[0]), []
    if len(folds) > 1 and path not in folds:
        notes = [f"one of {', '.join(p.name for p in folds)} is explained, {folds[0].name}; to choose: nnunet:{root / 'fold_N'}"]
    if not (chosen / "checkpoint_final.pth").is_file():
        have = sorted(p.name for p in chosen.glob("*.pth"))
        do = f"Name one: nnunet:{chosen / have[0]}" if have else "Is the training finished?"
        raise BadInput(f"checkpoint_final.pth in {chosen}", ", ".join(have) or "no checkpoint", do)
    return chosen / "checkpoint_final.pth", tuple(notes)


def _configuration(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """One configuration of the plans, with what it inherits from others."""
    known = plans["configurations"]
    if name not in known:
        raise BadInput(f"a configuration among {', '.join(known)}", name, "Is plans.json that of this training?")
    values, seen = dict(known[name]), [name]
    while "inherits_from" in values:
        parent = values.pop("inherits_from")
        if parent in seen or parent not in known:
            raise BadInput("configurations that inherit from each other in a line", f"{seen} and {parent!r}", "Mend plans.json.")
        seen.append(parent)
        values = dict(known[parent]) | values
    if len(values["patch_size"]) not in (2, 3):
        raise BadInput("a patch of 2 or 3 axes in plans.json", f"{values['patch_size']}", "Is it whole?")
    if values.get("previous_stage"):
        raise BadInput(
            "a configuration with one stage", f"{name}, a cascade on another's output", "Choose 3d_fullres or 3d_lowres."
        )
    return values


def _classes(dataset: Mapping[str, Any], root: Path) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names in the order of the output's channels; where these are regions that overlap, the labels that they write."""
    labels = {name: value for name, value in dataset["labels"].items() if name != "ignore"}
    if any(isinstance(value, list) and len(value) > 1 for value in labels.values()):
        names = tuple(name for name, value in labels.items() if value != 0 and set(np.atleast_1d(value)) != {0})
        order = dataset.get("regions_class_order")
        if not isinstance(order, list) or len(order) != len(names):
            expected = f"regions_class_order with a label for each of {', '.join(names)} in {root / 'dataset.json'}"
            raise BadInput(expected, repr(order), "Is it the file of this training?")
        return names, tuple(map(int, order))
    values = {int(value[0] if isinstance(value, list) else value): name for name, value in labels.items()}
    if sorted(values) != list(range(len(labels))):
        raise BadInput("labels 0, 1, 2, ... in dataset.json", f"{sorted(values)}", "Is it the file of this training?")
    return tuple(values[i] for i in range(len(values))), ()


def _preprocessing(plans: Mapping[str, Any], configuration: Mapping[str, Any], channels: int) -> NnUNetPreprocessing:
    reader, made_by = plans.get("image_reader_writer", "SimpleITKIO"), configuration.get("preprocessor_name", "DefaultPreprocessor")
    sampler = configuration.get("resampling_fn_data", "resample_data_or_seg_to_shape")
    own = [name for name in (made_by, sampler) if name not in ("DefaultPreprocessor", "resample_data_or_seg_to_shape")]
    if own or reader not in _READERS:
        do = "What it does cannot be known here: preprocess yourself, and write a card."
        raise BadInput("nnU-Net's default preprocessing", ", ".join(own) or f"the reader {reader}", do)
    settings, axes = configuration.get("resampling_fn_data_kwargs", {}), len(configuration["patch_size"])
    return NnUNetPreprocessing(
        spacing=tuple(map(float, configuration["spacing"])),
        size=tuple(map(int, configuration["patch_size"])),
        multiple=(1, 1, 1) if axes == 3 else _multiple(configuration),
        channels=tuple(_channel(configuration, plans, c) for c in range(channels)),
        transpose=tuple(plans["transpose_forward"]),
        orientation=_READERS[reader],
        pictures=reader == "NaturalImage2DIO",
        order=int(settings.get("order", 3)),
        order_z=int(settings.get("order_z", 0)),
        separate_z=settings.get("force_separate_z"),
    )


_READERS = {
    "SimpleITKIO": None,
    "NibabelIO": None,
    "SimpleITKIOWithReorient": "RAS",
    "NibabelIOWithReorient": "RAS",
    "NaturalImage2DIO": None,
}


def _multiple(configuration: Mapping[str, Any]) -> tuple[int, ...]:
    """The total stride of a 2D network, along each axis."""
    strides = [s if isinstance(s, Sequence) else (s, s) for s in _architecture(configuration)[1]["strides"]]
    return tuple(prod(s) for s in zip(*strides, strict=True))


def _channel(configuration: Mapping[str, Any], plans: Mapping[str, Any], c: int) -> Channel:
    scheme, masked = configuration["normalization_schemes"][c], bool(configuration["use_mask_for_norm"][c])
    if scheme != "CTNormalization":
        return Channel(scheme, masked)
    found = plans["foreground_intensity_properties_per_channel"][str(c)]
    return Channel(scheme, masked, found["mean"], found["std"], found["percentile_00_5"], found["percentile_99_5"])


def _network(configuration: Mapping[str, Any], channels: int, classes: int, trust: bool) -> nn.Module:
    """Built as the plans say, with deep supervision off: the output is the full-resolution logits alone."""
    name, arguments, imported = _architecture(configuration)
    arguments = {k: _located(v, trust) if k in imported and v is not None else v for k, v in arguments.items()}
    whole = {"input_channels": channels, "num_classes": classes, "deep_supervision": False, **arguments}
    return made(_located(name, trust), whole, name, f"arguments that {name} takes", "Is plans.json that of this training?")


def _architecture(configuration: Mapping[str, Any]) -> tuple[str, dict[str, Any], Sequence[str]]:
    """(class, arguments, arguments that name a class); plans before nnU-Net 2.4 spell it otherwise."""
    if "architecture" in configuration:
        given = configuration["architecture"]
        return given["network_class_name"], dict(given["arch_kwargs"]), given.get("_kw_requires_import", ())
    kind, convolutions = configuration["UNet_class_name"], configuration["n_conv_per_stage_encoder"]
    blocks = {"PlainConvUNet": "n_conv_per_stage", "ResidualEncoderUNet": "n_blocks_per_stage"}.get(kind)
    if blocks is None:
        raise BadInput("PlainConvUNet or ResidualEncoderUNet as UNet_class_name", kind, "Plan again with a newer nnU-Net.")
    first, most = configuration["UNet_base_num_features"], configuration["unet_max_num_features"]
    axes = len(configuration["patch_size"])
    arguments = {
        "n_stages": len(convolutions),
        "features_per_stage": [min(first * 2**i, most) for i in range(len(convolutions))],
        "conv_op": f"torch.nn.Conv{axes}d",
        "kernel_sizes": configuration["conv_kernel_sizes"],
        "strides": configuration["pool_op_kernel_sizes"],
        blocks: convolutions,
        "n_conv_per_stage_decoder": configuration["n_conv_per_stage_decoder"],
        "conv_bias": True,
        "norm_op": f"torch.nn.InstanceNorm{axes}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    return f"{_UNETS}.{kind}", arguments, ("conv_op", "norm_op", "nonlin")


def _located(name: str, trust: bool) -> Any:
    """A class by its dotted name: one of PyTorch's modules or of nnU-Net's networks, others only with trust."""
    source = name.split(".")[0]
    module, _, last = name.rpartition(".")
    if name.startswith("torch.nn."):
        module = "torch.nn"
    elif source != _PACKAGE and not trust:
        do = f"It would run code that the plans name. {ASK}"
        raise BadInput(f"plans that name classes of torch.nn and {_PACKAGE}", name, do)
    try:
        found = getattr(importlib.import_module(module), last, None)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == _PACKAGE:
            do = 'pip install "radiolucent[nnunet]" (nnU-Net itself is not needed)'
            raise BadInput(f"{_PACKAGE}, which this model is built from", "not installed", do) from None
        if source == _PACKAGE and module != _UNETS:  # classes have moved between its versions
            return _located(f"{_UNETS}.{last}", trust)
        raise BadInput(f"a module that can be imported for {name}", f"{error}", "Install what the training used.") from error
    if not (inspect.isclass(found) and issubclass(found, nn.Module)):
        raise BadInput("a class of networks or layers in plans.json", name, "Is your version that of the training?")
    return found
