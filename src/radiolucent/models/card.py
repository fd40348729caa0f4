"""The model card: what a weights file alone does not say."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from radiolucent.errors import BadInput
from radiolucent.models.preprocessing import Prepares, Preprocessing

Task = Literal["classification", "regression", "segmentation"]


@dataclass(frozen=True)
class Card:
    """`card.json` or `card.toml` beside the weights, so that the folder is all that is needed.

    Args:
        name: what the model is called.
        task: classification, regression or segmentation; decides what a target index means.
        network: "monai:NAME" for a class of monai.networks.nets, "radiolucent:NAME" for one of this package
            (Morphometry, AnatomyNet), "module:factory" (your code, run only with trust), or "archive": `weights` is a
            TorchScript or torch.export archive (only with trust).
        arguments: keyword arguments of the network.
        weights: file name of the weights, safetensors or a state dict.
        channels: number of input channels; None where nobody says it (module:factory).
        classes: names of the classes, labels or outputs, in the order of the output.
        regions: where the channels overlap, each with a sigmoid of its own (region-based training): the labels that
            they write into the segmentation, one after the other, each over what was there. () where they exclude
            each other.
        layer: the layer for layer-wise methods where the user names none ("auto": the last with a grid).
        output: key or position of the part to explain, where the model returns several.
        preprocessing: see Preprocessing.
        window: predict in windows of this size, with `overlap` and `blend` (see Tiled); None: the whole scan at once.
        spread: standard deviation of each output over the training data, in their order, for methods that measure a
            change of an output by it (SMOCAM). () where nobody says it.
        mean: of each output over the training data, beside `spread`: how much each varies, for studies.
        about: anything else worth knowing: data, licence, split, figures, limits.
        notes: remarks that loading gave rise to; they travel into the provenance and the report.
    """

    name: str
    task: Task
    network: str
    weights: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    channels: int | None = 1
    classes: tuple[str, ...] = ()
    regions: tuple[int, ...] = ()
    layer: str = "auto"
    output: str | int | None = None
    preprocessing: Prepares = field(default_factory=Preprocessing)
    window: tuple[int, ...] | None = None
    overlap: float | tuple[float, ...] = 0.25
    blend: str = "constant"
    spread: tuple[float, ...] = ()
    mean: tuple[float, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def index(self, target: str) -> int:
        """A class by its name or number."""
        if target in self.classes:
            return self.classes.index(target)
        if target.isdecimal() and (not self.classes or int(target) < len(self.classes)):
            return int(target)
        have = ", ".join(f"{i} {name}" for i, name in enumerate(self.classes)) or "the card names no classes; give a number"
        raise BadInput("a target that the model has", repr(target), f"Choose among: {have}.")

    def check_outputs(self, output: Tensor) -> None:
        """Refuse class names that are more or fewer than the model's outputs (b, classes, *grid)."""
        width = output.shape[1] if output.ndim > 1 else 1
        named = len(self.classes)
        pair = width == 1 and named == 2 and self.task == "segmentation"  # background and the one channel's label
        if named and named != width and not pair:
            do = "Correct `classes` in the model card: one name for each output, in their order."
            raise BadInput(f"{named} outputs, as {self.name} names classes", f"{width} from the model", do)

    def label_names(self) -> dict[int, str]:
        """Names of the labels in a segmentation: of overlapping regions, what later ones have left of each."""
        if not self.regions:
            return dict(enumerate(self.classes))
        left = {label: f"{name}, rest" for label, name in zip(self.regions, self.classes, strict=False)}
        return {0: "background"} | left | dict(zip(self.regions[-1:], self.classes[-1:], strict=False))


def find_card(folder: Path) -> Path:
    """The card in a model's folder."""
    for name in ("card.json", "card.toml"):
        if (folder / name).is_file():
            return folder / name
    have = sorted(p.name for p in folder.iterdir())[:10]
    raise BadInput(f"card.json or card.toml in {folder}", f"{have}", "See docs: model cards.")


def read_card(path: str | Path) -> Card:
    """Read a card; an unknown or missing key is an error that lists the valid ones."""
    path = Path(path)
    path = find_card(path) if path.is_dir() else path
    try:
        text = path.read_text("utf-8-sig")
        values: Any = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"a model card at {path}", str(error), "JSON or TOML; see docs: model cards.") from None
    if not isinstance(values, dict):
        raise BadInput(f"a table of keys and values in {path}", type(values).__name__, "See docs: model cards.")
    unknown = [k for k in values if k not in _KEYS]
    values = {k: v for k, v in values.items() if v is not None}
    missing = [k for k in ("name", "task", "network", "weights") if k not in values]
    if unknown or missing:
        raise BadInput(f"a card with keys among {', '.join(_KEYS)}", f"unknown {unknown}, missing {missing}", f"Correct {path}.")
    wrong = [f"{k}: {type(values[k]).__name__}" for k, kind in _KEYS.items() if k in values and type(values[k]) not in kind]
    if wrong or not all(isinstance(name, str) for name in values.get("classes", ())) or values.get("channels", 1) < 1:
        expected = "text, lists of names (classes), tables (arguments, preprocessing, about) and a whole number above 0 (channels)"
        raise BadInput(
            expected, ", ".join(wrong) or f"classes {values.get('classes')}, channels {values.get('channels')}", f"Correct {path}."
        )
    if values["task"] not in ("classification", "regression", "segmentation"):
        raise BadInput("task classification, regression or segmentation", repr(values["task"]), f"Correct {path}.")
    values["preprocessing"] = Preprocessing.from_dict(values.get("preprocessing", {}))
    values["classes"] = tuple(values.get("classes", ()))
    values["regions"] = tuple(values.get("regions", ()))
    values |= {key: tuple(values[key]) for key in ("window", "overlap") if isinstance(values.get(key), list)}
    values["spread"] = tuple(values.get("spread", ()))
    if any(type(s) not in (int, float) or not 0 < s < float("inf") for s in values["spread"]):
        raise BadInput("numbers above 0 as spread", f"{list(values['spread'])}", f"Correct {path}.")
    values["mean"] = tuple(values.get("mean", ()))
    if any(type(m) not in (int, float) or not math.isfinite(m) for m in values["mean"]):
        raise BadInput("numbers as mean", f"{list(values['mean'])}", f"Correct {path}.")
    if any(type(label) is not int or label < 1 for label in values["regions"]):
        raise BadInput("labels above 0 as regions", f"{list(values['regions'])}", f"Correct {path}.")
    return Card(**values)


_KEYS: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "task": (str,),
    "network": (str,),
    "weights": (str,),
    "arguments": (dict,),
    "channels": (int,),
    "classes": (list,),
    "regions": (list,),
    "layer": (str,),
    "output": (str, int),
    "preprocessing": (dict,),
    "window": (list,),
    "overlap": (float, int, list),
    "blend": (str,),
    "spread": (list,),
    "mean": (list,),
    "about": (dict,),
}
