"""A whole run as one value: what is explained, on whom, added up over what. TOML in, TOML out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from radiolucent.analysis import Settings
from radiolucent.errors import BadInput
from radiolucent.methods import as_dict
from radiolucent.protocols import Method
from radiolucent.regions.shells import check_distances
from radiolucent.study.reading import absolute, known, read, toml
from radiolucent.targets import Region


@dataclass(frozen=True)
class About:
    """[study] What it is called. `seed` is for the analysis (forests, bootstrap); methods have their own."""

    name: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 1 << 32:
            raise BadInput("a seed from 0 to 4294967295 in [study]", f"{self.seed}", "Correct [study].")


@dataclass(frozen=True)
class Source:
    """[cohort] Where the cases are: exactly one of a manifest (CSV, TSV, Parquet), a BIDS folder, an nnU-Net raw folder.

    `split` keeps the cases of one part only: of an nnU-Net folder, or by a column named split.
    """

    manifest: Path | None = None
    bids: Path | None = None
    nnunet: Path | None = None
    split: str = ""

    def __post_init__(self) -> None:
        given = [name for name in ("manifest", "bids", "nnunet") if getattr(self, name)]
        if len(given) != 1:
            raise BadInput(
                "exactly one of manifest, bids and nnunet in [cohort]", ", ".join(given) or "none", 'manifest = "cases.csv"'
            )

    @property
    def root(self) -> Path:
        """The folder that the cases' paths are relative to."""
        return self.manifest.parent if self.manifest else self.bids or self.nnunet or Path()


@dataclass(frozen=True)
class Model:
    """[model] As for `radiolucent.load`; `device` as in torch.

    `window`, `overlap` and `blend` predict it window by window (see radiolucent.tiling.Tiled); without a window, as the
    model's card says.
    """

    model: str
    weights: Path | None = None
    trust: bool = False
    window: tuple[int, ...] = ()
    overlap: float = 0.25
    blend: Literal["constant", "gaussian", "nnunet"] = "constant"
    device: str = "cpu"

    def __post_init__(self) -> None:
        if any(n < 1 for n in self.window) or not 0 <= self.overlap < 1:
            raise BadInput(
                "a window of sizes above 0 and an overlap from 0 to below 1", f"{self.window}, {self.overlap}", "Correct [model]."
            )


@dataclass(frozen=True)
class Explain:
    """[explain] Methods, one table each; target names or numbers (none: what is predicted); how a Region adds up."""

    methods: tuple[Method, ...]
    targets: tuple[str, ...] = ()
    reduce: Literal["sum", "mean", "probability"] = "sum"

    def __post_init__(self) -> None:
        Region(0, reduce=self.reduce)
        if not self.methods or len(set(self.methods)) < len(self.methods):
            got = ", ".join(map(repr, self.methods)) or "none"
            raise BadInput("one or more methods in [explain], each once", got, 'methods = [{ method = "gradient" }]')
        if len(set(self.targets)) < len(self.targets):
            raise BadInput("each target once in [explain]", ", ".join(self.targets), "Remove the second one.")


@dataclass(frozen=True)
class Regions:
    """[regions] What relevance is added up over.

    Args:
        parcellation: "predicted" (the model's own segmentation), "label" (the case's label image), or a path, in which
            {case} stands for the case's id; without it, one image in world space for all.
        names: table of the labels' names (see io.tables.read_names).
        joined: name -> regions that also count as one.
        near_mm: distances from a target's surface: how much lies inside, within that distance, and beyond?
        streamed: add relevance up while it is made, on the model's own grid, so that no map is ever whole: for scans
            whose maps of many classes are too much to hold. Needs [model] window, and keeps no picture of a map.
    """

    parcellation: str = "predicted"
    names: Path | None = None
    joined: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    near_mm: tuple[float, ...] = ()
    streamed: bool = False

    def __post_init__(self) -> None:
        check_distances(self.near_mm)
        empty = [name for name, members in self.joined.items() if not name or not members]
        if empty:
            raise BadInput("a name and regions for each of joined", f"none for {empty[0]!r}", "Correct [regions].")


@dataclass(frozen=True)
class Keep:
    """[keep] What a case's folder holds besides its rows."""

    maps: bool = False
    reports: bool = False
    thumbnails: bool = True


@dataclass(frozen=True)
class Recipe:
    """All tables of a recipe. Paths are absolute: `read_recipe` takes them relative to its file.

    [analysis] may be changed after the run; its seed is that of [study].
    """

    study: About
    cohort: Source
    model: Model
    explain: Explain
    regions: Regions
    keep: Keep
    analysis: Settings

    def __post_init__(self) -> None:
        object.__setattr__(self, "analysis", replace(self.analysis, seed=self.study.seed))
        kept = [name for name in ("maps", "reports") if getattr(self.keep, name)]
        if self.regions.streamed and kept:
            raise BadInput("no map to keep, where [regions] are streamed", f"[keep] {', '.join(kept)}", "Leave one of them out.")

    def to_toml(self) -> str:
        """The recipe as TOML; values that say nothing are left out."""
        import tomli_w

        tables = {f.name: _plain(getattr(self, f.name)) for f in fields(self)}
        return tomli_w.dumps({name: table for name, table in tables.items() if table})


def read_recipe(path: str | Path) -> Recipe:
    """A recipe from its TOML file; an unknown table or key is an error that lists the valid ones."""
    path = Path(path)
    return from_tables(toml(path, "docs/studies.md"), path.resolve().parent)


def from_tables(values: Mapping[str, Any], base: Path) -> Recipe:
    """A recipe from TOML's tables; relative paths start at `base`."""
    kinds = {f.name: _KINDS[f.name] for f in fields(Recipe)}
    known(values, kinds, "tables of a recipe")
    parts = {}
    for name, kind in kinds.items():
        table = values.get(name, {})
        if not isinstance(table, dict):
            raise BadInput(f"a table [{name}]", repr(table), "Correct the recipe.")
        keys = _keys(kind)
        known(table, keys, f"keys of [{name}]")
        for key in {"manifest", "bids", "nnunet", "model", "weights", "parcellation", "names", "training"} & set(table):
            if table[key] == "" or "\0" in str(table[key]):  # the folder of the recipe, if it went on from here
                raise BadInput(f"a name or a path for {name}.{key}", repr(table[key]), "Give one, or leave the key out.")
        given = {key: read(f"{name}.{key}", keys[key], value, base) for key, value in table.items()}
        if name == "model" and "model" in given:
            given["model"] = _model(given["model"], base)
        if name == "regions" and given.get("parcellation", "label") not in ("predicted", "label"):
            given["parcellation"] = str(absolute(base, given["parcellation"]))
        try:
            parts[name] = kind(**given)
        except TypeError as error:
            needed = "model" if name == "model" else "methods"
            raise BadInput(f"the key {needed} in [{name}]", str(error).partition("() ")[2], "Add it to the recipe.") from None
    return Recipe(**parts)


_KINDS: dict[str, type[Any]] = {
    "study": About,
    "cohort": Source,
    "model": Model,
    "explain": Explain,
    "regions": Regions,
    "keep": Keep,
    "analysis": Settings,
}


def _keys(kind: type[Any]) -> dict[str, str]:
    """A table's keys and what they are: a dataclass's fields, but that the seed of the analysis stands in [study]."""
    return {f.name: str(f.type) for f in fields(kind) if (kind, f.name) != (Settings, "seed")}


def _model(text: str, base: Path) -> str:
    """A path becomes absolute; module:factory stays as it is."""
    source, _, rest = text.partition(":")
    if source in ("nnunet", "bundle") and rest:
        return f"{source}:{absolute(base, rest)}"
    return text if rest and not (base / text).exists() else str(absolute(base, text))


def _plain(value: Any) -> Any:
    """Dataclasses as tables, tuples as lists, paths as text; without what is empty (in a method: what is None)."""
    if isinstance(value, Method):
        return _settings(as_dict(value))
    if hasattr(value, "__dataclass_fields__"):
        value = {name: getattr(value, name) for name in _keys(type(value))}
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items() if v is not None and v not in ("", (), {})}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def _settings(method: Mapping[str, Any]) -> dict[str, Any]:
    nested = {k: _settings(v) if isinstance(v, Mapping) else _plain(v) for k, v in method.items()}
    return {k: v for k, v in nested.items() if v is not None}
