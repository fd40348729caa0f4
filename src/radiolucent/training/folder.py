"""A training on disk. What is there is whole: a process may be killed at any moment.

recipe.toml  training.json  splits.csv   what was asked, and what must not change
seed-0/                                  a model: card.json, model.safetensors; metrics.json, predictions.csv, history.csv, pictures
card.json  model.safetensors             the seed that is best in validation: the folder is a model, too
summary.json  summary.csv                mean and standard deviation over the seeds
running/seed-0/EPOCH-STEP/               a checkpoint: model, optimiser, progress
logs/seed-0/                             TensorBoard
features/  prepared/                     computed once; may be deleted
"""

from __future__ import annotations

import io as bytes_io
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from radiolucent import io
from radiolucent.errors import BadInput
from radiolucent.io.tables import write_table
from radiolucent.models import Card
from radiolucent.study.claims import is_held
from radiolucent.study.store import differences
from radiolucent.training.cases import Cases
from radiolucent.training.networks import State, to_cpu
from radiolucent.training.recipe import Recipe
from radiolucent.version import VERSION

FORMAT = 1


@dataclass
class Progress:
    """How far a training is: `step` of `epoch` comes next. `loss` and `seen` add up over the epoch so far."""

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    seen: int = 0
    seconds: float = 0.0
    best: float | None = None
    best_epoch: int = -1
    waited: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Checkpoint:
    """All that a training needs to go on."""

    network: State
    optimiser: Mapping[str, Any]
    scaler: Mapping[str, Any] | None
    progress: Progress
    best: State | None


@dataclass(frozen=True)
class Folder:
    """A training's folder."""

    path: Path

    @classmethod
    def begin(cls, path: Path, recipe: Recipe, cases: Cases, say: Callable[[str], None]) -> Folder:
        """A new one, or the one that is there, if it is the same training: else refused, with the difference.

        Where nothing was trained yet (a mistake in the recipe ended it), it may be another.
        """
        folder = cls(path.absolute())
        facts = {"format": FORMAT, "radiolucent": VERSION, "identity": recipe.identity(), "cases": dict(cases.origin)}
        if not (folder.path / "training.json").exists():
            with io.new_folder(folder.path) as new:
                write_table(new / "splits.csv", _splits(cases))
                io.put(new / "training.json", json.dumps(facts, indent=1).encode())
        if not folder._has_begun() and not is_held(folder.path / "running" / "lock.json"):
            write_table(folder.path / "splits.csv", _splits(cases))
            io.put(folder.path / "training.json", json.dumps(facts, indent=1).encode())
        folder._compare(facts, say)
        io.put(folder.path / "recipe.toml", recipe.to_toml().encode())
        for name in ("running", "logs", "features", "prepared"):
            (folder.path / name).mkdir(exist_ok=True)
        return folder

    def _has_begun(self) -> bool:
        return any(self.path.glob("seed-*/metrics.json")) or any(self.path.glob("running/seed-*/*/progress.json"))

    def _compare(self, facts: Mapping[str, Any], say: Callable[[str], None]) -> None:
        then, now = self.facts(), json.loads(json.dumps(facts))
        found = differences(then["identity"], now["identity"]) + differences(then["cases"], now["cases"], "case ")
        if found:
            more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
            expected = f"the recipe and the cases that {self.path} was begun with"
            raise BadInput(
                expected, "; ".join(found[:5]) + more, "Go on with the old ones (recipe.toml there), or choose another --out."
            )
        if then["radiolucent"] != VERSION:
            say(f"note: the training was begun with Radiolucent {then['radiolucent']}, this is {VERSION}")

    def facts(self) -> dict[str, Any]:
        """training.json"""
        try:
            found: dict[str, Any] = json.loads((self.path / "training.json").read_bytes())
        except (OSError, ValueError) as error:
            raise BadInput(f"a training at {self.path}", str(error), "Name the folder that `train --out` made.") from None
        if found.get("format") != FORMAT:
            raise BadInput(f"a training of format {FORMAT}", f"{found.get('format')}", "Use a newer Radiolucent.")
        return found

    def seed(self, seed: int) -> Path:
        return self.path / f"seed-{seed}"

    def logs(self, seed: int) -> Path:
        return self.path / "logs" / f"seed-{seed}"

    def is_done(self, seed: int) -> bool:
        return (self.seed(seed) / "metrics.json").is_file()

    def metrics(self, seed: int) -> dict[str, Any]:
        """What a finished seed's metrics.json says."""
        found: dict[str, Any] = json.loads((self.seed(seed) / "metrics.json").read_bytes())
        return found

    def checkpoint(self, seed: int, kept: Checkpoint, card: Card) -> None:
        """Write one, then let go of the ones before."""
        place = self.path / "running" / f"seed-{seed}"
        place.mkdir(exist_ok=True)
        new = place / f"{kept.progress.epoch:06d}-{kept.progress.step:08d}"
        if new.is_dir():
            return
        with io.new_folder(new) as writing:
            write_model(writing, kept.network, card)
            rest = bytes_io.BytesIO()
            torch.save({"optimiser": kept.optimiser, "scaler": kept.scaler}, rest)
            io.put(writing / "optimiser.pt", rest.getvalue())
            if kept.best is not None:
                io.put(writing / "best.safetensors", save(to_cpu(kept.best)))
            io.put(writing / "progress.json", json.dumps(asdict(kept.progress)).encode())
        for old in self._checkpoints(seed):
            if old != new:
                shutil.rmtree(old, ignore_errors=True)

    def _checkpoints(self, seed: int) -> list[Path]:
        place = self.path / "running" / f"seed-{seed}"
        return sorted(p for p in place.glob("[0-9]*-[0-9]*") if (p / "progress.json").is_file())

    def resume(self, seed: int) -> Checkpoint | None:
        """The newest checkpoint, if there is one."""
        found = self._checkpoints(seed)
        if not found:
            return None
        here = found[-1]
        rest = torch.load(here / "optimiser.pt", map_location="cpu", weights_only=True)
        told = json.loads((here / "progress.json").read_bytes())
        progress = Progress(**{f.name: told[f.name] for f in fields(Progress)})
        best = load_file(here / "best.safetensors") if (here / "best.safetensors").is_file() else None
        return Checkpoint(load_file(here / "model.safetensors"), rest["optimiser"], rest["scaler"], progress, best)

    def forget(self, seed: int, *, features: bool) -> None:
        """A finished seed needs no checkpoint; nor `features`, where no other seed's encoder begins with the same weights."""
        for place in (self.path / "features").iterdir() if features else ():
            shutil.rmtree(place, ignore_errors=True)
        shutil.rmtree(self.path / "running" / f"seed-{seed}", ignore_errors=True)


def write_model(folder: Path, weights: State, card: Card) -> None:
    """card.json and model.safetensors: what `radiolucent.load` takes."""
    io.put(folder / card.weights, save(to_cpu(weights)))
    io.put(folder / "card.json", json.dumps(as_json(card), indent=1).encode())


def as_json(card: Card) -> dict[str, Any]:
    """A card as plain values; what says nothing is left out."""
    values = {f.name: getattr(card, f.name) for f in fields(card) if f.name != "notes"}
    values["preprocessing"] = card.preprocessing.as_dict()
    always = ("name", "task", "network", "weights", "arguments", "channels")
    plain: dict[str, Any] = json.loads(json.dumps({k: v for k, v in values.items() if k in always or v not in (None, (), {})}))
    return plain


def _splits(cases: Cases) -> Sequence[Mapping[str, Any]]:
    rows = zip(cases.ids, cases.splits, cases.patients, cases.labels.tolist(), strict=True)
    return [{"case": i, "split": s, "patient": p} | _labels(label, cases.classes) for i, s, p, label in rows]


def _labels(label: Any, classes: Sequence[str]) -> dict[str, Any]:
    return dict(zip(classes, label, strict=True)) if isinstance(label, list) else {"label": classes[label]}
