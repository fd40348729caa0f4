"""MONAI bundles: configs/inference.json, configs/metadata.json and models/model.pt, in a folder or a zip file.

A bundle's configuration is a program: `$` marks expressions, `_target_` names anything that can be imported.
Only a network of monai.networks.nets with plain arguments is built from it without trust.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from torch import nn

from radiolucent.errors import BadInput
from radiolucent.models.card import Card, Task
from radiolucent.models.loading import archives
from radiolucent.models.loading.factories import build
from radiolucent.models.loading.files import ASK
from radiolucent.models.loading.transforms import preprocessing_of, windows_of
from radiolucent.models.loading.weights import load_weights

_CONFIGS = tuple(f"configs/inference.{suffix}" for suffix in ("json", "yaml", "yml"))
_WEIGHTS = tuple(f"models/model.{suffix}" for suffix in ("safetensors", "pt", "pth", "ts"))


def is_bundle(path: Path) -> bool:
    """A folder with configs/inference.*, or a zip file with one."""
    if path.is_dir():
        return any((path / name).is_file() for name in _CONFIGS)
    if zipfile.is_zipfile(path):
        with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
            return any(name.endswith(_CONFIGS) for name in archive.namelist())
    return False


def load(path: Path, weights: Path | None, trust: bool) -> tuple[nn.Module, Card]:
    """The bundle's network and weights, and a card with what its files say."""
    if not path.is_dir() and zipfile.is_zipfile(path):
        with tempfile.TemporaryDirectory() as folder:
            return _load(_unpacked(path, Path(folder)), path.stem, weights, trust)
    if not is_bundle(path):
        raise BadInput(f"configs/inference.json in {path}", "none", "Is it the folder of a MONAI bundle?")
    return _load(path, path.resolve().name, weights, trust)


def _load(folder: Path, name: str, weights: Path | None, trust: bool) -> tuple[nn.Module, Card]:
    config = Config(_read(_first(folder, _CONFIGS)), trust, folder)
    metadata = _read(folder / "configs" / "metadata.json") if (folder / "configs" / "metadata.json").is_file() else {}
    file = weights or _first(folder, _WEIGHTS)
    if file.suffix == ".ts":
        network, notes = archives.read(file, trust)
        channels, kind = None, "archive"
    else:
        definition = config.value("network_def")
        if not isinstance(definition, dict) or "_target_" not in definition:
            raise BadInput("network_def with a _target_ in the bundle", f"{definition!r}", "Write a card instead (docs: models).")
        kind = _network_name(definition["_target_"])
        arguments = {key: value for key, value in definition.items() if not key.startswith("_")}
        network = build(kind, arguments, trust, "the bundle")
        notes = load_weights(network, file, trust=trust)
        channels = arguments.get("in_channels")
    inputs = _dig(metadata, "network_data_format", "inputs", "image")
    outputs = _dig(metadata, "network_data_format", "outputs", "pred")
    channels = inputs.get("num_channels", channels)
    return network, Card(
        name=str(metadata.get("name", name)),
        task=_task(outputs),
        network=kind,
        weights=file.name,
        channels=channels,
        classes=_classes(outputs),
        preprocessing=preprocessing_of(config, channels or 1),
        **windows_of(config),
        about={"licence": str(metadata["copyright"])} if "copyright" in metadata else {},
        notes=(*config.notes, *notes, *_overlapping(config)),
    )


class Config:
    """A bundle's configuration, from which plain values are taken; expressions only with trust."""

    def __init__(self, values: Mapping[str, Any], trust: bool, folder: Path) -> None:
        self.values, self.trust, self.folder = values, trust, folder
        self.evaluated: list[str] = []

    @property
    def notes(self) -> tuple[str, ...]:
        """What was run because it is trusted."""
        return (f"the bundle's expressions were trusted and run: {', '.join(self.evaluated)}",) if self.evaluated else ()

    def value(self, name: str, default: Any = None) -> Any:
        """The entry `name` ("a::b::0" leads inwards) with all references to others replaced by what they stand for."""
        return self._resolved(self._entry(name, default), name, ())

    def _entry(self, name: str, default: Any = None) -> Any:
        found: Any = self.values
        for part in name.replace("#", "::").split("::"):
            if isinstance(found, Mapping) and part in found:
                found = found[part]
            elif isinstance(found, list) and part.isdecimal() and int(part) < len(found):
                found = found[int(part)]
            else:
                return default
        return found

    def _resolved(self, value: Any, name: str, seen: tuple[str, ...]) -> Any:
        if isinstance(value, Mapping):
            return {key: self._resolved(v, f"{name}::{key}", seen) for key, v in value.items()}
        if isinstance(value, list):
            return [self._resolved(v, f"{name}::{i}", seen) for i, v in enumerate(value)]
        if not isinstance(value, str) or value[:1] not in ("@", "$", "%"):
            return value
        if value[0] == "@":
            to = value[1:].replace("#", "::")
            missing = object()
            found = self._entry(to, missing)
            if found is missing or to in seen:
                raise BadInput(f"references that lead somewhere in the bundle ({name})", value, "Mend its configuration.")
            return self._resolved(found, to, (*seen, to))
        if not self.trust:
            do = f"Expressions run code. {ASK} Else write a card (docs: models)."
            raise BadInput(f"plain values at {name} of the bundle", value, do)
        return self._run(name, value)

    def _run(self, name: str, value: str) -> Any:
        from monai.bundle import ConfigParser

        self.evaluated.append(value)
        try:
            parser = ConfigParser({**self.values, "bundle_root": str(self.folder)})
            return parser.get_parsed_content(name)
        except Exception as error:
            raise BadInput(
                f"an expression that can be run at {name} of the bundle", f"{value}: {error}", "Write a card."
            ) from error


def _network_name(target: Any) -> str:
    """A class by its name, or by its path within monai.networks.nets; anything else is code of the bundle's own."""
    text = str(target)
    module, _, name = text.rpartition(".")
    return f"monai:{name}" if not module or f"{module}.".startswith("monai.networks.nets.") else f"{module}:{name}"


def _task(outputs: Mapping[str, Any]) -> Task:
    if outputs.get("type") in ("probabilities", "classes", "classification"):
        return "classification"
    return "segmentation"


def _classes(outputs: Mapping[str, Any]) -> tuple[str, ...]:
    found = outputs.get("channel_def")
    if not isinstance(found, Mapping) or sorted(found, key=str) != sorted(map(str, range(len(found))), key=str):
        return ()
    return tuple(str(found[str(i)]) for i in range(len(found)))


def _overlapping(config: Config) -> tuple[str, ...]:
    """Sigmoid outputs of several channels: a region is then not what the bundle's own thresholds give."""
    text = json.dumps(config.values.get("postprocessing", ""), default=str)
    if "Activations" in text and '"sigmoid": true' in text:
        return ("its output channels may overlap (sigmoid): a region here is where its channel is the largest",)
    return ()


def _dig(values: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    for key in keys:
        values = values.get(key, {}) if isinstance(values, Mapping) else {}
    return values if isinstance(values, Mapping) else {}


def _first(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    have = sorted(str(p.relative_to(folder)) for p in folder.glob("*/*"))[:10]
    raise BadInput(
        f"one of {', '.join(names)} in the bundle", f"{have}", "Is it whole? Weights may also be given apart: --weights."
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text("utf-8-sig")
        if path.suffix == ".json":
            values = json.loads(text)
        else:
            import yaml

            values = yaml.safe_load(text)
    except ImportError:
        raise BadInput(f"PyYAML, which {path.name} is read with", "not installed", 'pip install "radiolucent[monai]"') from None
    except Exception as error:
        raise BadInput(f"{path.suffix[1:].upper()} in {path.name}", str(error)[:300], "Mend the bundle.") from None
    if not isinstance(values, dict):
        raise BadInput(f"a table of keys and values in {path.name}", type(values).__name__, "Mend the bundle.")
    return values


def _unpacked(path: Path, folder: Path) -> Path:
    """The bundle's own files, unpacked; an archive with a name that leads outside is refused whole."""
    with zipfile.ZipFile(path) as archive:
        members = [m for m in archive.infolist() if not m.is_dir()]
        for member in members:
            parts = PurePosixPath(member.filename.replace("\\", "/")).parts
            link = stat.S_ISLNK(member.external_attr >> 16)
            if link or ".." in parts or not parts or parts[0].endswith((":", "/")):
                what = f"{'the link ' if link else ''}{member.filename!r}"
                raise BadInput(f"files that stay inside {path.name}", what, "Nothing of it was unpacked: get it anew.")
        (config,) = sorted((m.filename for m in members if m.filename.endswith(_CONFIGS)), key=len)[:1]
        root = PurePosixPath(config).parent.parent
        wanted = {str(root / name) for name in (*_CONFIGS, *_WEIGHTS, "configs/metadata.json")}
        chosen = [m for m in members if m.filename in wanted]
        size, free = sum(m.file_size for m in chosen), shutil.disk_usage(folder).free
        if size > free:
            raise BadInput(f"at most {free / 2**30:.3g} GiB in {path.name}, which is free", f"{size / 2**30:.3g} GiB", "Unpack it.")
        for member in chosen:
            archive.extract(member, folder)
    return folder / root
