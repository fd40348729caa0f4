"""Training, validation and test: as given and checked, or made so that no patient is in two of them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from radiolucent.errors import BadInput
from radiolucent.geometry import Array

SPLITS = ("train", "val", "test")
NAMES = {
    "train": "train", "training": "train", "tr": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test", "ts": "test",
}  # fmt: skip


def named(split: str) -> str:
    """train, val or test, however it is written."""
    found = NAMES.get(split.strip().casefold())
    if found is None:
        raise BadInput(f"splits among {', '.join(NAMES)}", repr(split), "Correct the column or the folder's name.")
    return found


def make(strata: Array, patients: Sequence[str], validation: float, test: float, seed: int) -> tuple[str, ...]:
    """A split for each case: `test` and `validation` are shares of the cases, patients stay together.

    Classes keep their shares as far as that goes (scikit-learn's StratifiedGroupKFold).
    """
    strata, groups = np.asarray(strata), np.asarray(patients)
    splits = np.full(len(strata), "train", object)
    splits[_part(strata, groups, test, seed)] = "test"
    rest = np.flatnonzero(splits == "train")
    splits[rest[_part(strata[rest], groups[rest], validation / (1 - test), seed)]] = "val"
    return tuple(splits.tolist())


def _part(strata: Array, groups: Array, share: float, seed: int) -> Array:
    """Numbers of the cases in so many of some folds that it is the share within a tenth; above a half, of what is not the rest."""
    from sklearn.model_selection import StratifiedGroupKFold

    small = min(share, 1 - share)
    folds, taken = next(
        (k, j) for k in (max(2, round(1 / small)), *range(3, 21)) if abs((j := max(1, round(k * small))) / k - small) <= 0.1 * small
    )
    if folds > len(set(groups.tolist())):
        got = f"{len(set(groups.tolist()))} patients for a share of {share:.2g}"
        raise BadInput("enough patients for training, validation and test", got, "Give a column split, or rounder shares.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class of fewer cases than folds: `check` says what is missing where
        try:
            split = StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(strata, strata, groups)
            part = np.concatenate([fold for _, fold in split][:taken])
        except ValueError as error:
            raise BadInput("cases that can be split", str(error), "Give a column split, or more cases.") from None
    return np.sort(part) if share <= 0.5 else np.setdiff1d(np.arange(len(strata)), part)


def strata(labels: Array, task: str) -> Array:
    """What the splits should have equal shares of: classes, combinations of labels, fifths of the first output."""
    if task == "classification":
        return labels
    if task == "multi-label":
        return np.unique(labels, axis=0, return_inverse=True)[1].reshape(-1)
    return np.searchsorted(np.quantile(labels[:, 0], [0.2, 0.4, 0.6, 0.8]), labels[:, 0])


def check(splits: Sequence[str], patients: Sequence[str], ids: Sequence[str]) -> None:
    """Refuse an empty split, and a patient who is in two."""
    empty = [split for split in SPLITS if split not in splits]
    if empty:
        raise BadInput("cases for train, val and test", f"none for {', '.join(empty)}", "Correct the splits.")
    places: dict[str, dict[str, str]] = {}
    for split, patient, case in zip(splits, patients, ids, strict=True):
        places.setdefault(patient, {}).setdefault(split, case)
    leaks = [f"{p} ({', '.join(f'{c} in {s}' for s, c in found.items())})" for p, found in places.items() if len(found) > 1]
    if leaks:
        more = f" and {len(leaks) - 5} more" if len(leaks) > 5 else ""
        raise BadInput("each patient in one split only", f"{'; '.join(leaks[:5])}{more}", "Correct the column split.")


def check_labels(labels: Array, splits: Sequence[str], classes: Sequence[str], task: str) -> None:
    """Refuse a class or a label that training or a measure can do nothing with."""
    at = np.asarray(splits)
    if task == "classification":
        counts = {split: np.bincount(labels[at == split], minlength=len(classes)) for split in SPLITS}
        few = [
            f"{classes[c]}: {n} in {split}" for split in SPLITS for c, n in enumerate(counts[split]) if n < 1 + (split == "train")
        ]
        if few or len(classes) < 2:
            expected = "two or more classes, each with at least 2 cases in train and 1 in val and in test"
            raise BadInput(expected, "; ".join(few) or ", ".join(classes), "Add cases, leave the class out, or split anew.")
    elif task == "multi-label":
        one = [classes[k] for k in range(len(classes)) if len(set(labels[at == "train", k])) < 2]
        if one:
            raise BadInput("labels that are present in some cases of train and absent in others", ", ".join(one), "Leave them out.")
    else:
        flat = [classes[k] for k in range(len(classes)) if np.ptp(labels[at == "train", k]) == 0]
        if flat:
            raise BadInput("outputs that vary in train", ", ".join(flat), "Leave constant ones out.")
