"""A scoreboard's folder: what one method says about one case is one file, which is there whole or not at all.

recipe.toml  bench.json                        what was asked, and what must not change
cells/MODEL/CASE/02-smooth-grad.json           rows: what its map is like, and costs
cells/MODEL/CASE/02-smooth-grad.checks.json    rows: what hiding parts of the image says, for all methods that were ready
cells/MODEL/CASE/02-smooth-grad.safetensors    the map itself, until it has been checked
cells/MODEL/CASE/02-smooth-grad.failed.json    why there is none
cells/MODEL/CASE/failed.json                   why the whole case has none
running/MODEL-CASE.json                        being done, or left by a process that was killed
scores.* table.* ranks.csv report.html         made of the cells, at the end of each run
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from radiolucent import io
from radiolucent.bench.recipe import Recipe
from radiolucent.errors import BadInput
from radiolucent.study.cohort import folders
from radiolucent.study.store import differences
from radiolucent.version import VERSION

FORMAT = 1
_RELEVANCE = "relevance"

Row = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """One case of one model. Methods are known by their number in the recipe; `names` are those of their files."""

    model: str
    case: str
    folder: Path
    mark: Path
    names: tuple[str, ...]

    def reason(self) -> str:
        """Why the whole case has failed, or ""."""
        return str(_read(self.folder / "failed.json").get("reason", ""))

    def failure(self, method: int) -> Mapping[str, Any]:
        """reason, rows without a value, unfit; empty where the method has not failed here."""
        return _read(self._path(method, "failed.json"))

    def has_map(self, method: int) -> bool:
        return self._path(method, "json").exists()

    def is_checked(self, method: int) -> bool:
        return self._path(method, "checks.json").exists()

    def is_done(self, *, checks: bool, retry: bool = False) -> bool:
        """Whether nothing is left to do here; with `retry`, what failed is left."""
        if (self.folder / "failed.json").exists():
            return not retry
        return all(
            (self.has_map(n) and (self.is_checked(n) or not checks)) or (not retry and self._path(n, "failed.json").exists())
            for n in range(len(self.names))
        )

    def rows(self) -> list[Row]:
        """All that is known of the case: rows of each method, by its number."""
        found = []
        for n in range(len(self.names)):
            parts = [self.failure(n)] if not self.has_map(n) else [_read(self._path(n, kind)) for kind in ("json", "checks.json")]
            found += [{"number": n} | row for part in parts for row in part.get("rows", ())]
        return found

    def begin(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "failed.json").unlink(missing_ok=True)

    def keep_map(self, method: int, rows: Sequence[Row], relevance: Tensor | None) -> None:
        """The map first: a file of rows says that it is there."""
        if relevance is not None:
            io.put(self._path(method, "safetensors"), save({_RELEVANCE: relevance.detach().cpu().contiguous().clone()}))
        io.put(self._path(method, "json"), _json({"rows": list(rows)}))
        self._path(method, "failed.json").unlink(missing_ok=True)

    def relevance(self, method: int) -> Tensor | None:
        """The map as it was kept; None where it is gone, and must be made again."""
        try:
            return load(self._path(method, "safetensors").read_bytes())[_RELEVANCE]
        except (OSError, ValueError, KeyError):
            self._path(method, "json").unlink(missing_ok=True)
            return None

    def keep_checks(self, method: int, rows: Sequence[Row]) -> None:
        io.put(self._path(method, "checks.json"), _json({"rows": list(rows)}))
        with suppress(OSError):
            self._path(method, "safetensors").unlink()

    def fail_method(self, method: int, reason: str, rows: Sequence[Row], *, unfit: bool) -> None:
        io.put(self._path(method, "failed.json"), _json({"reason": reason, "unfit": unfit, "rows": list(rows)}))

    def fail(self, reason: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        io.put(self.folder / "failed.json", _json({"reason": reason}))

    def _path(self, method: int, kind: str) -> Path:
        return self.folder / f"{self.names[method]}.{kind}"


@dataclass(frozen=True)
class Bench:
    """A scoreboard's folder."""

    folder: Path

    @classmethod
    def begin(cls, folder: Path, recipe: Recipe, identity: Mapping[str, Any], say: Callable[[str], None]) -> Bench:
        """A new one, or the one that is there if it was begun by the same recipe: else refused, with the difference."""
        bench = cls(folder.absolute())
        facts = {"format": FORMAT, "radiolucent": VERSION, "identity": identity}
        if not (bench.folder / "bench.json").exists():
            _check_free(bench.folder)
            try:
                bench._create(recipe, facts)
                return bench
            except BadInput:
                if not (bench.folder / "bench.json").exists():  # another process did not start the same one just now
                    raise
        then, now = bench.facts(), json.loads(json.dumps(facts))
        if then.get("format") != FORMAT:
            raise BadInput(f"a scoreboard of format {FORMAT} at {folder}", f"{then.get('format')}", "Choose another --out.")
        found = differences(then["identity"], now["identity"])
        if found:
            more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
            do = "Go on with the old recipe (recipe.toml in the folder), or choose another --out."
            raise BadInput(f"the recipe, models and cases that {bench.folder} was begun with", "; ".join(found[:5]) + more, do)
        if then["radiolucent"] != VERSION:
            say(f"note: the scoreboard was begun with Radiolucent {then['radiolucent']}, this is {VERSION}")
        return bench

    @property
    def page(self) -> Path:
        return self.folder / "report.html"

    def _create(self, recipe: Recipe, facts: Mapping[str, Any]) -> None:
        with io.new_folder(self.folder) as new:
            for name in ("cells", "running"):
                (new / name).mkdir()
            io.put(new / "recipe.toml", recipe.to_toml().encode())
            io.put(new / "bench.json", json.dumps(facts, indent=1).encode())

    def facts(self) -> dict[str, Any]:
        """bench.json: format, version, what must not change."""
        try:
            found: dict[str, Any] = json.loads((self.folder / "bench.json").read_bytes())
            return found
        except (OSError, ValueError) as error:
            raise BadInput(f"a scoreboard at {self.folder}", str(error), "Name the folder that `bench --out` made.") from None

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.facts()["identity"]
        return found

    def places(self) -> list[Place]:
        """All cases of all models, in the recipe's order."""
        methods = self.identity["methods"]
        names = tuple(f"{n:02d}-{name.partition('(')[0]}" for n, name in enumerate(methods))
        models = list(self.identity["cases"])
        return [
            Place(model, case, self.folder / "cells" / of_model / of_case, self.folder / "running" / f"{m}-{c}.json", names)
            for m, (model, of_model) in enumerate(zip(models, folders(models), strict=True))
            for c, (case, of_case) in enumerate(
                zip(self.identity["cases"][model], folders(list(self.identity["cases"][model])), strict=True)
            )
        ]


def _check_free(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise BadInput("a folder for the scoreboard", f"{folder}, a file", "Choose another --out.")
    if folder.is_dir() and any(folder.iterdir()):
        raise BadInput("a scoreboard, or an empty or new folder", f"{folder}, which holds something else", "Choose another --out.")
    io.check_writable(folder if folder.is_dir() else folder.parent)


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content).encode(errors="replace")


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
        return found
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BadInput(f"rows of a case at {path}", str(error), "Delete this file and run the same command again.") from None
