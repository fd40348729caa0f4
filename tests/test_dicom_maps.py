"""DICOM out: what is written reads back exactly, at its place in the patient, whole or not at all; and the command line's case."""

import json
import shutil
import subprocess
import warnings
from pathlib import Path

import dicoms
import numpy as np
import pydicom
import pytest
import torch
from dicoms import enhanced, images, oblique, write
from test_cli import MODEL, SCAN, SPOT, radiolucent
from torch import nn

import radiolucent as rl
from radiolucent import io
from radiolucent.errors import BadInput
from radiolucent.export import strongest, write_dicom
from radiolucent.geometry import reorient
from radiolucent.methods import GradCAM, Gradient

STORED = np.random.default_rng(0).integers(0, 4000, (5, 6, 7))
LPS = np.diag([-1.0, -1, 1, 1])


@pytest.fixture(params=["classic axial", "classic oblique", "enhanced", "one slice"])
def source(request, tmp_path) -> Path:
    turned = dicoms.AXIAL if request.param == "classic axial" else oblique()
    made = images(STORED[: 1 if request.param == "one slice" else None], modality="MR", orientation=turned)
    if request.param != "enhanced":
        return write(tmp_path / "source", made)
    enhanced(made).save_as(tmp_path / "source.dcm", enforce_file_format=True)
    return tmp_path / "source.dcm"


def relevance(scan: rl.Volume, scale: float = 1e-6) -> rl.Volume:
    values = np.random.default_rng(1).standard_normal(scan.data.shape).astype(np.float32)
    return rl.Volume(values * np.float32(scale), scan.affine, scan.has_world)


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1, 1e30])
def test_a_map_reads_back_exactly_at_its_place(tmp_path, source, scale):
    made = relevance(io.read(source), scale)
    path = io.write_parametric_map(tmp_path / "map.dcm", made, source, name="grad-cam: Läsion 肺")
    assert io.read(path) == made


@pytest.mark.parametrize("source", ["classic axial", "classic oblique", "enhanced"], indirect=True)
def test_highdicom_places_the_map_s_voxels_where_the_source_s_lie(tmp_path, source):
    import highdicom

    scan = io.read(source)
    made = relevance(scan)
    path = io.write_parametric_map(tmp_path / "map.dcm", made, source, name="gradient")
    theirs = highdicom.imread(path).get_volume()
    inverse = np.linalg.inv(LPS @ theirs.affine)
    for voxel in ((0, 0, 0), (6, 5, 4), (2, 4, 1)):
        there = (inverse @ made.affine @ [*voxel, 1])[:3]
        np.testing.assert_allclose(there, there.round(), atol=1e-3)
        assert theirs.array[tuple(there.round().astype(int))] == made.data[(0, *voxel)]


def test_a_map_belongs_to_its_source_s_patient_study_and_frame_of_reference(tmp_path):
    made = images(STORED)
    source = write(tmp_path / "source", made)
    path = io.write_parametric_map(tmp_path / "map.dcm", relevance(io.read(source)), source, name="x", device="abc")
    written = pydicom.dcmread(path)
    same = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "AccessionNumber")
    for keyword in (*same, "FrameOfReferenceUID"):
        assert written[keyword].value == made[0][keyword].value
    assert written.SeriesInstanceUID != made[0].SeriesInstanceUID
    assert written.DeviceSerialNumber == "abc"
    placed = {str(item.ImagePositionPatient): item.SOPInstanceUID for item in made}
    for frame in written.PerFrameFunctionalGroupsSequence:
        (reference,) = frame.DerivationImageSequence[0].SourceImageSequence
        assert reference.ReferencedSOPInstanceUID == placed[str(frame.PlanePositionSequence[0].ImagePositionPatient)]


def test_names_in_another_script_come_through(tmp_path):
    made = images(STORED)
    for item in made:
        item.SpecificCharacterSet = "ISO_IR 100"
        item.PatientName = "Müller^Jürgen"
    source = write(tmp_path / "source", made)
    path = io.write_parametric_map(tmp_path / "map.dcm", relevance(io.read(source)), source, name="肺")
    assert str(pydicom.dcmread(path).PatientName) == "Müller^Jürgen"
    assert pydicom.dcmread(path).SeriesDescription == "肺"


def test_labels_read_back_at_their_places(tmp_path, source):
    scan = io.read(source)
    data = np.zeros(scan.data.shape, np.int32)
    data.flat[[3, 4, -1]] = [2, 7, 2]  # empty slices between, labels that are not 1, 2, ...
    path = io.write_segmentation(
        tmp_path / "seg.dcm", rl.Volume(data, scan.affine), source, names={2: "two", 7: "seven"}, algorithm="by hand"
    )
    written = pydicom.dcmread(path)
    assert [s.SegmentLabel for s in written.SegmentSequence] == ["two", "seven"]
    found = set()
    pixels = written.pixel_array.reshape(-1, 6, 7)
    shared = written.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient
    row, column = np.array(shared[:3]), np.array(shared[3:])
    for frame, item in zip(pixels, written.PerFrameFunctionalGroupsSequence, strict=True):
        number = item.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        for r, c in np.argwhere(frame):  # the standard's formula again
            patient = np.array(item.PlanePositionSequence[0].ImagePositionPatient) + row * c * 0.6 + column * r * 0.8
            there = np.linalg.inv(scan.affine) @ LPS @ [*patient, 1]
            found.add((number, *there[: scan.data.ndim - 1].round().astype(int).tolist()))
    expected = {({2: 1, 7: 2}[int(data[tuple(v)])], *v[1:].tolist()) for v in np.argwhere(data)}
    assert found == expected


# What cannot be written is refused, and nothing is left.


def unwritten(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if p.name not in ("source", "source.dcm")]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_is_refused(tmp_path, value):
    source = write(tmp_path / "source", images(STORED))
    made = relevance(io.read(source))
    made.data[0, 1, 1, 1] = value
    with pytest.raises(BadInput, match="finite values in a map"):
        io.write_parametric_map(tmp_path / "map.dcm", made, source, name="x")
    assert unwritten(tmp_path) == []


def test_another_grid_is_refused(tmp_path):
    source = write(tmp_path / "source", images(STORED))
    scan = io.read(source)
    moved = scan.affine.copy()
    moved[0, 3] += 0.1
    for other in (rl.Volume(scan.data, moved), rl.Volume(scan.data[..., 1:], scan.affine)):
        with pytest.raises(BadInput, match="a map on its source's grid"):
            io.write_parametric_map(tmp_path / "map.dcm", other, source, name="x")
        with pytest.raises(BadInput, match="a map on its source's grid"):
            io.write_segmentation(
                tmp_path / "s.dcm", rl.Volume(other.data > 0, other.affine), source, names={1: "x"}, algorithm="y"
            )
    assert unwritten(tmp_path) == []


def test_several_channels_are_refused(tmp_path):
    source = write(tmp_path / "source", images(STORED))
    scan = io.read(source)
    with pytest.raises(BadInput, match="one channel for a DICOM map; got 2"):
        io.write_parametric_map(tmp_path / "map.dcm", rl.Volume(np.repeat(scan.data, 2, 0), scan.affine), source, name="x")


@pytest.mark.parametrize(
    ("labels", "names", "match"),
    [
        ([0, 0], {1: "lesion"}, "a voxel in every region; got none in 1 lesion"),
        ([1, 0], {1: "a", 2: "b"}, "a voxel in every region; got none in 2 b"),
        ([1, 3], {1: "a"}, r"a name for every label; got none for \[3\]"),
        ([1, 0], {}, "a voxel in every region; got none in no label at all"),
        ([1.0, 0.5], {1: "a"}, "whole numbers as labels; got dtype float"),
    ],
)
def test_regions_that_are_none(tmp_path, labels, names, match):
    source = write(tmp_path / "source", images(STORED))
    scan = io.read(source)
    data = np.zeros(scan.data.shape, np.asarray(labels).dtype)
    data.flat[:2] = labels
    with pytest.raises(BadInput, match=match):
        io.write_segmentation(tmp_path / "s.dcm", rl.Volume(data, scan.affine), source, names=names, algorithm="y")
    assert unwritten(tmp_path) == []


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"])
def test_headers_that_cannot_be_referred_to(tmp_path, keyword):
    made = images(STORED)
    source = write(tmp_path / "source", made)
    scan = io.read(source)
    for item in made:
        del item[keyword]
    with pytest.raises(BadInput, match=r"UID in every header|a frame of reference"):
        io.write_parametric_map(tmp_path / "map.dcm", relevance(scan), made, name="x")


def test_the_caller_s_datasets_are_left_as_they_were(tmp_path):
    made = images(STORED)
    for item in made:
        del item.PatientSex
    scan = io.read(write(tmp_path / "source", made))
    before = [str(item) for item in made]
    assert io.read(io.write_parametric_map(tmp_path / "map.dcm", relevance(scan), made, name="x")) == relevance(scan)
    assert [str(item) for item in made] == before


def test_an_anonymised_source_without_any_patient_will_do(tmp_path):
    def strip(made):
        for item in made:
            for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
                            "AccessionNumber", "ReferringPhysicianName", "SliceThickness"):  # fmt: skip
                delattr(item, keyword)

    source = write(tmp_path / "source", images(STORED), strip)
    made = relevance(io.read(source))
    assert io.read(io.write_parametric_map(tmp_path / "map.dcm", made, source, name="x")) == made


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    source = write(tmp_path / "source", images(STORED))
    made = relevance(io.read(source))

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        io.write_parametric_map(tmp_path / "map.dcm", made, source, name="x")
    assert unwritten(tmp_path) == []


def test_an_x_ray_without_a_place_in_the_patient(tmp_path):
    (item,) = images(STORED[:1], modality="DX", intercept=0.0)
    del item.ImagePositionPatient, item.ImageOrientationPatient, item.FrameOfReferenceUID, item.PixelSpacing
    item.save_as(tmp_path / "source.dcm", enforce_file_format=True)
    scan = io.read(tmp_path / "source.dcm")
    made = relevance(scan)
    with pytest.raises(BadInput, match="a source with a place in the patient"):
        io.write_parametric_map(tmp_path / "map.dcm", made, tmp_path / "source.dcm", name="x")
    mask = rl.Volume((made.data > 0).astype(np.uint8), made.affine, made.has_world)
    path = io.write_segmentation(tmp_path / "seg.dcm", mask, tmp_path / "source.dcm", names={1: "x"}, algorithm="y")
    np.testing.assert_array_equal(pydicom.dcmread(path).pixel_array, mask.data[0])


# The strongest region.


def test_the_strongest_region_counts_positive_voxels_only():
    values = np.zeros((1, 10, 10, 4), np.float32)
    values.flat[:100] = np.arange(1, 101)
    values.flat[100:150] = -1000
    region = strongest(rl.Volume(values), 90)
    assert set(values[region.data > 0]) == set(range(90, 101))
    assert strongest(rl.Volume(values), 100).data.sum() == 1
    assert strongest(rl.Volume(values), 0).data.sum() == 100
    with pytest.raises(BadInput, match="all evidence speaks against"):
        strongest(rl.Volume(-np.abs(values)), 99)


# The right way up: a lesion at a known place in the patient comes out there.


class Bright(nn.Module):
    """S = mean of max(0, x - 500): its input gradient is nonzero exactly in the bright spot."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv3d(1, 1, 1)
        with torch.no_grad():
            self.features.weight.fill_(1.0)
            self.features.bias.fill_(-500.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(x).relu().flatten(2).mean(-1)


def planted(folder: Path) -> tuple[Path, np.ndarray, list[pydicom.Dataset]]:
    """An oblique series with one bright voxel, and the voxel's place in the patient (LPS mm)."""
    stored = np.full((9, 12, 10), 1000)
    k, r, c = 6, 2, 7
    stored[k, r, c] = 2000
    made = images(stored, orientation=oblique())
    row, column = np.array(oblique()[:3]), np.array(oblique()[3:])
    place = np.array(made[k].ImagePositionPatient) + row * c * 0.6 + column * r * 0.8
    return write(folder, made), place, made


def test_the_peak_of_the_map_lies_on_the_lesion(tmp_path):
    source, place, _ = planted(tmp_path / "source")
    explanation = rl.explain(Bright(), io.read(source), Gradient(), rl.Logits(0))
    explanation.save(tmp_path / "out")
    assert write_dicom(explanation, tmp_path / "out", source) == []
    for name in ("target_0.dcm", "target_0.nii.gz"):
        back = io.read(tmp_path / "out" / name)
        peak = np.unravel_index(np.abs(back.data[0]).argmax(), back.grid.shape)
        np.testing.assert_allclose((back.affine @ [*peak, 1])[:3], place * [-1, -1, 1], atol=1e-3)
    written = pydicom.dcmread(tmp_path / "out" / "target_0_seg.dcm")
    (frame,) = written.PerFrameFunctionalGroupsSequence
    ((r, c),) = np.argwhere(written.pixel_array.reshape(12, 10))
    shared = written.SharedFunctionalGroupsSequence[0]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient).reshape(2, 3)
    height, width = shared.PixelMeasuresSequence[0].PixelSpacing
    found = np.array(frame.PlanePositionSequence[0].ImagePositionPatient) + cosines[0] * c * width + cosines[1] * r * height
    np.testing.assert_allclose(found, place, atol=1e-3)


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dciodvfy (dicom3tools) is not installed")
def test_an_independent_checker_finds_no_error(tmp_path):
    source, _, _ = planted(tmp_path / "source")
    write_dicom(rl.explain(Bright(), io.read(source), Gradient(), rl.Logits(0)), tmp_path, source)
    for name in ("target_0.dcm", "target_0_seg.dcm"):
        said = subprocess.run(["dciodvfy", "-new", tmp_path / name], capture_output=True, text=True).stderr
        assert "ParametricMap" in said or "Segmentation" in said
        assert "Error" not in said


def test_a_brain_gets_the_same_map_from_nifti_and_from_dicom(tmp_path):
    scan = io.read(SCAN)
    turned = scan.on(reorient(scan.grid, "LPS"))
    scale = float(f"{turned.data.max() / 65535:.12g}")
    stored = (turned.data[0].transpose(2, 1, 0) / scale).round().clip(0, 65535)
    spacing, origin = turned.grid.spacing, turned.affine[:3, 3] * [-1, -1, 1]
    made = images(stored, modality="MR", origin=origin, spacing=(spacing[1], spacing[0]), step=spacing[2], intercept=0.0,
                  slopes=[scale] * len(stored))  # fmt: skip
    again = io.read(write(tmp_path / "brain", made))
    model, card = rl.load(MODEL)
    one, two = (
        rl.explain(model, s, GradCAM("upsamples.2"), rl.Region(1), preprocessing=card.preprocessing).relevance[0]
        for s in (scan, again)
    )
    two = two.on(one.grid)
    assert np.abs(one.data - two.data).max() < 1e-3 * np.abs(one.data).max()


def test_the_command_line_explains_a_series_folder(tmp_path):
    source, _, _ = planted(tmp_path / "Thorax.3")
    (tmp_path / "net.py").write_text(SPOT.replace("-0.9", "-500.0"))
    arguments = ("--model", "net:Spot", "--method", "gradient", "--target", 1, "--target", 0, "--out", "out", "--json")
    done = radiolucent("explain", source.name, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (case,) = json.loads(done.stdout)["cases"]
    folder = tmp_path / "out" / "Thorax.3"
    written = {p.name for p in (folder / "gradient").iterdir()}
    maps = {"target_0.nii.gz", "target_1.nii.gz", "target_0.dcm", "target_1.dcm", "target_0_seg.dcm"}
    assert written == {"explanation.json", *maps}
    assert case["case"] == "Thorax.3"
    assert any("gradient: target 1 has no Segmentation" in note and "all evidence speaks against" in note for note in case["notes"])
    for path in folder.rglob("*"):  # personal data is in the DICOM objects alone
        if path.is_file() and path.suffix != ".dcm":
            content = path.read_bytes()
            for secret in ("Mustermann", "PID-4711"):
                assert secret.encode() not in content
    assert "Mustermann" in dicoms.everything(folder / "gradient" / "target_0.dcm")


def test_results_inside_the_series_are_refused(tmp_path):
    source, _, _ = planted(tmp_path / "source")
    before = sorted(p.name for p in source.iterdir())
    (tmp_path / "net.py").write_text(SPOT)
    done = radiolucent("explain", source, "--model", "net:Spot", "--out", source / "out", cwd=tmp_path)
    assert done.returncode == 1
    assert "an output folder outside the series" in done.stderr
    assert sorted(p.name for p in source.iterdir()) == before


def test_a_series_is_chosen_on_the_command_line(tmp_path):
    source, _, made = planted(tmp_path / "both")
    for number, item in enumerate(images(np.full((3, 12, 10), 1000), modality="MR")):
        item.save_as(source / f"mr{number}", enforce_file_format=True)
    (tmp_path / "net.py").write_text(SPOT.replace("-0.9", "-500.0"))
    arguments = ("explain", "both", "--model", "net:Spot", "--method", "gradient", "--target", 1, "--out", "out", "--json")
    done = radiolucent(*arguments, "--series", made[0].SeriesInstanceUID, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert io.read(tmp_path / "out" / "both" / "gradient" / "target_0.dcm").grid.shape == (10, 12, 9)
