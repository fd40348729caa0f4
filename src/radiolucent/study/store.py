"""A study on disk: a folder in which each case appears whole or not at all.

recipe.toml  study.json  manifest.parquet     what was asked, and what must not change
cases/CASE/                                   regions, cases, costs (Parquet), summary.json, pictures, maps, report
failed/CASE.json                              reason, attempts, when
running/CASE.json                             being done, or left by a process that was killed
compact/{regions,cases,costs}.parquet         all cases in one file each
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyarrow import BufferOutputStream, concat_tables, parquet

from radiolucent import io
from radiolucent.errors import BadInput
from radiolucent.study.claims import attempts, is_held
from radiolucent.study.cohort import Case, Cohort, folders
from radiolucent.study.recipe import Recipe, read_recipe
from radiolucent.study.tables import SCHEMAS, joined, read
from radiolucent.version import VERSION

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
_A_DAY = 86_400


@dataclass(frozen=True)
class Status:
    """Where a study stands: case ids. `interrupted` were begun by processes that were killed, with how often."""

    done: tuple[str, ...]
    failed: Mapping[str, str]
    running: tuple[str, ...]
    interrupted: Mapping[str, int]
    waiting: tuple[str, ...]

    @property
    def total(self) -> int:
        """Running and interrupted cases wait too, as long as they are not done."""
        return len(self.done) + len(self.failed) + len(self.waiting)


@dataclass(frozen=True)
class Study:
    """A study's folder."""

    folder: Path

    @classmethod
    def open(cls, folder: str | Path) -> Study:
        """A study that is there."""
        study = cls(Path(folder).absolute())
        if study.facts().get("format") != FORMAT:
            raise BadInput(f"a study of format {FORMAT} at {folder}", f"{study.facts().get('format')}", "Use a newer Radiolucent.")
        return study

    @classmethod
    def begin(cls, folder: Path, recipe: Recipe, cohort: Cohort, identity: Mapping[str, Any], say: Callable[[str], None]) -> Study:
        """A new study, or the one that is there, if it is the same one: else refused, with the difference."""
        study = cls(folder.absolute())
        facts = {"format": FORMAT, "radiolucent": VERSION, "identity": identity, "cases": cohort.paths()}
        if not (study.folder / "study.json").exists():
            try:
                study._create(recipe, cohort, facts)
                return study
            except BadInput:
                if not (study.folder / "study.json").exists():  # another process did not start the same study just now
                    raise
        study = cls.open(folder)
        study._compare(facts)
        if study.facts()["radiolucent"] != VERSION:
            say(f"note: the study was begun with Radiolucent {study.facts()['radiolucent']}, this is {VERSION}")
        study._refresh(recipe, cohort)
        study._sweep()
        return study

    def _create(self, recipe: Recipe, cohort: Cohort, facts: Mapping[str, Any]) -> None:
        with io.new_folder(self.folder) as new:
            for name in ("cases", "failed", "running"):
                (new / name).mkdir()
            io.put(new / "recipe.toml", recipe.to_toml().encode())
            io.put(new / "manifest.parquet", _manifest(cohort))
            io.put(new / "study.json", json.dumps(facts, indent=1).encode())

    def _compare(self, facts: Mapping[str, Any]) -> None:
        """Refuse what would give other results than those that are there."""
        then, now = self.facts(), json.loads(json.dumps(facts))
        found = differences(then["identity"], now["identity"]) + differences(then["cases"], now["cases"], "case ")
        if found:
            more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
            raise BadInput(
                f"the recipe, model and cases that {self.folder} was begun with",
                "; ".join(found[:5]) + more,
                "Go on with the old ones (recipe.toml in the study), or choose another --out.",
            )

    def _refresh(self, recipe: Recipe, cohort: Cohort) -> None:
        """What may change: covariates, the analysis, pictures."""
        for name, content in (("recipe.toml", recipe.to_toml().encode()), ("manifest.parquet", _manifest(cohort))):
            if (self.folder / name).read_bytes() != content:
                io.put(self.folder / name, content)

    def _sweep(self) -> None:
        """What other machines' killed processes left; this machine's goes when its case is written again (io.new_folder)."""
        for path in (self.folder / "cases").glob(".*.tmp"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _A_DAY:
                    shutil.rmtree(path, ignore_errors=True)

    def facts(self) -> dict[str, Any]:
        """study.json: format, version, what must not change."""
        try:
            found: dict[str, Any] = json.loads((self.folder / "study.json").read_bytes())
            return found
        except (OSError, ValueError) as error:
            raise BadInput(f"a study at {self.folder}", str(error), "Name the folder that `study run --out` made.") from None

    @property
    def recipe(self) -> Recipe:
        return read_recipe(self.folder / "recipe.toml")

    def manifest(self) -> pd.DataFrame:
        """case, image, label, covariates."""
        return parquet.read_table(self.folder / "manifest.parquet").to_pandas()

    def names(self) -> dict[str, str]:
        """Case id -> the name of its folder, in the manifest's order."""
        ids = list(self.facts()["cases"])
        return dict(zip(ids, folders(ids), strict=True))

    def is_done(self, case: Case) -> bool:
        return (self.folder / "cases" / case.folder).is_dir()

    def is_failed(self, case: Case) -> bool:
        return self.failure(case.folder).exists()

    def failure(self, name: str) -> Path:
        return self.folder / "failed" / f"{name}.json"

    def mark(self, name: str) -> Path:
        """The file that says who is at a case."""
        return self.folder / "running" / f"{name}.json"

    def quarantine(self, case: Case, reason: str) -> None:
        """Note why a case failed; it is left out from now on, until it is asked for again."""
        before = _failure(self.failure(case.folder)).get("attempts", 0)
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        content = {"case": case.id, "reason": reason, "attempts": before + 1, "when": when}
        io.put(self.failure(case.folder), json.dumps(content, indent=1).encode(errors="replace"))

    def status(self) -> Status:
        """Which cases are done, failed (with the reason), running now, interrupted, or still waiting."""
        names = self.names()
        done = [i for i, name in names.items() if (self.folder / "cases" / name).is_dir()]
        left = {i: name for i, name in names.items() if i not in set(done)}
        failed = {i: str(_failure(self.failure(n)).get("reason", "")) for i, n in left.items() if self.failure(n).exists()}
        marked = {i: self.mark(name) for i, name in left.items() if self.mark(name).exists()}
        running = [i for i, mark in marked.items() if is_held(mark)]
        interrupted = {i: attempts(mark) for i, mark in marked.items() if i not in running}
        return Status(tuple(done), failed, tuple(running), interrupted, tuple(i for i in left if i not in failed))

    def rows(self, *, covariates: bool = False) -> pd.DataFrame:
        """Region rows of all cases that are done, with the manifest's covariates beside them on wish."""
        return self._table("regions", covariates)

    def cases(self, *, covariates: bool = False) -> pd.DataFrame:
        """Score, volume and agreement with the label, per case and class."""
        return self._table("cases", covariates)

    def costs(self) -> pd.DataFrame:
        """Seconds and memory, per case and method."""
        return self._table("costs", False)

    def compact(self) -> dict[str, int]:
        """Write compact/: all cases that are done, sorted by id, the same bytes for the same rows. Returns rows per table."""
        (self.folder / "compact").mkdir(exist_ok=True)
        counts = {}
        for name in SCHEMAS:
            content = joined(name, self._parts(name))
            io.put(self.folder / "compact" / f"{name}.parquet", content)
            counts[name] = parquet.read_metadata(self.folder / "compact" / f"{name}.parquet").num_rows
        return counts

    def _parts(self, name: str) -> list[Path]:
        """The files of one table, sorted by case id."""
        named = sorted(self.names().items())
        return [p for _, folder in named if (p := self.folder / "cases" / folder / f"{name}.parquet").parent.is_dir()]

    def _table(self, name: str, covariates: bool) -> pd.DataFrame:
        tables = [SCHEMAS[name].empty_table(), *(read(name, part) for part in self._parts(name))]
        found: pd.DataFrame = concat_tables(tables).to_pandas()
        if not covariates:
            return found
        manifest = self.manifest().drop(columns=["image", "label"])
        return found.merge(manifest, on="case", how="left", validate="many_to_one", suffixes=("", "_covariate"))


def _manifest(cohort: Cohort) -> bytes:
    buffer = BufferOutputStream()
    parquet.write_table(cohort.table(), buffer)
    return buffer.getvalue().to_pybytes()


def _failure(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
        return found
    except (OSError, ValueError):
        return {}


def differences(then: Any, now: Any, where: str = "") -> list[str]:
    """What differs between two plain values, in words: "explain.reduce: sum, now mean"."""
    if isinstance(then, dict) and isinstance(now, dict):
        dot = "." if where and not where.endswith(" ") else ""
        keys = dict.fromkeys([*then, *now])
        return [d for k in keys for d in differences(then.get(k), now.get(k), f"{where}{dot}{k}")]
    if _tables(then) and _tables(now) and len(then) == len(now):
        return [d for i, (a, b) in enumerate(zip(then, now, strict=True), 1) for d in differences(a, b, f"{where}[{i}]")]
    if then == now or (then is None and not now):  # a setting that did not exist yet, and says nothing
        return []
    shown = ["nothing" if v is None else v if isinstance(v, str) else json.dumps(v) for v in (then, now)]
    then, now = (text if len(text) <= 200 else text[:200] + "..." for text in shown)
    return [f"{where}: {then}, now {now}"]


def _tables(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)
