"""Cohorts: manifests as people have them, BIDS, nnU-Net; ids that no file system could hold."""

import json
from pathlib import Path

import pandas as pd
import pytest

from radiolucent.errors import BadInput, InputWarning
from radiolucent.study import read_cohort
from radiolucent.study.cohort import folders, read_manifest
from radiolucent.study.recipe import Source


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def manifest(folder: Path, text: str, name: str = "cases.csv") -> Path:
    touch(folder, "a.nii", "b.nii", "sub/c.nii")
    (folder / name).write_text(text)
    return folder / name


def test_a_manifest_with_types_and_empty_cells(tmp_path: Path) -> None:
    text = "\ufeffcase,image,label,age,site,smokes\n007,a.nii,,41,1,True\nNA, sub/c.nii ,b.nii,,2,False\n"
    cohort = read_cohort(Source(manifest=manifest(tmp_path, text)))
    one, two = cohort.cases
    assert (one.id, two.id) == ("007", "NA")
    assert (one.image, one.label, two.image, two.label) == (tmp_path / "a.nii", None, tmp_path / "sub/c.nii", tmp_path / "b.nii")
    assert one.covariates == {"age": 41.0, "site": 1, "smokes": True}
    assert two.covariates == {"age": None, "site": 2, "smokes": False}
    table = cohort.table().to_pandas()
    assert list(table.columns) == ["case", "image", "label", "age", "site", "smokes"]
    assert table["label"].tolist() == ["", str(tmp_path / "b.nii")]
    assert table["age"].dtype == float
    assert table["smokes"].dtype == bool


@pytest.mark.parametrize("kind", ["semicolon", "tsv", "parquet"])
def test_other_tables(tmp_path: Path, kind: str) -> None:
    text = "case,image,age\n1,a.nii,3\n2,b.nii,4\n"
    path = manifest(tmp_path, text)
    if kind == "parquet":
        pd.read_csv(path).to_parquet(tmp_path / "cases.parquet")
        path = tmp_path / "cases.parquet"
    else:
        path = manifest(
            tmp_path, text.replace(",", ";" if kind == "semicolon" else "\t"), "x.csv" if kind == "semicolon" else "x.tsv"
        )
    assert [(c.id, c.covariates) for c in read_manifest(path).cases] == [("1", {"age": 3}), ("2", {"age": 4})]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,image\n1,a.nii\n", "the columns case and image.*id, image"),
        ("case,image\n1,a.nii\n1 ,b.nii\n", "twice: '1'"),
        ("case,image\n,a.nii\n", "an empty id"),
        ("case,image\n1,\n", "an image for every case.*none for 1"),
        ("case,image\n", "an id of its own; got none"),
        ("case,image\n1,no.nii\n", "none of 1 is there"),
        ("case,image,image\n1,a.nii,b.nii\n", "each column once"),
        ("case,image\n1,a.nii,extra\n", "cells"),
        ("\0\0", "columns case and image|a table"),
    ],
    ids=lambda text: repr(text)[:30],
)
def test_manifests_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        read_manifest(manifest(tmp_path, text))


def test_a_patient_in_two_splits_is_named(tmp_path: Path) -> None:
    text = "case,image,patient,split\n1,a.nii,P1,train\n2,b.nii,P1,test\n3,sub/c.nii,P2,test\n"
    with pytest.warns(InputWarning, match="the same patient is in several splits: P1"):
        cohort = read_cohort(Source(manifest=manifest(tmp_path, text), split="test"))
    assert [c.id for c in cohort.cases] == ["2", "3"]
    with pytest.warns(InputWarning), pytest.raises(BadInput, match="whose split is 'dev'; got test, train"):
        read_cohort(Source(manifest=tmp_path / "cases.csv", split="dev"))


def test_folders_are_safe_and_differ() -> None:
    ids = [
        "ok-1.2_x",
        "../up",
        "a/b",
        "a\0b",
        "CON",
        "nul.txt",
        "Case",
        "case",
        "x" * 300,
        "é",
        "e\u0301",
        ".hidden",
        "end.",
        "=1+1",
    ]
    made = folders(ids)
    assert made[0] == "ok-1.2_x"
    assert all(name.startswith("case-") for name in made[1:])
    assert len({name.casefold() for name in made}) == len(ids)
    for name in made:
        assert name.isascii()
        assert len(name) < 100
        assert not set(name) & set('/\\\0:*?"<>|')
        assert ".." not in name
    assert folders(["b", "../up"])[1] == made[1]  # whoever else is there


def test_bids(tmp_path: Path) -> None:
    touch(
        tmp_path, "sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_T2w.nii.gz", "sub-02/ses-a/anat/sub-02_ses-a_T1w.nii.gz",
        "sub-02/ses-b/anat/sub-02_ses-b_run-1_T1w.nii.gz", "sub-02/ses-b/anat/sub-02_ses-b_run-2_T1w.nii.gz",
        "derivatives/fs/sub-01/anat/sub-01_desc-aseg_dseg.nii.gz",
        "derivatives/fs/sub-01/anat/sub-01_space-MNI152NLin6Asym_dseg.nii.gz",
        "derivatives/fs/sub-02/ses-b/anat/sub-02_ses-b_run-2_dseg.nii.gz",
    )  # fmt: skip
    (tmp_path / "participants.tsv").write_text("participant_id\tage\tsex\nsub-01\t40\tF\nsub-02\tn/a\tM\n")
    cohort = read_cohort(Source(bids=tmp_path))
    found = {c.id: (c.label.name if c.label else None, c.covariates) for c in cohort.cases}
    assert found == {
        "sub-01": ("sub-01_desc-aseg_dseg.nii.gz", {"patient": "sub-01", "age": 40.0, "sex": "F"}),
        "sub-02_ses-a": (None, {"patient": "sub-02", "session": "a", "age": None, "sex": "M"}),
        "sub-02_ses-b_run-1": (None, {"patient": "sub-02", "session": "b", "age": None, "sex": "M"}),
        "sub-02_ses-b_run-2": ("sub-02_ses-b_run-2_dseg.nii.gz", {"patient": "sub-02", "session": "b", "age": None, "sex": "M"}),
    }
    touch(tmp_path, "derivatives/other/sub-01/anat/sub-01_dseg.nii.gz")
    with pytest.raises(BadInput, match=r"one segmentation of sub-01_T1w.nii.gz; got .*aseg.*other"):
        read_cohort(Source(bids=tmp_path))


def test_nnunet(tmp_path: Path) -> None:
    touch(
        tmp_path, *(f"imagesTr/c1_000{n}.nrrd" for n in (0, 1)), "imagesTr/c2_0000.nrrd", "labelsTr/c1.nrrd",
        "imagesTs/t1_0000.nrrd", "imagesTs/t1_0000.nii.gz",
    )  # fmt: skip
    (tmp_path / "dataset.json").write_text(json.dumps({"file_ending": ".nrrd", "labels": {"background": 0, "a": 1}}))
    cases = read_cohort(Source(nnunet=tmp_path)).cases
    assert [(c.id, c.image.name, c.label and c.label.name, c.covariates["split"]) for c in cases] == [
        ("c1", "c1_0000.nrrd", "c1.nrrd", "train"),
        ("c2", "c2_0000.nrrd", None, "train"),
        ("t1", "t1_0000.nrrd", None, "test"),
    ]
    assert [c.id for c in read_cohort(Source(nnunet=tmp_path, split="test")).cases] == ["t1"]


@pytest.mark.parametrize("source", ["bids", "nnunet"])
def test_folders_that_are_neither(tmp_path: Path, source: str) -> None:
    with pytest.raises(BadInput, match=r"root of a BIDS dataset|dataset\.json"):
        read_cohort(Source(**{source: tmp_path}))
    with pytest.raises(BadInput, match="a folder at"):
        read_cohort(Source(**{source: tmp_path / "no"}))
