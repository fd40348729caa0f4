"""A whole scoreboard as one value: methods, metrics, models with their cases. TOML in, TOML out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

from radiolucent.baselines import BASELINES
from radiolucent.bench.presets import PRESETS, Preset
from radiolucent.errors import BadInput
from radiolucent.methods.naming import label_of as method_label
from radiolucent.methods.naming import method_of
from radiolucent.metrics import FAITHFULNESS, Part, Seconds, from_text, label_of
from radiolucent.protocols import Method
from radiolucent.study.reading import absolute, known, read, toml
from radiolucent.targets import Region


@dataclass(frozen=True)
class Contender:
    """[[models]] A model, and the cases on which its maps are judged.

    Args:
        name: what it is called in the tables.
        model: as for `radiolucent.load`.
        cases: a table with the column file, and where they are known case, target or label, truth, parcellation.
        targets, reduce: as in a study's [explain], for cases that name no target of their own.
        device, trust: as in a study's [model].
    """

    name: str
    model: str
    cases: Path
    targets: tuple[str, ...] = ()
    reduce: Literal["sum", "mean", "probability"] = "sum"
    device: str = "cpu"
    trust: bool = False

    def __post_init__(self) -> None:
        Region(0, reduce=self.reduce)
        if not self.name.strip():
            raise BadInput("a name for each of [[models]]", repr(self.name), 'name = "resnet"')


@dataclass(frozen=True)
class Recipe:
    """What is measured. Paths are absolute: `read_recipe` takes them relative to its file.

    Args:
        methods, metrics: each once; `seconds` is always among the metrics.
        models: each with cases of its own.
        cases: at most so many of each model's, drawn by `seed`; 0: all. `seed` is also that of the intervals; methods and
            metrics have their own.
        part: what counts as mass of a signed map where a mask says what should be found.
        name: for the page. preset: where methods and metrics came from; decides which models and cases are fit.
        all_methods: that the methods were not chosen, but all that there are: one that cannot explain a model is no failure.
    """

    methods: tuple[Method, ...]
    metrics: tuple[Any, ...]
    models: tuple[Contender, ...]
    cases: int = 0
    seed: int = 0
    part: Part = "positive"
    name: str = ""
    preset: str = ""
    all_methods: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 1 << 32 or self.cases < 0:
            got = f"seed {self.seed}, cases {self.cases}"
            raise BadInput("a seed from 0 to 4294967295 and a number of cases from 0 (all)", got, "Correct the recipe.")
        if self.part not in get_args(Part):
            raise BadInput(f"part among {', '.join(get_args(Part))}", repr(self.part), "Correct the recipe.")
        for what, names in {"methods": self.labels, "metrics": self.asked, "models": [m.name for m in self.models]}.items():
            twice = sorted({name for name in names if names.count(name) > 1})
            if not names or twice:
                got = f"{', '.join(twice)} twice" if twice else "none"
                raise BadInput(f"one or more {what}, each once", got, "docs/bench.md shows a recipe.")

    @property
    def labels(self) -> list[str]:
        """The methods' names in the tables."""
        return [method_label(method) for method in self.methods]

    @property
    def asked(self) -> list[str]:
        """The metrics' names in the tables."""
        return [label_of(metric) for metric in self.metrics]

    @property
    def checks(self) -> tuple[Any, ...]:
        """The metrics that hide parts of the image, and ask about all methods' maps together."""
        return tuple(metric for metric in self.metrics if metric.name in FAITHFULNESS)

    @property
    def chosen(self) -> Preset | None:
        return PRESETS.get(self.preset)

    def as_dict(self) -> dict[str, Any]:
        """The recipe as plain values for TOML; what says nothing is left out."""
        models = [{f.name: _plain(getattr(m, f.name)) for f in fields(m)} for m in self.models]
        values = {"name": self.name, "preset": self.preset, "cases": self.cases, "seed": self.seed, "part": self.part}
        values |= {"methods": "all" if self.all_methods else self.labels, "metrics": self.asked}
        return {k: v for k, v in values.items() if v} | {"models": [{k: v for k, v in m.items() if v} for m in models]}

    def to_toml(self) -> str:
        import tomli_w

        return tomli_w.dumps(self.as_dict())


def read_recipe(path: str | Path) -> Recipe:
    """A recipe from its TOML file; an unknown key, method or metric is an error that lists the valid ones."""
    path = Path(path)
    return from_table(toml(path, "docs/bench.md"), path.resolve().parent)


_KEYS = {
    "name": "str",
    "preset": "str",
    "methods": "",
    "metrics": "",
    "baselines": "tuple[str, ...]",
    "cases": "int",
    "seed": "int",
    "part": "str",
    "models": "",
}


def from_table(values: Mapping[str, Any], base: Path) -> Recipe:
    """A recipe from TOML's table; relative paths start at `base`."""
    known(values, _KEYS, "keys of a recipe")
    given = {key: read(key, kind, values[key], base) for key, kind in _KEYS.items() if kind and key in values}
    preset = _preset(given.get("preset", ""))
    listed = values.get("methods", list(preset.methods()) if preset else [])
    everything = listed == "all" or ("methods" not in values and bool(preset and preset.located))
    methods = [method_of(v) for v in _list("methods", list(PRESETS["planted"].methods()) if listed == "all" else listed)]
    metrics = [_metric(v) for v in _list("metrics", values.get("metrics", list(preset.metrics()) if preset else []))]
    metrics = under(metrics, given.pop("baselines", ()))
    if metrics and not any(isinstance(metric, Seconds) for metric in metrics):
        metrics.append(Seconds())
    models = tuple(_contender(v, base) for v in _list("models", values.get("models", [])))
    return Recipe(tuple(methods), tuple(metrics), models, all_methods=everything, **given)


def under(metrics: Sequence[Any], baselines: Sequence[str]) -> list[Any]:
    """Each metric that hides parts of an image once for each baseline; without any, as they are."""
    unknown = [name for name in baselines if name not in BASELINES]
    if unknown:
        raise BadInput(f"baselines among {', '.join(BASELINES)}", ", ".join(unknown), "Correct the recipe.")
    found: list[Any] = []
    for metric in metrics:
        several = baselines if hasattr(metric, "baseline") else ()
        found += [replace(metric, baseline=name) for name in several] or [metric]
    return list(dict.fromkeys(found))


def _preset(name: str) -> Preset | None:
    if name and name not in PRESETS:
        close = get_close_matches(name, PRESETS, n=1)
        do = f"Did you mean {close[0]}?" if close else "Or list methods and metrics yourself."
        raise BadInput(f"a preset among {', '.join(PRESETS)}", repr(name), do)
    return PRESETS.get(name)


def _metric(value: Any) -> Any:
    if not isinstance(value, str):
        raise BadInput("metrics as text", f"{value!r:.80}", 'For example "deletion(over=voxels)".')
    return from_text(value)


def _contender(table: Any, base: Path) -> Contender:
    """One of [[models]]; `world` stands for a folder with model/ and cases.csv."""
    keys = {f.name: str(f.type) for f in fields(Contender)} | {"world": "str", "cases": "Path | None"}
    if not isinstance(table, dict):
        raise BadInput("tables [[models]]", f"{table!r:.80}", "docs/bench.md shows one.")
    known(table, keys, "keys of [[models]]")
    given = {key: read(f"models.{key}", keys[key], value, base) for key, value in table.items()}
    for key in ("world", "model", "cases"):
        if key in given and (not str(table[key]) or "\0" in str(table[key])):
            raise BadInput(f"a path for models.{key}", repr(table[key]), "Correct the recipe.")
    world = given.pop("world", None)
    if world is not None:
        folder = absolute(base, world)
        given = {"name": folder.name, "model": "model", "cases": folder / "cases.csv"} | given
        base = folder if "model" not in table else base
    missing = [key for key in ("name", "model", "cases") if key not in given]
    if missing:
        raise BadInput("name, model and cases (or world) in [[models]]", f"no {', '.join(missing)}", "docs/bench.md shows one.")
    source, _, rest = given["model"].partition(":")
    if not rest or (base / given["model"]).exists():
        given["model"] = str(absolute(base, given["model"]))
    elif source in ("nnunet", "bundle"):
        given["model"] = f"{source}:{absolute(base, rest)}"
    return Contender(**given)


def _list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise BadInput(f"a list for {name}", f"{value!r:.80}", "docs/bench.md shows a recipe.")
    return value


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
