"""A training as one value: data, preprocessing, augmentation, model, optimiser, stopping. TOML in, TOML out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from radiolucent.errors import BadInput
from radiolucent.models import Preprocessing
from radiolucent.study.reading import absolute, known, read, toml
from radiolucent.training.augmentation import Augmentation
from radiolucent.training.presets import PREPROCESSINGS, PRESETS

Task = Literal["classification", "multi-label", "regression"]
_TASKS: tuple[str, ...] = get_args(Task)


def _check(right: bool, expected: str, got: object, table: str) -> None:
    if not right:
        raise BadInput(f"{expected} in [{table}]", f"{got}", "Correct the recipe.")


@dataclass(frozen=True)
class About:
    """[training] Its name, its task, and the seeds: each is a training of its own with the same data and splits."""

    name: str = "model"
    task: Task = "classification"
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        _check(self.task in _TASKS, f"a task among {', '.join(_TASKS)}", repr(self.task), "training")
        right = self.seeds and len(set(self.seeds)) == len(self.seeds) and all(0 <= s < 1 << 32 for s in self.seeds)
        _check(bool(right), "one or more seeds from 0 to 4294967295, each once", list(self.seeds), "training")


@dataclass(frozen=True)
class Source:
    """[data] Where the cases are: exactly one of medmnist (a name), folder (a subfolder per class) and table.

    Args:
        medmnist, size: one of the six data sets of MedMNIST3D, at 28 or 64 voxels, with its official splits.
        folder: FOLDER/CLASS/files, or FOLDER/SPLIT/CLASS/files with the splits train, val and test.
        table: CSV, TSV or Parquet with a row per case. `image` names its columns of files (several become channels),
            `label` its columns of labels, `split`, `patient`, `mask` and `case` the others; of these, those that are
            not there are done without. Paths start at the table's folder.
        classes: names in the order of the model's outputs; () sorts what is there.
        validation, test, split_seed: shares of the cases that are split off where no split is given, by patient.
        leave_out: go on without files that cannot be read, and say so; else they stop the training before it begins.
    """

    medmnist: str = ""
    size: int = 28
    folder: Path | None = None
    table: Path | None = None
    image: tuple[str, ...] = ("image",)
    label: tuple[str, ...] = ("label",)
    split: str = "split"
    patient: str = "patient"
    mask: str = "mask"
    case: str = "case"
    classes: tuple[str, ...] = ()
    validation: float = 0.15
    test: float = 0.2
    split_seed: int = 0
    colour: Literal["refuse", "grey", "channels"] = "refuse"
    nonfinite: Literal["refuse", "zero"] = "refuse"
    leave_out: bool = False

    def __post_init__(self) -> None:
        given = [name for name in ("medmnist", "folder", "table") if getattr(self, name)]
        _check(len(given) == 1, "exactly one of medmnist, folder and table", ", ".join(given) or "none", "data")
        _check(self.colour in ("refuse", "grey", "channels"), "colour refuse, grey or channels", repr(self.colour), "data")
        _check(self.nonfinite in ("refuse", "zero"), "nonfinite refuse or zero", repr(self.nonfinite), "data")
        right = min(self.validation, self.test) > 0 and self.validation + self.test < 1
        _check(right, "validation and test as shares above 0, together below 1", (self.validation, self.test), "data")
        _check(bool(self.image and self.label), "columns of images and of labels", (self.image, self.label), "data")
        _check(len(set(self.classes)) == len(self.classes), "each class once", list(self.classes), "data")


@dataclass(frozen=True)
class Network:
    """[model] A network by name with plain arguments, as a model card has it.

    Args:
        network, arguments: "monai:NAME", "radiolucent:NAME", or "module:factory" (your code, with trust = true).
        weights: of the whole network, to begin with.
        encoder_weights: of `encoder` alone.
        encoder: the part that `frozen_epochs` freezes.
        head: what is trained in those epochs, all else being frozen; for networks without such a part ("fc").
        layer: for the card: the layer of layer-wise methods.
    """

    network: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    weights: Path | None = None
    encoder_weights: Path | None = None
    encoder: str = "encoder"
    head: tuple[str, ...] = ()
    trust: bool = False
    layer: str = "auto"


@dataclass(frozen=True)
class Optimiser:
    """[optimiser] How the weights are fitted.

    Args:
        kind: nadam, adam, adamw or sgd (momentum 0.9).
        rate, encoder_rate: learning rates; the encoder's is the same where it is 0.
        batch: cases per step, over all devices; `accumulate` does them in that many parts.
        epochs, frozen_epochs: the first ones train all but the encoder, which is in eval mode meanwhile; -1: all of them.
        schedule: the rate is "constant", or falls to 0 as a "cosine" after `warmup` (a share of all steps).
        clip: largest norm of the gradient; 0: none.
        weighted: draw cases so that every class comes equally often (multi-label: more evenly present and absent).
        smoothing: of the labels, in classification.
    """

    kind: Literal["nadam", "adam", "adamw", "sgd"] = "nadam"
    rate: float = 2e-4
    encoder_rate: float = 0.0
    weight_decay: float = 0.0
    batch: int = 64
    accumulate: int = 1
    epochs: int = 50
    frozen_epochs: int = 0
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: float = 0.0
    clip: float = 0.0
    weighted: bool = False
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        _check(self.kind in ("nadam", "adam", "adamw", "sgd"), "kind nadam, adam, adamw or sgd", repr(self.kind), "optimiser")
        _check(self.schedule in ("constant", "cosine"), "schedule constant or cosine", repr(self.schedule), "optimiser")
        rates = (self.rate, self.encoder_rate or self.rate)
        _check(all(0 < r < math.inf for r in rates), "rates above 0", rates, "optimiser")
        _check(min(self.weight_decay, self.clip) >= 0, "weight_decay and clip not below 0", self.weight_decay, "optimiser")
        _check(1 <= self.accumulate <= self.batch, "accumulate from 1 to batch", (self.accumulate, self.batch), "optimiser")
        counts = (self.epochs, self.frozen_epochs)
        _check(min(self.epochs, self.frozen_epochs + 2) > 0, "epochs above 0, frozen_epochs from 0 or -1", counts, "optimiser")
        _check(0 <= self.warmup < 1 and 0 <= self.smoothing < 1, "warmup and smoothing below 1", self.warmup, "optimiser")

    def is_frozen(self, epoch: int) -> bool:
        """Whether the encoder stays as it is in this epoch, counted from 0."""
        return self.frozen_epochs < 0 or epoch < self.frozen_epochs


@dataclass(frozen=True)
class Stopping:
    """[stopping] Which weights stay, and when it ends early.

    `keep` the "last" epoch's weights or those of the "best" validation. With `patience`, that many epochs without a better
    one end the training. `watch` is a measure of the validation, or "loss"; "" is auroc (regression: r2).
    """

    keep: Literal["last", "best"] = "last"
    patience: int = 0
    watch: str = ""

    def __post_init__(self) -> None:
        _check(self.keep in ("last", "best"), "keep last or best", repr(self.keep), "stopping")
        _check(self.patience >= 0, "a patience of 0 (none) or more epochs", self.patience, "stopping")


@dataclass(frozen=True)
class Machine:
    """[machine] What may be changed between runs of one training.

    `device` is "auto" (a GPU where there is one) or "cpu". `precision` is "no", "fp16" or "bf16", and must stay. `keep`
    prepared images in "memory", on "disk" (OUT/prepared), or "nothing". `workers` prepare images; `threads` are PyTorch's
    (0: as they are); `part` cases at a time where nothing is learnt (0: as in training); `checkpoint_seconds` lie between
    two checkpoints. The last bits depend on `device`, `threads` and `part`. `features` is where those of a frozen encoder are
    kept (none: OUT/features): trainings that differ behind the encoder may share it.
    """

    device: Literal["auto", "cpu"] = "auto"
    precision: Literal["no", "fp16", "bf16"] = "no"
    keep: Literal["memory", "disk", "nothing"] = "memory"
    workers: int = 0
    threads: int = 0
    part: int = 0
    checkpoint_seconds: float = 60.0
    features: Path | None = None

    def __post_init__(self) -> None:
        _check(self.device in ("auto", "cpu"), "device auto or cpu", repr(self.device), "machine")
        _check(self.precision in ("no", "fp16", "bf16"), "precision no, fp16 or bf16", repr(self.precision), "machine")
        _check(self.keep in ("memory", "disk", "nothing"), "keep memory, disk or nothing", repr(self.keep), "machine")
        least = min(self.workers, self.threads, self.part, self.checkpoint_seconds)
        _check(least >= 0, "numbers not below 0", least, "machine")


@dataclass(frozen=True)
class Recipe:
    """All tables of a recipe. Paths are absolute: `read_recipe` takes them relative to its file."""

    training: About
    data: Source
    preprocessing: Preprocessing
    augmentation: Augmentation
    model: Network
    optimiser: Optimiser
    stopping: Stopping
    machine: Machine

    @property
    def watch(self) -> str:
        """The measure of the validation that decides."""
        return self.stopping.watch or ("r2" if self.training.task == "regression" else "auroc")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as TOML has them; what says nothing is left out."""
        tables = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "preprocessing"}
        tables = {name: asdict(table) for name, table in tables.items()} | {"preprocessing": self.preprocessing.as_dict()}
        return {name: _plain(table) for name, table in tables.items() if _plain(table)}

    def identity(self) -> dict[str, Any]:
        """What must stay the same while a training goes on: all but its name, its seeds, and the machine."""
        tables = {k: v for k, v in self.as_dict().items() if k not in ("machine", "training")}
        return {"training": {"task": self.training.task}, "machine": {"precision": self.machine.precision}, **tables}

    def to_toml(self) -> str:
        """The whole recipe; its preset is written out."""
        import tomli_w

        return tomli_w.dumps(self.as_dict())


def read_recipe(path: str | Path, preset: str = "") -> Recipe:
    """A recipe from its TOML file; an unknown table or key is an error that lists the valid ones."""
    path = Path(path)
    return from_tables(toml(path, "docs/training.md"), path.resolve().parent, preset)


def from_tables(values: Mapping[str, Any], base: Path, preset: str = "") -> Recipe:
    """A recipe from TOML's tables, over those of its preset; relative paths start at `base`."""
    preset = preset or str(values.get("preset", ""))
    known(dict.fromkeys([preset] if preset else []), PRESETS, "presets")
    known({name: table for name, table in values.items() if name != "preset"}, _KINDS, "preset and tables of a recipe")
    return Recipe(**{name: _part(name, PRESETS.get(preset, {}).get(name, {}), values.get(name, {}), base) for name in _KINDS})


def _part(name: str, preset: Mapping[str, Any], table: Any, base: Path) -> Any:
    if not isinstance(table, dict):
        raise BadInput(f"a table [{name}]", repr(table), "Correct the recipe.")
    table, kind = {**preset, **table}, _KINDS[name]
    if kind is Preprocessing:
        return _preprocessing(table)
    keys = {f.name: str(f.type) for f in fields(kind)}
    known(table, keys, f"keys of [{name}]")
    for key in ("folder", "table", "weights", "encoder_weights", "features"):
        if key in table and (table[key] == "" or "\0" in str(table[key])):
            raise BadInput(f"a path for {name}.{key}", repr(table[key]), "Give one, or leave the key out.")
    one = {key for key, value in table.items() if keys[key] == "tuple[str, ...]" and isinstance(value, str)}  # a name on its own
    given = {key: read(f"{name}.{key}", keys[key], [value] if key in one else value, base) for key, value in table.items()}
    if name == "model" and "network" not in given:
        raise BadInput("the key network in [model]", "none", 'network = "monai:resnet18", with its arguments in [model.arguments]')
    if name == "model":
        given["arguments"] = _paths(given.get("arguments", {}), base)
    return kind(**given)


def _paths(arguments: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """Arguments as they are, but that a file beside the recipe is named from the root."""
    files = {k for k, v in arguments.items() if isinstance(v, str) and Path(v).suffix and (base / v).is_file()}
    return {k: str(absolute(base, v)) if k in files else v for k, v in arguments.items()}


def _preprocessing(table: Mapping[str, Any]) -> Preprocessing:
    name = table.get("preset", "")
    known(dict.fromkeys([name] if name else []), PREPROCESSINGS, "presets of [preprocessing]")
    return Preprocessing.from_dict({**PREPROCESSINGS.get(name, {}), **{k: v for k, v in table.items() if k != "preset"}})


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items() if v is not None and v not in ("", (), {})}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


_KINDS: dict[str, type[Any]] = {
    "training": About,
    "data": Source,
    "preprocessing": Preprocessing,
    "augmentation": Augmentation,
    "model": Network,
    "optimiser": Optimiser,
    "stopping": Stopping,
    "machine": Machine,
}
