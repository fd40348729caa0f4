"""Maps on disk against masks on disk: find them, pair them by case, measure them."""

from __future__ import annotations

import csv
import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from radiolucent import io
from radiolucent.errors import BadInput, InputWarning
from radiolucent.explanation import Explanation
from radiolucent.io.nifti import SUFFIXES as NIFTI
from radiolucent.metrics import METRICS, measure
from radiolucent.scores import Scores, at_own_label
from radiolucent.volume import Volume

_LIST = "maps.csv"  # what an injected model writes


@dataclass(frozen=True)
class Map:
    """A map file, or a folder that Explanation.save wrote, and the case that it belongs to.

    The rest is for files: what an injected model's `maps.csv` says of them, or else, as `method`, the folder that a
    file lies in where several files have the case's name.
    """

    case: str
    path: Path
    method: str = ""
    layer: str = ""
    target: str = ""
    label: int | None = None


def find_maps(paths: Sequence[Path]) -> list[Map]:
    """Files as they are; in folders what `maps.csv` lists (an injected model's), else every explanation, else the NIfTI files.

    An explanation's case is the one named by the `summary.json` that `radiolucent explain` writes into a case's
    folder; where there is none, the folder right below the given one, or the given one itself.
    """
    found: list[Map] = []
    for path in dict.fromkeys(paths):
        if not path.is_dir():
            if not path.is_file():
                raise BadInput(f"a map, or a folder of maps, at {path}", "nothing there", "Check the path.")
            found.append(Map(io.stem(path), path))
            continue
        if (path / _LIST).is_file():
            found += _listed(path)
            continue
        folders = [
            p.parent for p in path.rglob("explanation.json") if not any(x.startswith(".") for x in p.relative_to(path).parts)
        ]
        files = [p for p in path.iterdir() if io.suffix(p) in NIFTI and not p.name.startswith(".")]
        if not folders and not files:
            raise BadInput(f"maps in {path}", "neither explanation.json nor a NIfTI file", "Name the folder that holds the maps.")
        found += [Map(_case(folder, path), folder) for folder in sorted(folders, key=_natural)]
        found += [] if folders else [Map(io.stem(p), p) for p in sorted(files, key=_natural)]
    return _told_apart(list({m.path.resolve(): m for m in found}.values()))


def _listed(folder: Path) -> list[Map]:
    """What injection.Maps.save wrote: columns name, map ("method at layer"), target, label, file."""
    found = []
    try:
        with (folder / _LIST).open(newline="", encoding="utf-8") as table:
            for row in csv.DictReader(table):
                method, _, layer = row["map"].partition(" at ")
                label = int(row["label"]) if row.get("label") else None
                found.append(Map(row["name"], folder / row["file"], method, layer, row["target"], label))
    except (OSError, ValueError, csv.Error, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"a list of maps in {folder / _LIST}", f"{error!r}", "Is it the table of an injected model?") from None
    if not found:
        raise BadInput(f"a list of maps in {folder / _LIST}", "no rows", "Is it the table of an injected model?")
    return found


def _told_apart(found: list[Map]) -> list[Map]:
    files = [m for m in found if not m.path.is_dir() and not m.method]
    if len({m.case for m in files}) == len(files):
        return found
    found = [replace(m, method=m.path.resolve().parent.name) if m in files else m for m in found]
    seen: dict[tuple[str, str], Path] = {}
    for m in found:
        if not m.path.is_dir() and not m.target and seen.setdefault((m.case, m.method), m.path) != m.path:
            got = f"{seen[m.case, m.method]} and {m.path}"
            raise BadInput("maps whose names or folders differ", got, "Rename one, or measure them into two tables.")
    return found


def pair(cases: Sequence[str], masks: Sequence[Path]) -> dict[str, Path]:
    """A mask for each case: the one that is given for all, or the one that has the case's name.

    Names match if they are equal, or if one is the other with something before or after it, parted by _ - or a dot
    (case_01 and case_01_seg, case_01_0000 and case_01). What cannot be paired is an error that lists it.
    """
    cases = list(dict.fromkeys(cases))
    files = [
        file
        for given in masks
        for file in (sorted(p for p in given.iterdir() if io.suffix(p) in io.SUFFIXES) if given.is_dir() else [given])
        if not file.name.startswith(".")
    ]
    absent = [str(file) for file in files if not file.is_file()]
    if absent or not files:
        raise BadInput(
            "masks, or folders that hold them", f"nothing at {', '.join(absent or map(str, masks))}", "Check the path of --mask."
        )
    if len(files) == 1 and not masks[0].is_dir():
        return dict.fromkeys(cases, files[0])
    paired: dict[str, Path] = {}
    problems = []
    for case in cases:
        exact = [f for f in files if io.stem(f) == case]
        near = [f for f in files if io.stem(f) not in cases and (_extends(io.stem(f), case) or _extends(case, io.stem(f)))]
        fitting = exact or near
        if len(fitting) == 1:
            paired[case] = fitting[0]
        else:
            problems.append(f"{case} ({'several: ' + ', '.join(f.name for f in fitting) if fitting else 'none'})")
    if problems:
        names = ", ".join(f.name for f in files[:10]) + (f" and {len(files) - 10} more" if len(files) > 10 else "")
        raise BadInput(
            "one mask for each case, found by its name",
            f"not for {'; '.join(problems[:20])}{f' and {len(problems) - 20} more' if len(problems) > 20 else ''}; masks: {names}",
            "Name each mask after its case, or give one mask for all.",
        )
    return paired


def evaluate(
    maps: Sequence[Map],
    masks: Mapping[str, Path],
    *,
    say: Callable[[str], None] = lambda text: None,
    step: Callable[[], None] = lambda: None,
    all_pairs: bool = False,
    **options: Any,
) -> tuple[Scores, dict[str, Exception]]:
    """Scores of all maps, and the cases that failed with their reason; of those, nothing is kept.

    A segmentation's target is measured at its own label, and with `all_pairs` at all of them. `options` are those of
    `radiolucent.metrics.measure`.
    """
    scores, failed = Scores(), {}
    for case in dict.fromkeys(m.case for m in maps):
        say(f"measuring {case}")
        own = Scores()
        try:
            mask = io.read_labels(masks[case])
            for found in (m for m in maps if m.case == case):
                if found.path.is_dir():
                    own.measure(case, Explanation.load(found.path), mask, all_pairs=all_pairs, **options)
                else:
                    rows = measure(_read(found.path), mask, **at_own_label(found.label, all_pairs, options))
                    own.add(rows, case=case, method=found.method, layer=found.layer, target=found.target)
            scores.take(own)
        except Exception as error:  # one case must not take the others along
            failed[case] = error
        step()
    return scores, failed


def _read(path: Path) -> Volume:
    """Without remarks: whether it has a world is said where it does not fit its mask."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        return io.read(path, frame="channels")


def with_thresholds(metrics: Sequence[str], thresholds: Sequence[str]) -> list[str]:
    """Each metric that needs a threshold, and names none, at each of them: iou -> iou@otsu, iou@0.5."""
    chosen = []
    for metric in metrics or METRICS:
        takes = "threshold" in getattr(METRICS.get(metric), "__dataclass_fields__", {})
        chosen += [f"{metric}@{threshold}" for threshold in thresholds] if takes else [metric]
    return chosen


def labels_of(wanted: Sequence[str], names: Mapping[int, str] | None) -> list[int] | None:
    """Label values or names, as "1,2" or "posterior", as values; None for all."""
    values = {name: value for value, name in (names or {}).items()}
    found = []
    for text in (part.strip() for given in wanted for part in ([given] if given in values else given.split(","))):
        if text not in values and not re.fullmatch(r"-?[0-9]+", text):
            known = f"{', '.join(values)}" if values else "numbers, as no names are given (--names)"
            raise BadInput(f"labels among {known}", repr(text), "Correct --label.")
        found.append(values.get(text) if text in values else int(text))
    return [value for value in found if value is not None] or None


def _case(folder: Path, given: Path) -> str:
    for above in (folder, *folder.parents):
        if (above / "summary.json").is_file():
            try:
                return str(json.loads((above / "summary.json").read_bytes())["case"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise BadInput(f"a case's summary in {above}", str(error), "Run `radiolucent explain` again.") from None
        if above == given.parent:
            break
    parts = folder.relative_to(given).parts
    return parts[0] if parts else given.resolve().name


def _extends(long: str, short: str) -> bool:
    return bool(re.fullmatch(rf"(.+[_.-])?{re.escape(short)}([_.-].+)?", long))


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """Sorts grad-cam-2 before grad-cam-10."""
    return [(int(part.isdecimal()), int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", str(path))]
