"""Folders in the layouts that tools agree on: BIDS, and nnU-Net's raw data."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from radiolucent.errors import BadInput
from radiolucent.study.cohort import Case, Cohort, read_manifest, read_table, records, warn_of_doubles
from radiolucent.study.recipe import Source

_OWN_SPACES = ("", "orig", "T1w", "individual")


def read_cohort(source: Source) -> Cohort:
    """The cases that a recipe's [cohort] names."""
    if source.manifest:
        cohort = read_manifest(source.manifest)
    else:
        folder = source.bids or source.nnunet or Path()
        if not folder.is_dir():
            raise BadInput(f"a folder at {folder}", "nothing there", "Correct [cohort].")
        cohort = read_bids(folder) if source.bids else read_nnunet(folder)
    warn_of_doubles(cohort)
    return cohort.part(source.split)


def read_bids(root: Path) -> Cohort:
    """Every sub-*/[ses-*]/anat/*_T1w.nii[.gz]; covariates from participants.tsv; labels from derivatives' *_dseg.nii[.gz].

    A segmentation belongs to a scan if it carries all of the scan's entities and lies in the scan's own space.
    """
    people = _participants(root)
    segmentations = _anatomical(root / "derivatives", "dseg")
    cases = []
    for path in _anatomical(root, "T1w"):
        entities = _entities(path)
        if "sub" not in entities:
            raise BadInput("scans named sub-LABEL..._T1w", str(path), "Rename it as BIDS has it.")
        own = {"patient": f"sub-{entities['sub']}"} | ({"session": entities["ses"]} if "ses" in entities else {})
        covariates = own | people.get(own["patient"], {})
        cases.append(Case(path.name.rpartition("_T1w.nii")[0], path, _segmentation(path, entities, segmentations), covariates))
    if not cases:
        raise BadInput(f"scans such as sub-01/anat/sub-01_T1w.nii.gz in {root}", "none", "Is it the root of a BIDS dataset?")
    return Cohort(tuple(cases), root)


def _anatomical(root: Path, suffix: str) -> list[Path]:
    above = ("*/", "") if suffix == "dseg" else ("",)
    patterns = [f"{a}sub-*/{s}anat/sub-*_{suffix}.nii{z}" for a in above for s in ("", "ses-*/") for z in ("", ".gz")]
    return sorted(path for pattern in patterns for path in root.glob(pattern))


def _entities(path: Path) -> dict[str, str]:
    """sub-01_ses-2_T1w.nii.gz -> {"sub": "01", "ses": "2"}"""
    return dict(re.findall(r"(?:^|_)([A-Za-z0-9]+)-([A-Za-z0-9+]+)(?=_)", path.name))


def _participants(root: Path) -> Mapping[str, dict[str, Any]]:
    path = root / "participants.tsv"
    if not path.is_file():
        return {}
    rows = records(read_table(path, ("participant_id",)))
    if any("participant_id" not in row for row in rows):
        raise BadInput(f"a column participant_id in {path}", "none", "BIDS requires it.")
    people: dict[str, dict[str, Any]] = {}
    for row in rows:
        person = row.pop("participant_id")
        if person in people:
            raise BadInput(f"one row for each participant in {path}", f"several for {person}", "Remove all but one.")
        people[person] = {f"participants_{k}" if k in _OURS else k: v for k, v in row.items()}
    return people


_OURS = {"case", "image", "label", "patient", "patient_id", "session"}
"""Columns that mean something here; in participants.tsv `label` may be a diagnosis, `patient` yes or no."""


def _segmentation(scan: Path, entities: Mapping[str, str], found: list[Path]) -> Path | None:
    fitting = []
    for path in found:
        own = _entities(path)
        if (
            entities.items() <= own.items()
            and own.get("space", "") in _OWN_SPACES
            and set(own) <= {*entities, "space", "seg", "desc"}
        ):
            fitting.append(path)
    if len(fitting) > 1:
        got = ", ".join(str(path) for path in fitting)
        raise BadInput(f"one segmentation of {scan.name}", got, "Name the one that is meant in a manifest (CSV).")
    return fitting[0] if fitting else None


def read_nnunet(root: Path) -> Cohort:
    """imagesTr and imagesTs with case_0000, case_0001, ... for the channels; labelsTr and labelsTs. `split` is a covariate."""
    ending = _file_ending(root)
    cases = []
    for part, split in (("Tr", "train"), ("Ts", "test")):
        for path in sorted((root / f"images{part}").glob(f"*_0000{ending}")):
            name = path.name.removesuffix(f"_0000{ending}")
            label = root / f"labels{part}" / f"{name}{ending}"
            cases.append(Case(name, path, label if label.is_file() else None, {"split": split}))
    if not cases:
        raise BadInput(f"images such as imagesTr/case_0000{ending} in {root}", "none", "Is it nnU-Net's raw folder of a dataset?")
    return Cohort(tuple(cases), root)


def _file_ending(root: Path) -> str:
    path = root / "dataset.json"
    try:
        ending = json.loads(path.read_bytes()).get("file_ending", ".nii.gz")
    except (OSError, ValueError, AttributeError) as error:
        raise BadInput(f"nnU-Net's dataset.json in {root}", str(error), "Is it the raw folder of a dataset?") from None
    if not isinstance(ending, str) or not re.fullmatch(r"(\.\w+)+", ending):
        raise BadInput(f"a file_ending such as .nii.gz in {path}", repr(ending), "Correct dataset.json.")
    return ending
