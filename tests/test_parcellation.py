"""Label images, their names in every format, and relevance added up by region."""

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radiolucent import io
from radiolucent.errors import BadInput, InputWarning
from radiolucent.geometry import Grid
from radiolucent.io.tables import Name, read_names, write_table
from radiolucent.parcellation import Parcellation, by_region
from radiolucent.volume import Volume

AFFINE = np.diag([-2.0, 1.5, 3, 1])
HIPPOCAMPUS = Name("Hippocampus", "left", "#dcd814")


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def labelled(shape: tuple[int, ...] = (4, 5, 6), affine: np.ndarray = AFFINE, seed: int = 0) -> Parcellation:
    labels = np.random.default_rng(seed).choice(np.array([0, 17, 18, 2035], np.int32), (1, *shape))
    names = {17: HIPPOCAMPUS, 18: Name("Amygdala", "left"), 2035: Name("ctx-rh-insula", "right")}
    return Parcellation(Volume(labels, affine), names)


# Names.


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("dseg.tsv", "index\tname\themisphere\tcolor\n17\tHippocampus\tleft\t#dcd814\n"),
        ("names.tsv", "label\tregion\themisphere\tcolour\n17\tHippocampus\tL\t#DCD814\n"),
        ("names.csv", "Value,Structure,Hemisphere,Color\n17,Hippocampus,lh,#dcd814\n"),
        ("bom.csv", "\ufeffid,name,hemisphere,color\r\n17,Hippocampus,Left,#dcd814\r\n\r\n"),
        ("quoted.csv", 'color,hemisphere,name,index\n"#dcd814"," left "," Hippocampus",17\n'),
    ],
)
def test_tables_of_names(tmp_path, name, text):
    assert read_names(written(tmp_path, name, text)) == {17: HIPPOCAMPUS}


def test_bids_tables_take_what_they_need(tmp_path):
    text = "index\tname\tabbreviation\tmapping\tcolor\n1\tGray, Matter\tGM\t1\t#ff53bb\n2\tWhite Matter\tWM\t2\tn/a\n"
    text += "-1\tOther\t\t\tred;url(x)\n"
    assert read_names(written(tmp_path, "dseg.tsv", text)) == {
        1: Name("Gray, Matter", "", "#ff53bb"),
        2: Name("White Matter"),
        -1: Name("Other"),  # a colour that is none is dropped, before it reaches a page's style
    }


def test_freesurfer_colour_tables(tmp_path):
    text = """#$Id: FreeSurferColorLUT.txt
#No. Label Name:                R   G   B   A

0   Unknown                     0   0   0   0
17  Left-Hippocampus            220 216 20  0
49  Right-Thalamus              0   118 14  0   # once Right-Thalamus-Proper
16  Brain-Stem                  119 159 176 0
1035    ctx-lh-insula           255 192 32  0
2035    ctx-rh-insula           255 192 32  0
4017    wm-rh-insula            20  40  120 0
11118   ctx_lh_G_insular_short  10  60  60  0
9000    Leftover                1   2   3   0
"""
    for name in ("FreeSurferColorLUT.txt", "aparc.ctab"):
        assert read_names(written(tmp_path, name, text)) == {
            0: Name("Unknown", "", "#000000"),
            17: Name("Left-Hippocampus", "left", "#dcd814"),
            49: Name("Right-Thalamus", "right", "#00760e"),
            16: Name("Brain-Stem", "", "#779fb0"),
            1035: Name("ctx-lh-insula", "left", "#ffc020"),
            2035: Name("ctx-rh-insula", "right", "#ffc020"),
            4017: Name("wm-rh-insula", "right", "#142878"),
            11118: Name("ctx_lh_G_insular_short", "left", "#0a3c3c"),
            9000: Name("Leftover", "", "#010203"),
        }


def test_nnunets_dataset_json_in_both_styles(tmp_path):
    new = {"labels": {"background": 0, "anterior": 1, "posterior": 2, "whole": [1, 2]}}
    old = {"labels": {"0": "background", "1": "anterior", "2": "posterior"}}
    expected = {0: Name("background"), 1: Name("anterior"), 2: Name("posterior")}
    for style in (new, old):
        assert read_names(written(tmp_path, "dataset.json", json.dumps(style))) == expected


def test_the_real_tables(data_folder):
    ixi, brain = read_names(data_folder / "ixi" / "regions.tsv"), read_names(data_folder / "brain_labels" / "regions.tsv")
    assert ixi[47] == Name("Hippocampus", "right")
    assert ixi[35] == Name("Brain Stem", "midline")
    assert brain[4] == Name("Lateral Ventricle", "left")
    assert {name.hemisphere for name in (ixi | brain).values()} == {"left", "right", "midline"}


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("a.tsv", "", "the columns index and name in a.tsv"),
        ("a.tsv", "index\tname\n", "rows of label values and names in a.tsv"),
        ("a.csv", "index;name\n1;a\n", r"the columns index and name in a.csv; got \['index;name'\]"),
        ("a.tsv", "index\tname\none\tA\n", "whole numbers in the column index of a.tsv; got .*'one'"),
        ("a.tsv", "index\tname\n1.5\tA\n", "whole numbers in the column index of a.tsv; got .*'1.5'"),
        ("a.tsv", "index\tname\n1\n", "a name for label 1 in a.tsv"),
        ("a.tsv", "index\tname\n1\t \n", "a name for label 1 in a.tsv"),
        ("a.tsv", "index\tname\n1\tA\n1\tB\n", "one name for label 1 in a.tsv; got 'A' and 'B'"),
        ("a.csv", 'index,name\n1,"' + "A" * 200_000 + '"\n', "a.csv"),
        ("a.txt", "", "rows of label values and names in a.txt"),
        ("a.txt", "all work and no play 1 2 3\n", "rows of label values and names in a.txt"),
        ("snap.txt", '1   255    0    0        1  1  1    "Label 1"\n', "rows of label values and names in snap.txt"),
        ("a.txt", "² Left 1 2 3 4\n", "rows of label values and names in a.txt"),
        ("a.json", "", '"labels": .name: value. in a.json'),
        ("a.json", "[1, 2]", '"labels"'),
        ("a.json", '{"labels": ["a", "b"]}', '"labels"'),
        ("a.json", '{"labels": {"a": "b"}}', '"labels"'),
        ("a.json", '{"labels": {"a": 1, "b": 1}}', "one name for label 1 in a.json; got 'a' and 'b'"),
        ("a.json", '{"labels": {}}', "rows of label values"),
        ("a.json", "[" * 100_000, '"labels"'),
    ],
)
def test_bad_tables_of_names(tmp_path, name, text, match):
    with pytest.raises(BadInput, match=match):
        read_names(written(tmp_path, name, text))


def test_a_table_that_is_no_text_or_not_there(tmp_path):
    (tmp_path / "a.tsv").write_bytes(b"index\tname\n1\tHirnstamm \xfc\n")
    for path in (tmp_path / "a.tsv", tmp_path / "none.tsv", tmp_path):
        with pytest.raises(BadInput, match="a table of names at"):
            read_names(path)


def test_a_repeated_row_is_harmless(tmp_path):
    assert read_names(written(tmp_path, "a.tsv", "index\tname\n1\tA\n1\tA\n")) == {1: Name("A")}


# Label images with their names.


def test_reading_a_parcellation(tmp_path):
    data = np.zeros((4, 5, 6), np.float32)
    data[1:3] = 17
    path = io.write(tmp_path / "labels.nii.gz", Volume(data[None], AFFINE))
    table = written(tmp_path, "dseg.tsv", "index\tname\themisphere\tcolor\n17\tHippocampus\tleft\t#dcd814\n99\tNone\t\t\n")
    for names in (table, str(table), {17: HIPPOCAMPUS}):
        read = Parcellation.read(path, names)
        assert read.labels == Volume(data[None].astype(np.int32), AFFINE)
        assert read.values == [0, 17]
        assert (read.name(0), read.name(17)) == ("background", "Hippocampus")
    bare = Parcellation.read(path)
    assert (bare.name(0), bare.name(17)) == ("background", "label 17")


def test_row_19_unknown_labels_are_listed(tmp_path):
    data = np.array([[[0, 1, 2], [3, 4, -5]]], np.int16)
    path = io.write(tmp_path / "labels.nii", Volume(data[None], AFFINE))
    with pytest.raises(BadInput, match=r"a name for every label in .*labels.nii.; got none for \[-5, 2, 4\]"):
        Parcellation.read(path, {1: Name("a"), 3: Name("b")})


def test_row_19_labels_must_be_whole_numbers_of_one_channel():
    for data in (np.zeros((1, 3, 3), np.float32), np.zeros((2, 3, 3), np.int32)):
        with pytest.raises(BadInput, match="one channel of whole numbers as labels"):
            Parcellation(Volume(data), {})


def test_row_17_another_grid_is_refused_or_resampled_with_a_word():
    parcellation = labelled()
    other = Grid((5, 4, 6), AFFINE)
    with pytest.raises(BadInput, match=r"a parcellation on the map's grid \(5 x 4 x 6.*Use parcellation.on"):
        by_region(Volume(np.ones((1, 5, 4, 6)), AFFINE), parcellation)
    with pytest.warns(InputWarning, match="the parcellation was resampled from 4 x 5 x 6 .* to 5 x 4 x 6") as caught:
        moved = parcellation.on(other)
    assert caught[0].filename == __file__
    assert moved.labels.grid == other
    np.testing.assert_array_equal(moved.labels.data[0, :4], parcellation.labels.data[0, :, :4])
    assert moved.names == parcellation.names
    assert parcellation.on(Grid((4, 5, 6), AFFINE)) is parcellation
    with pytest.warns(InputWarning, match="resampled"):
        between = parcellation.on(Grid((8, 10, 12), AFFINE @ np.diag([0.45, 0.45, 0.45, 1])))
    assert between.values == parcellation.values  # nearest neighbour: no label between two


def test_row_17_without_a_world_only_the_same_grid_will_do():
    nowhere = Parcellation(Volume(labelled().labels.data, has_world=False), labelled().names)
    assert nowhere.on(nowhere.labels.grid) is nowhere
    with pytest.raises(BadInput, match=r"a parcellation in world space.*got 4 x 5 x 6 .* without one. Save it as NIfTI"):
        nowhere.on(Grid((4, 5, 6), AFFINE))


def test_row_20_no_overlap():
    away = AFFINE.copy()
    away[0, 3] = 500
    with pytest.raises(BadInput, match=r"a parcellation that overlaps the image; got none .* on 4 x 5 x 6.*same subject"):
        labelled().on(Grid((4, 5, 6), away))


def test_row_4_an_image_has_no_volumes_parcellation():
    with pytest.raises(BadInput, match="a grid of 3 axes"):
        labelled().on(Grid((4, 5), AFFINE))


# Relevance by region.


def slowly(relevance: np.ndarray, labels: np.ndarray, value: int, voxel_mm3: float) -> dict[str, float]:
    """The definitions, with a mask per region and nothing shared."""
    mask = np.broadcast_to(labels == value, relevance.shape)
    whole = np.abs(relevance.astype(np.float64)).sum()
    inside = relevance[mask].astype(np.float64)
    voxels = int((labels == value).sum())
    mass = np.abs(inside).sum() / whole
    return {
        "label": value,
        "mass_fraction": mass,
        "positive": inside[inside > 0].sum() / whole,
        "negative": -inside[inside < 0].sum() / whole,
        "density": np.abs(inside).sum() / voxels,
        "enrichment": mass / (voxels / labels.size),
        "voxels": voxels,
        "volume_mm3": voxels * voxel_mm3,
    }


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3), st.booleans())
def test_by_region_is_what_a_mask_per_region_gives(seed, channels, flat):
    parcellation = labelled((4, 5) if flat else (4, 5, 6), seed=seed)
    shape = (channels, *parcellation.labels.grid.shape)
    relevance = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    rows = by_region(Volume(relevance, AFFINE), parcellation)
    assert [row["label"] for row in rows] == parcellation.values
    for row in rows:
        expected = slowly(relevance, parcellation.labels.data[0], row["label"], 9.0)
        np.testing.assert_allclose([row[key] for key in expected], list(expected.values()), rtol=1e-9)
        assert row["region"] == parcellation.name(row["label"])
    assert rows[-1]["hemisphere"] == "right"
    for share in (sum(r["mass_fraction"] for r in rows), sum(r["positive"] + r["negative"] for r in rows)):
        assert share == pytest.approx(1, abs=1e-12)
    assert sum(r["voxels"] for r in rows) == parcellation.labels.data.size


def test_by_region_counts_small_values_beside_large_ones():
    labels = np.zeros((1, 300, 300), np.int32)
    labels[0, 150:] = 1
    relevance = np.full((1, 300, 300), 1e-4, np.float32)
    relevance[0, 0, 0] = 1e6
    rows = by_region(Volume(relevance), Parcellation(Volume(labels), {1: Name("half")}))
    assert rows[1]["density"] == pytest.approx(np.float64(np.float32(1e-4)), rel=1e-12)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_row_34_relevance_that_says_nothing_is_refused(value):
    relevance = np.zeros((1, 4, 5, 6), np.float32)
    relevance[0, 1, 2, 3] = value
    with pytest.raises(BadInput, match="relevance that is finite and not zero everywhere; got a sum of"):
        by_region(Volume(relevance, AFFINE), labelled())


def test_by_region_on_a_real_scan(data_folder, tmp_path):
    case = "IXI012-HH-1211-T1_ds"
    scan = io.read(data_folder / "ixi" / "t1" / f"{case}.nii.gz")
    path = data_folder / "ixi" / "parcellation" / f"{case}_DLMUSE.nii.gz"
    with pytest.raises(BadInput, match=r"a name for every label in .*DLMUSE.nii.gz.; got none for \[1, 46, 69, 71"):
        Parcellation.read(path, data_folder / "ixi" / "regions.tsv")
    names = read_names(data_folder / "ixi" / "regions.tsv")
    bare = Parcellation.read(path)
    parcellation = Parcellation(bare.labels, dict(bare.names) | names)
    rows = {row["label"]: row for row in by_region(scan, parcellation.on(scan.grid))}
    assert len(rows) == 149
    with (data_folder / "ixi" / "region_volumes.csv").open() as file:
        volumes = next(row for row in csv.DictReader(file) if row["MRID"] == "IXI012-HH-1211")
    for value in names:  # the volumes that come with the data, of another tool
        assert rows[value]["volume_mm3"] == pytest.approx(float(volumes[str(value)]))
    labels = np.asanyarray(nib.load(path).dataobj)
    expected = scan.data[0][labels == 47].sum(dtype=np.float64) / scan.data.sum(dtype=np.float64)
    assert rows[47]["mass_fraction"] == pytest.approx(expected)
    assert (rows[47]["region"], rows[47]["hemisphere"]) == ("Hippocampus", "right")
    assert sum(row["mass_fraction"] for row in rows.values()) == pytest.approx(1)


# Tables out.


def test_rows_as_csv_come_back(tmp_path):
    rows = [{"region": 'Gray, "Matter"', "mass": 0.1 + 0.2}, {"region": "n\nl", "voxels": 7}]
    with write_table(tmp_path / "a.csv", rows).open(newline="") as file:
        back = list(csv.DictReader(file))
    assert back == [
        {"region": 'Gray, "Matter"', "mass": "0.30000000000000004", "voxels": ""},
        {"region": "n\nl", "mass": "", "voxels": "7"},
    ]


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "=cmd|' /C calc'!A0"])
def test_row_44_no_cell_is_a_formula(tmp_path, cell):
    with write_table(tmp_path / "a.csv", [{"region": cell, cell: 1, "mass": -0.5, "empty": ""}]).open(newline="") as file:
        header, row = csv.reader(file)
    escaped = "'" + cell.replace("\r", " ")
    assert header == ["region", escaped, "mass", "empty"]
    assert row == [escaped, "1", "-0.5", ""]


def test_row_44_no_cell_ends_its_row(tmp_path):
    with write_table(tmp_path / "a.csv", [{"region": "a\r=1+1\0", "case": "\ud800"}]).open(newline="") as file:
        assert list(csv.reader(file)) == [["region", "case"], ["a =1+1", "?"]]
