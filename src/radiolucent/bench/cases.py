"""Who is judged: cases from a table, with what should be found in them where that is known."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radiolucent import io
from radiolucent.bench.recipe import Contender, Recipe
from radiolucent.errors import BadInput
from radiolucent.study.cohort import Case, Cohort, read_table, records


@dataclass(frozen=True)
class Item:
    """One scan of one model.

    id, folder: its name, and that of its folder. targets: what is explained, () what the model predicts. label: its class,
    which is explained where no target is named and the model is a classifier. truths: masks (anything but 0) of what a
    map should find, one for all targets or one for each. right: whether the model is, where the table says it.
    """

    id: str
    folder: str
    file: Path
    targets: tuple[str, ...] = ()
    label: str = ""
    truths: tuple[Path, ...] = ()
    parcellation: Path | None = None
    right: bool = True

    def said(self, root: Path) -> str:
        """What must stay the same while a study runs, with paths from the table's folder on."""
        paths = [self.file, *self.truths, *([self.parcellation] if self.parcellation else [])]
        return " ".join([*(os.path.relpath(path, root) for path in paths), *self.targets, self.label]).strip()


_TEXT = ("case", "file", "image", "target", "label", "truth", "parcellation", "right")


def read_cases(contender: Contender, recipe: Recipe) -> tuple[Item, ...]:
    """The cases of a model that the recipe wants, in the order of their table."""
    path = contender.cases
    rows = records(read_table(path, _TEXT))
    column = next((name for name in ("file", "image") if rows and name in rows[0]), "")
    if rows and not column:
        raise BadInput(f"the column file in {path}", ", ".join(rows[0]), "Rename the column that holds the images.")
    nothing = [n for n, row in enumerate(rows, 1) if not row[column]]
    if not rows or nothing:
        got = f"none in row {nothing[0]}" if nothing else "no rows"
        raise BadInput(f"an image in each row of {path}", got, "Correct the table of cases.")
    found = [_item(row, column, path.parent) for row in rows]
    named = Cohort(tuple(Case(item.id, item.file) for item in found), path.parent).cases
    items = [Item(**(vars(item) | {"folder": case.folder})) for item, case in zip(found, named, strict=True)]
    if recipe.chosen and recipe.chosen.located:
        items = [item for item in items if item.right and any(_marks(truth) for truth in item.truths)]
        if not items:
            do = "Give the column truth, with the mask of what the model should look at."
            raise BadInput(
                f"cases with a truth that the model gets right, for the preset {recipe.preset}, in {path}", "no cases left", do
            )
    return tuple(_drawn(items, recipe))


def _drawn(items: Sequence[Item], recipe: Recipe) -> Sequence[Item]:
    if not recipe.cases or recipe.cases >= len(items):
        return items
    return [items[n] for n in sorted(random.Random(recipe.seed).sample(range(len(items)), recipe.cases))]


def _item(row: dict[str, Any], column: str, root: Path) -> Item:
    file = root / row[column]
    targets = _several(row.get("target"))
    truths = tuple(root / name for name in _several(row.get("truth")))
    name = str(row.get("case") or io.stem(file))
    if len(truths) > 1 and len(truths) != len(targets):
        expected = f"one truth for all targets of {name}, or one for each of {len(targets)}"
        raise BadInput(expected, f"{len(truths)}", "Part targets and truths with a semicolon each.")
    parcellation = root / row["parcellation"] if row.get("parcellation") else None
    right = str(row.get("right") or "yes").lower() not in ("no", "false", "0")
    return Item(name, "", file, targets, str(row.get("label") or ""), truths, parcellation, right)


def _several(cell: Any) -> tuple[str, ...]:
    return tuple(part.strip() for part in str(cell or "").split(";") if part.strip())


def _marks(truth: Path) -> bool:
    """Whether a mask marks anything; one that cannot be read fails later, with its reason."""
    try:
        return bool(io.read_labels(truth).data.any())
    except (BadInput, OSError):
        return True
