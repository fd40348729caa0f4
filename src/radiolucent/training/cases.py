"""Who is trained on: cases with labels, splits and patients, from MedMNIST, a folder per class, or a table of files."""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from radiolucent import io
from radiolucent.errors import BadInput
from radiolucent.geometry import Array
from radiolucent.models import Preprocessing
from radiolucent.models.loading.files import sha256
from radiolucent.study.cohort import read_table, records
from radiolucent.training import splits
from radiolucent.training.medmnist import read_medmnist
from radiolucent.training.recipe import Recipe, Source, Task
from radiolucent.volume import Volume


class Reader(Protocol):
    """Gives the n-th case's scan as the model takes it."""

    def __call__(self, n: int) -> Volume: ...


@dataclass(frozen=True, eq=False)
class Cases:
    """All cases in a fixed order.

    `labels` are class numbers (n,) in classification, else (n, outputs) float64; `classes` names the outputs. `origin`
    says for each case what it was made from: it must stay the same while a training goes on. `how` says all that is done
    to a scan when it is read.
    """

    ids: tuple[str, ...]
    labels: Array
    splits: tuple[str, ...]
    patients: tuple[str, ...]
    classes: tuple[str, ...]
    read: Reader
    origin: Mapping[str, Any]
    about: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    how: str = ""

    def part(self, split: str) -> Array:
        """Numbers of the cases in a split."""
        return np.flatnonzero(np.asarray(self.splits) == split)

    def without(self, left_out: Sequence[int]) -> Cases:
        """All but some: those whose files cannot be read."""
        stay = [n for n in range(len(self.ids)) if n not in set(left_out)]

        def pick(values: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(values[n] for n in stay)

        read = Picked(self.read, tuple(stay))
        fields = (pick(self.ids), self.labels[stay], pick(self.splits), pick(self.patients), self.classes, read)
        return Cases(*fields, self.origin, self.about, self.notes, self.how)


@dataclass(frozen=True)
class Picked:
    """Some of a reader's cases."""

    read: Reader
    numbers: tuple[int, ...]

    def __call__(self, n: int) -> Volume:
        return self.read(self.numbers[n])


@dataclass(frozen=True, eq=False)
class Arrays:
    """Scans that lie in one array (n, *grid)."""

    images: Array
    preprocessing: Preprocessing

    def __call__(self, n: int) -> Volume:
        return self.preprocessing(Volume(self.images[n][None].astype(np.float32), has_world=False))


@dataclass(frozen=True)
class Row:
    """One case's files: several images are its channels."""

    id: str
    images: tuple[Path, ...]
    label: Any
    split: str = ""
    patient: str = ""
    mask: Path | None = None


@dataclass(frozen=True)
class Files:
    """Scans that lie in files."""

    rows: tuple[Row, ...]
    source: Source
    preprocessing: Preprocessing

    def __call__(self, n: int) -> Volume:
        row = self.rows[n]
        how = {"nonfinite": self.source.nonfinite, "colour": self.source.colour}
        scans = [io.read(path, **how) for path in row.images]  # type: ignore[arg-type]
        other = [scan for scan in scans[1:] if scan.grid != scans[0].grid]
        if other:
            raise BadInput(f"the channels of {row.id} on one grid", f"{scans[0].grid} and {other[0].grid}", "Resample them.")
        scan = scans[0] if len(scans) == 1 else Volume(np.concatenate([s.data for s in scans]), scans[0].affine, scans[0].has_world)
        if self.preprocessing.around == "mask":
            if row.mask is None:
                raise BadInput(f"a mask of {row.id} to crop around", "none", "Add the column mask, or change [preprocessing].")
            scan = self.preprocessing.crop(scan, io.read_labels(row.mask))
        return self.preprocessing(scan)


def read_cases(recipe: Recipe, say: Callable[[str], None] = lambda text: None) -> Cases:
    """The cases of a recipe, with the splits that they have or get; wrong ones are refused."""
    source, task = recipe.data, recipe.training.task
    if source.medmnist:
        cases = _medmnist(source, recipe.preprocessing, task, say)
    else:
        rows = _table(source) if source.table else _folder(source)
        cases = _from_rows(rows, source, recipe.preprocessing, task)
    splits.check(cases.splits, cases.patients, cases.ids)
    splits.check_labels(cases.labels, cases.splits, cases.classes, task)
    return cases


def _medmnist(source: Source, preprocessing: Preprocessing, task: Task, say: Callable[[str], None]) -> Cases:
    if task != "classification":
        raise BadInput("task classification for MedMNIST3D", task, "Correct [training].")
    found = read_medmnist(source.medmnist, source.size, say=say)
    counts: Counter[str] = Counter()
    ids = []
    for split in found.splits:
        ids.append(f"{split}-{counts[split]:04d}")
        counts[split] += 1
    about = {"data": f"{source.medmnist} at {source.size} (MedMNIST v2, CC BY 4.0), official splits"}
    read = Arrays(found.images, preprocessing)
    own, origin, how = tuple(ids), {"medmnist": source.medmnist}, repr((source.size, preprocessing))
    return Cases(own, found.labels, found.splits, own, found.classes, read, origin, about, how=how)


def _folder(source: Source) -> list[Row]:
    """FOLDER/CLASS/files, or FOLDER/SPLIT/CLASS/files."""
    root = source.folder or Path()
    if not root.is_dir():
        raise BadInput(f"a folder at {root}", "nothing there", "Correct [data].")
    tops = _subfolders(root)
    by_split = bool(tops) and all(top.name.strip().casefold() in splits.NAMES for top in tops)
    rows = []
    for top in tops:
        for folder in _subfolders(top) if by_split else [top]:
            for path in sorted(folder.iterdir()):
                if not path.name.startswith(".") and (io.suffix(path) in io.SUFFIXES or io.is_dicom(path)):
                    split = splits.named(top.name) if by_split else ""
                    rows.append(Row(str(path.relative_to(root)), (path,), folder.name, split))
    if not rows:
        raise BadInput(f"images in subfolders of {root}, one for each class", "none", "Sort them as FOLDER/CLASS/image.nii.gz.")
    return rows


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _table(source: Source) -> list[Row]:
    """A row per case; paths start at the table's folder."""
    path = source.table or Path()
    texts = (*source.image, source.split, source.patient, source.mask, source.case)
    table = read_table(path, texts)
    missing = [name for name in (*source.image, *source.label) if name not in table.columns]
    if missing:
        have = ", ".join(map(str, table.columns))
        raise BadInput(
            f"the columns {', '.join(missing)} in {path.name}", have, "Name them in [data]: image = [...], label = [...]."
        )
    rows = []
    for number, row in enumerate(records(table), 2):
        files = [row[name] for name in source.image]
        if not all(files):
            raise BadInput(
                f"a file in each of {', '.join(source.image)} in {path.name}", f"none in line {number}", "Remove the row."
            )
        rows.append(
            Row(
                row.get(source.case) or str(files[0]),
                tuple(path.parent / file for file in files),
                tuple(row[name] for name in source.label),
                splits.named(row[source.split]) if row.get(source.split) else "",
                row.get(source.patient) or "",
                path.parent / row[source.mask] if row.get(source.mask) else None,
            )
        )
    return rows


def _from_rows(rows: Sequence[Row], source: Source, preprocessing: Preprocessing, task: Task) -> Cases:
    ids = tuple(row.id for row in rows)
    twice = [i for i, n in Counter(ids).items() if n > 1] + [str(f) for f, n in Counter(r.images for r in rows).items() if n > 1]
    if twice or not rows:
        raise BadInput("cases, each once", f"twice: {', '.join(twice[:9])}" if twice else "none", "Correct the list of cases.")
    labels, classes = _labels([row.label for row in rows], ids, source, task)
    patients = tuple(row.patient or row.id for row in rows)
    some = sum(bool(row.split) for row in rows)
    if 0 < some < len(rows):
        without = next(row.id for row in rows if not row.split)
        raise BadInput("a split for each case, or for none", f"none for {len(rows) - some}, as {without}", "Fill the column split.")
    notes: list[str] = []
    if some:
        parts = tuple(row.split for row in rows)
    else:
        parts = splits.make(splits.strata(labels, task), patients, source.validation, source.test, source.split_seed)
        if not any(row.patient for row in rows):
            notes.append("no column of patients: every case counts as a patient of its own in the splits")
    root = (source.table or source.folder or Path()).parent
    origin = {row.id: _origin(row, root, part, label) for row, part, label in zip(rows, parts, labels.tolist(), strict=True)}
    about = {"data": (source.table or source.folder or Path()).name, "split_seed": source.split_seed}
    read, how = Files(tuple(rows), source, preprocessing), repr((preprocessing, source.colour, source.nonfinite))
    return Cases(ids, labels, parts, patients, classes, read, origin, about, tuple(notes), how)


def _origin(row: Row, root: Path, split: str, label: Any) -> str:
    """What must stay the same about a case: its files (with the mask), split and label."""
    paths = [*row.images, *([row.mask] if row.mask else [])]
    return f"{' '.join(f'{os.path.relpath(path, root)} {_content(path)}' for path in paths)} {split} {label}"


def _content(path: Path) -> str:
    """Of a file, or of all in a series' folder. No times: a copy of the data is the same data."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    try:
        found = [f"{file.name} {sha256(file)}" for file in files]
    except OSError:
        return "unreadable"  # `prepare` says so, of all such files at once
    return hashlib.sha256("".join(found).encode()).hexdigest()[:16]


def _labels(values: Sequence[Any], ids: Sequence[str], source: Source, task: Task) -> tuple[Array, tuple[str, ...]]:
    if task == "classification":
        return _class_numbers([v if isinstance(v, tuple) else (v,) for v in values], ids, source)
    if not source.table:
        raise BadInput(f"a table of labels for {task}", "a folder per class", "Write a CSV with the columns image and label.")
    numbers = [
        [_number(v, case, name) for v, name in zip(row, source.label, strict=True)] for row, case in zip(values, ids, strict=True)
    ]
    found = np.array(numbers, np.float64)
    if task == "multi-label" and not np.isin(found, (0, 1)).all():
        row, column = np.argwhere(~np.isin(found, (0, 1)))[0]
        got = f"{found[row, column]:g} in {source.label[column]} of {ids[row]}"
        raise BadInput("0 or 1 in each column of labels", got, "Correct the table, or take task regression.")
    if source.classes and len(source.classes) != len(source.label):
        raise BadInput(f"{len(source.label)} classes, one for each column of labels", f"{len(source.classes)}", "Correct [data].")
    return found, source.classes or source.label


def _class_numbers(values: Sequence[tuple[Any, ...]], ids: Sequence[str], source: Source) -> tuple[Array, tuple[str, ...]]:
    if len(source.label) != 1:
        raise BadInput("one column of labels for classification", ", ".join(source.label), "Take task multi-label, or one column.")
    empty = [case for case, (v,) in zip(ids, values, strict=True) if v is None or v == ""]
    if empty:
        raise BadInput("a label for each case", f"none for {', '.join(empty[:9])}", "Remove these cases, or label them.")
    names = [_class_name(v) for (v,) in values]
    classes = source.classes or tuple(sorted(set(names), key=_naturally))
    other = sorted(set(names) - set(classes))
    if other:
        raise BadInput(
            f"labels among the classes {', '.join(classes)}", ", ".join(other[:9]), "Correct [data] classes, or the labels."
        )
    return np.array([classes.index(name) for name in names], np.int64), tuple(classes)


def _class_name(value: Any) -> str:
    """1.0 is how a table reads 1 where another cell of the column is empty."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _naturally(name: str) -> tuple[bool, float, str]:
    return (not name.isdecimal(), float(name) if name.isdecimal() else 0.0, name)


def _number(value: Any, case: str, column: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise BadInput(f"a number in {column} of {case}", "an empty cell" if value is None else repr(value), "Correct the table.")
    return number
