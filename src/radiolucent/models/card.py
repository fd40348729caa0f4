"""The model card: what a weights file alone does not say."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from radiolucent.errors import BadInput
from radiolucent.models.preprocessing import Preprocessing

Task = Literal["classification", "regression", "segmentation"]


@dataclass(frozen=True)
class Card:
    """`card.json` or `card.toml` beside the weights, so that the folder is all that is needed.

    Args:
        name: what the model is called.
        task: classification, regression or segmentation; decides what a target index means.
        network: "monai:NAME" for a class of monai.networks.nets, or "module:factory" (your code, run
            only with trust).
        arguments: keyword arguments of the network.
        weights: file name of the weights, safetensors or a state dict.
        channels: number of input channels.
        classes: names of the classes, labels or outputs, in the order of the output.
        layer: the layer for layer-wise methods where the user names none ("auto": the last with a grid).
        output: key or position of the part to explain, where the model returns several.
        preprocessing: see Preprocessing.
        about: anything else worth knowing: data, licence, split, figures, limits.
    """

    name: str
    task: Task
    network: str
    weights: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    channels: int = 1
    classes: tuple[str, ...] = ()
    layer: str = "auto"
    output: str | int | None = None
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    about: Mapping[str, Any] = field(default_factory=dict)

    def index(self, target: str) -> int:
        """A class by its name or number."""
        if target.isdigit():
            return int(target)
        if target in self.classes:
            return self.classes.index(target)
        have = ", ".join(f"{i} {name}" for i, name in enumerate(self.classes)) or "the card names no classes; give a number"
        raise BadInput("a target that the model has", repr(target), f"Choose among: {have}.")


def find_card(folder: Path) -> Path:
    for name in ("card.json", "card.toml"):
        if (folder / name).is_file():
            return folder / name
    raise BadInput(f"card.json or card.toml in {folder}", f"{sorted(p.name for p in folder.iterdir())[:10]}", "See docs: model cards.")


def read_card(path: str | Path) -> Card:
    """Read a card; an unknown or missing key is an error that lists the valid ones."""
    path = Path(path)
    path = find_card(path) if path.is_dir() else path
    try:
        text = path.read_text("utf-8")
        values: dict[str, Any] = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError) as error:
        raise BadInput(f"a model card at {path}", str(error), "JSON or TOML; see docs: model cards.") from None
    known = tuple(Card.__dataclass_fields__)
    unknown = [k for k in values if k not in known]
    missing = [k for k in ("name", "task", "network", "weights") if k not in values]
    if unknown or missing:
        raise BadInput(f"a card with keys among {', '.join(known)}", f"unknown {unknown}, missing {missing}", f"Correct {path}.")
    if values["task"] not in ("classification", "regression", "segmentation"):
        raise BadInput("task classification, regression or segmentation", repr(values["task"]), f"Correct {path}.")
    values["preprocessing"] = Preprocessing.from_dict(values.get("preprocessing", {}))
    values["classes"] = tuple(values.get("classes", ()))
    return Card(**values)
