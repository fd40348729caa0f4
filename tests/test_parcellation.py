"""Label images and their names in every format."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from radiolucent import io
from radiolucent.errors import BadInput, InputWarning
from radiolucent.geometry import Grid
from radiolucent.io.tables import Name, read_names, write_table
from radiolucent.parcellation import Parcellation
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


# Names that tell regions apart.


def named(*names: Name) -> Parcellation:
    return Parcellation(Volume(np.zeros((1, 2, 2), np.int32)), dict(enumerate(names, 1)))


def test_titles_are_of_one_label_each():
    left, right = Name("Hippocampus", "left"), Name("Hippocampus", "right")
    table = named(left, right, Name("Brain Stem", "midline"), Name("White matter"), Name("White matter"), Name("Pole", "left"))
    assert table.titles == {
        0: "background",
        1: "Hippocampus (left)",
        2: "Hippocampus (right)",
        3: "Brain Stem",
        4: "White matter (label 4)",
        5: "White matter (label 5)",
        6: "Pole",
    }
    twice = named(left, left, right)
    assert list(twice.titles.values())[1:] == ["Hippocampus (label 1)", "Hippocampus (label 2)", "Hippocampus (right)"]


def test_finding_labels_by_their_name():
    table = named(Name("Hippocampus", "left"), Name("Hippocampus", "right"), Name("Brain Stem"))
    assert table.find("Hippocampus") == [1, 2]
    assert table.find("Hippocampus (right)") == [2]
    assert table.find("Brain Stem") == table.find(3) == [3]
    assert table.find("background") == [0]
    with pytest.raises(BadInput, match=r"one of the regions background, .*got 'Hipocampus'. Is it Hippocampus"):
        table.find("Hipocampus")
    with pytest.raises(BadInput, match=r"got 4\. See the table of names"):
        table.find(4)


def test_pairs_of_left_and_right():
    assert named(
        Name("Amygdala", "right"), Name("Amygdala", "left"), Name("Stem", "midline"), Name("Pole", "left")
    ).left_right() == [("Amygdala (left)", "Amygdala (right)")]
    marks = ["Left-Caudate", "Right-Caudate", "kidney_left", "kidney_right", "ctx-lh-insula", "ctx-rh-insula", "wm-lh-insula"]
    marks += ["Putamen_L", "Putamen_R", "vertebrae_L1", "vertebrae_R1", "Leftover", "Rightover", "L lung", "R lung", "spleen"]
    assert named(*map(Name, marks)).left_right() == [
        ("Left-Caudate", "Right-Caudate"),
        ("kidney_left", "kidney_right"),
        ("ctx-lh-insula", "ctx-rh-insula"),
        ("Putamen_L", "Putamen_R"),
        ("L lung", "R lung"),
    ]
    assert named(Name("a_left"), Name("a_left", "left"), Name("a_right")).left_right() == []  # two lefts: which one?


def test_pairs_of_the_real_tables(data_folder):
    for folder, pairs in (("ixi", 12), ("brain_labels", 14)):
        table = Parcellation(Volume(np.zeros((1, 2, 2), np.int32)), read_names(data_folder / folder / "regions.tsv"))
        found = table.left_right()
        assert len(found) == pairs
        assert ("Hippocampus (left)", "Hippocampus (right)") in found
        assert sum(name.hemisphere == "left" for name in table.names.values()) == pairs


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
