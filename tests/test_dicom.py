"""DICOM in: the affine against the headers' own arithmetic and other readers, values slice by slice, each breakage by its words."""

import logging
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from io import BytesIO, StringIO
from pathlib import Path

import dicoms
import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicoms import ID, NAME, enhanced, images, oblique, write
from pydicom.dataset import Dataset
from pydicom.uid import JPEGLosslessSV1

import radiolucent as rl
from radiolucent import io
from radiolucent.errors import BadInput, InputWarning

STORED = np.random.default_rng(0).integers(0, 4000, (5, 6, 7))
LPS = np.diag([-1.0, -1, 1, 1])
REAL = Path(pydicom.__file__).parent / "data" / "test_files" / "dicomdirtests"

Change = Callable[[list[Dataset]], None]


def refused(path: Path, match: str, **how: object) -> str:
    """The message, which says nothing about the patient."""
    logged = StringIO()
    handler = logging.StreamHandler(logged)
    logging.getLogger().addHandler(handler)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with pytest.raises(BadInput, match=match or "expected") as caught:
            io.read(path, **how)
    logging.getLogger().removeHandler(handler)
    said = str(caught.value) + "".join(str(w.message) for w in warned) + logged.getvalue()
    for secret in (NAME, ID, "Mustermann", "4711", "19640812", "Arzt"):
        assert secret not in said
    assert caught.value.__suppress_context__ or caught.value.__context__ is None  # a traceback does not show it either
    return said


def quiet(path: Path, **how: object) -> rl.Volume:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        return io.read(path, **how)


# Where the voxels are.


@pytest.mark.parametrize("orientation", [dicoms.AXIAL, (0, 1, 0, 0, 0, -1), (1, 0, 0, 0, 0, -1), oblique(), (-1, 0, 0, 0, -1, 0)])
def test_each_voxel_lies_where_its_own_header_says(tmp_path, orientation):
    made = images(STORED, orientation=orientation)
    volume = io.read(write(tmp_path / "series", made))
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    assert volume.grid.shape == (7, 6, 5)
    assert volume.has_world
    for k, item in enumerate(made):
        for r, c in ((0, 0), (5, 0), (0, 6), (3, 4)):  # the standard's own formula (PS3.3 C.7.6.2.1.1)
            patient = np.array(item.ImagePositionPatient) + row * c * item.PixelSpacing[1] + column * r * item.PixelSpacing[0]
            value = STORED[k, r, c] - 1024
            voxel = np.linalg.inv(volume.affine) @ LPS @ [*patient, 1]
            np.testing.assert_allclose(voxel[:3], voxel[:3].round(), atol=1e-4)
            assert volume.data[(0, *voxel[:3].round().astype(int))] == value


@pytest.mark.filterwarnings(
    "ignore:The DICOM readers are highly experimental:UserWarning"
)  # nibabel's, on import; it is only compared with
def test_nibabel_places_the_slices_alike(tmp_path):
    from nibabel.nicom.dicomwrappers import wrapper_from_data

    made = images(STORED, orientation=oblique())
    volume = io.read(write(tmp_path / "series", made))
    for k, item in enumerate(made):
        theirs = LPS @ wrapper_from_data(item).affine  # of (row, column)
        for r, c in ((0, 0), (5, 6)):
            np.testing.assert_allclose(volume.affine @ [c, r, k, 1], theirs @ [r, c, 0, 1], atol=1e-4)


def test_simpleitk_builds_the_same_volume(tmp_path):
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is no dependency; it is compared with where it is there")
    folder = write(tmp_path / "series", images(STORED, orientation=oblique(), modality="MR", slopes=[1, 1, 1, 1, 1]))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    theirs = reader.Execute()
    volume = io.read(folder)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(theirs).T, volume.data[0])
    affine = np.eye(4)
    affine[:3, :3] = np.array(theirs.GetDirection()).reshape(3, 3) * theirs.GetSpacing()
    affine[:3, 3] = theirs.GetOrigin()
    np.testing.assert_allclose(LPS @ affine, volume.affine, atol=1e-4)


def test_a_real_ct_series(tmp_path):
    volume = io.read(REAL / "98892001" / "CT5N")
    assert volume.grid.shape == (16, 16, 5)
    first = min((pydicom.dcmread(p) for p in (REAL / "98892001" / "CT5N").iterdir()), key=lambda d: d.ImagePositionPatient[2])
    np.testing.assert_allclose(volume.affine[:3, 3], np.array(first.ImagePositionPatient) * [-1, -1, 1])
    np.testing.assert_array_equal(volume.data[0, :, :, 0].T, first.pixel_array * float(first.RescaleSlope) + first.RescaleIntercept)


def test_an_enhanced_file_is_the_same_volume_as_its_slices(tmp_path):
    made = images(STORED, modality="MR", orientation=oblique(), slopes=[1, 2, 0.5, 3, 1.25])
    classic = io.read(write(tmp_path / "classic", made))
    enhanced(made).save_as(tmp_path / "one.dcm", enforce_file_format=True)
    assert io.read(tmp_path / "one.dcm") == classic


def test_positions_rounded_to_a_tenth_are_still_a_volume(tmp_path):
    def rounded(made):
        for item in made:
            item.ImagePositionPatient = [round(float(v), 1) for v in item.ImagePositionPatient]

    volume = io.read(write(tmp_path / "series", images(STORED, step=1.25), rounded))
    assert volume.grid.spacing[2] == pytest.approx(1.25, abs=0.03)


# What the values are.


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_slope_and_intercept_are_each_slice_s_own(tmp_path, modality):
    slopes = [1.0, 0.37, 2.5, 0.001, 12.0]
    volume = quiet(write(tmp_path / "series", images(STORED, modality=modality, slopes=slopes, intercept=-3)))
    expected = (STORED * np.array(slopes)[:, None, None] - 3).transpose(2, 1, 0)
    np.testing.assert_allclose(volume.data[0], expected, rtol=1e-6, atol=1e-4)


def test_the_pet_s_unit_is_said(tmp_path):
    made = images(STORED, modality="PT")
    for item in made:
        item.Units = "BQML"
    with pytest.warns(InputWarning, match="BQML"):
        volume = io.read(write(tmp_path / "series", made))
    assert volume.notes == ("the PET's values are in BQML as stored; no uptake value (SUV) was computed",)


def test_a_table_of_values_is_applied(tmp_path):
    made = images(np.arange(4).reshape(1, 2, 2))
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType, table.LUTData = [4, 0, 16], "US", [7, 70, 700, 7000]
    table["LUTDescriptor"].VR = "US"
    table["LUTData"].VR = "US"
    made[0].ModalityLUTSequence = [table]
    del made[0].RescaleSlope, made[0].RescaleIntercept
    volume = io.read(write(tmp_path / "series", made))
    np.testing.assert_array_equal(volume.data, [[[7, 70], [700, 7000]]])


def x_ray(photometric: str = "MONOCHROME1", modality: str = "DX") -> Dataset:
    (item,) = images(np.array([[[0, 1], [10, 65535]]]), modality=modality, intercept=0.0)
    del item.ImagePositionPatient, item.ImageOrientationPatient, item.RescaleSlope, item.RescaleIntercept
    item.PhotometricInterpretation = photometric
    return item


def test_an_x_ray_stored_with_low_as_bright_is_inverted_and_that_is_said(tmp_path):
    x_ray().save_as(tmp_path / "x.dcm", enforce_file_format=True)
    with pytest.warns(InputWarning, match="inverted"):
        volume = io.read(tmp_path / "x.dcm")
    np.testing.assert_array_equal(volume.data, [[[65535, 65534], [65525, 0]]])
    assert not volume.has_world
    assert volume.grid.spacing == (0.8, 0.6)


def test_a_ct_s_numbers_are_quantities_and_never_inverted(tmp_path):
    made = images(STORED)
    for item in made:
        item.PhotometricInterpretation = "MONOCHROME1"
    with pytest.warns(InputWarning, match="kept"):
        volume = io.read(write(tmp_path / "series", made))
    np.testing.assert_array_equal(volume.data[0], STORED.transpose(2, 1, 0) - 1024)


def test_one_slice_is_a_2d_image_in_its_place(tmp_path):
    (item,) = images(STORED[:1], orientation=oblique())
    item.save_as(tmp_path / "IM0001", enforce_file_format=True)
    volume = io.read(tmp_path / "IM0001")
    np.testing.assert_array_equal(volume.data, STORED[:1] - 1024)
    assert volume.has_world
    patient = np.array(item.ImagePositionPatient) + np.array(oblique()[:3]) * 4 * 0.6 + np.array(oblique()[3:]) * 2 * 0.8
    np.testing.assert_allclose(volume.affine @ [2, 4, 0, 1], LPS @ [*patient, 1], atol=1e-4)


def colour(frames: int = 1) -> Dataset:
    (item,) = images(np.zeros((1, 4, 5), int))
    del item.ImagePositionPatient, item.ImageOrientationPatient, item.RescaleSlope, item.RescaleIntercept
    rgb = np.random.default_rng(1).integers(0, 255, (frames, 4, 5, 3), np.uint8)
    item.SamplesPerPixel, item.PhotometricInterpretation, item.PlanarConfiguration = 3, "RGB", 0
    item.BitsAllocated, item.BitsStored, item.HighBit = 8, 8, 7
    item.NumberOfFrames, item.PixelData = frames, rgb.tobytes()
    return item


def test_colour_is_treated_as_in_other_images(tmp_path):
    item = colour()
    item.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    refused(tmp_path / "x.dcm", "a grey image in x.dcm; got a colour image")
    rgb = np.frombuffer(item.PixelData, np.uint8).reshape(4, 5, 3)
    np.testing.assert_array_equal(io.read(tmp_path / "x.dcm", colour="channels").data, rgb.transpose(2, 0, 1))
    assert io.read(tmp_path / "x.dcm", colour="grey").data.shape == (1, 4, 5)


def test_one_frame_of_a_film_is_chosen(tmp_path):
    item = colour(frames=3)
    item.save_as(tmp_path / "film.dcm", enforce_file_format=True)
    refused(tmp_path / "film.dcm", "got 3 without a place in space. Choose one: --frame 0 to --frame 2")
    refused(tmp_path / "film.dcm", "frame 3 of 3", frame=3)
    rgb = np.frombuffer(item.PixelData, np.uint8).reshape(3, 4, 5, 3)
    np.testing.assert_array_equal(io.read(tmp_path / "film.dcm", frame=2, colour="channels").data, rgb[2].transpose(2, 0, 1))


@pytest.mark.parametrize(
    "name",
    [
        "CT_small",
        "MR_small",
        "MR_small_RLE",
        "MR_small_bigendian",
        "MR_small_jpeg_ls_lossless",
        "MR_small_implicit",
        "MR_small_padded",
    ],
)
def test_pydicom_s_own_files(name):
    from pydicom.data import get_testdata_file

    path = Path(get_testdata_file(f"{name}.dcm", download=False))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        item = pydicom.dcmread(path)
        expected = item.pixel_array * float(item.get("RescaleSlope") or 1) + float(item.get("RescaleIntercept") or 0)
    np.testing.assert_array_equal(io.read(path).data[0], expected)


# Each breakage by its words (bad inputs, rows 21 to 23).


def drop(number: int) -> Change:
    return lambda made: made.pop(number)


def lean(made: list[Dataset]) -> None:
    for k, item in enumerate(made):
        item.ImagePositionPatient = [
            item.ImagePositionPatient[0],
            -60 + k * 2.5 * np.tan(np.radians(2)),
            item.ImagePositionPatient[2],
        ]


def uneven(made: list[Dataset]) -> None:
    made[2].ImagePositionPatient = [*made[2].ImagePositionPatient[:2], float(made[2].ImagePositionPatient[2]) + 0.6]


def turned(made: list[Dataset]) -> None:
    made[0].ImageOrientationPatient = [1, 0, 0, 0, 0, -1]


def twice(made: list[Dataset]) -> None:
    made[3].ImagePositionPatient = made[1].ImagePositionPatient


def smaller(made: list[Dataset]) -> None:
    made[4].Rows, made[4].PixelData = 3, made[4].PixelData[: 3 * 7 * 2]


def coarser(made: list[Dataset]) -> None:
    made[1].PixelSpacing = [0.9, 0.6]


def unplaced(made: list[Dataset]) -> None:
    del made[2].ImagePositionPatient


def unturned(made: list[Dataset]) -> None:
    del made[0].ImageOrientationPatient, made[1].ImageOrientationPatient


def unspaced(made: list[Dataset]) -> None:
    for item in made:
        del item.PixelSpacing


def two_kinds(made: list[Dataset]) -> None:
    made[2].PhotometricInterpretation = "MONOCHROME1"


def no_slope(made: list[Dataset]) -> None:
    made[2].RescaleSlope = 0


def skewed(made: list[Dataset]) -> None:
    for item in made:
        item.ImageOrientationPatient = [1, 0, 0, 0.2, 0.98, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop(2), r"slices 2.5 mm apart without a gap.*a missing slice: 5 mm after the slice at \(-50.00, -60.00, 72.50\) mm"),
        (
            turned,
            r"one orientation.*1.000 0.000 0.000 0.000 1.000 0.000 \(4 images\), 1.000 0.000 0.000 0.000 0.000 -1.000 \(1 images",
        ),
        (twice, r"one image at each position.*1 at a position that has one already, for example \(-50.00, -60.00, 72.50\) mm"),
        (lean, r"at a right angle to their plane.*leans by 2 degrees \(gantry tilt\?\), up to 0.437 voxels off"),
        (smaller, r"images of one size.*6 x 7 \(4 images\), 3 x 7 \(1 images\)"),
        (coarser, r"one pixel spacing.*0.8 x 0.6 mm \(4 images\), 0.9 x 0.6 mm \(1 images\)"),
        (unplaced, "a position and an orientation in the patient for every image.*1 of 5 images without"),
        (unturned, "a position and an orientation in the patient for every image.*2 of 5 images without"),
        (unspaced, "pixel spacings above zero"),
        (uneven, "evenly spaced slices.*distances from 1.9 to 3.1 mm"),
        (two_kinds, r"one kind of pixels.*MONOCHROME2 \(4 images\), MONOCHROME1 \(1 images\)"),
        (no_slope, "rescale slopes other than zero"),
        (skewed, "rows and columns at right angles"),
    ],
    ids=lambda v: "" if isinstance(v, str) else getattr(v, "__name__", ""),
)
def test_a_series_that_is_no_volume(tmp_path, change, message):
    refused(write(tmp_path / "series", images(STORED), change), message)


def test_a_real_series_with_a_gap_and_a_real_localizer():
    refused(REAL / "77654033" / "CT2", r"a missing slice: 202.5 mm after the slice at")
    refused(REAL / "98892001" / "CT2N", "one orientation in CT2N")


def test_an_enhanced_file_with_a_missing_slice(tmp_path):
    enhanced([item for k, item in enumerate(images(STORED, modality="MR")) if k != 1]).save_as(
        tmp_path / "x.dcm", enforce_file_format=True
    )
    refused(tmp_path / "x.dcm", r"a missing slice: 5 mm")


def test_two_series_are_listed_and_one_is_chosen(tmp_path):
    one, two = images(STORED), images(STORED[:3] + 1, modality="MR")
    write(tmp_path / "both", one)
    for number, item in enumerate(two):
        item.SeriesDescription = NAME
        item.save_as(tmp_path / "both" / f"mr{number}", enforce_file_format=True)
    said = refused(tmp_path / "both", "one series at both; got 2 series")
    assert f"{one[0].SeriesInstanceUID} (CT, 5 images)" in said
    assert f"{two[0].SeriesInstanceUID} (MR, 3 images)" in said
    chosen = quiet(tmp_path / "both", series=two[0].SeriesInstanceUID)
    assert chosen.grid.shape == (7, 6, 3)
    assert chosen.notes == ("5 of the folder's files are not images of this series and were left aside",)
    refused(tmp_path / "both", f"the series 1.2.3; got 2 series: .*{one[0].SeriesInstanceUID}", series="1.2.3")


def test_files_that_are_no_images_are_left_aside_with_a_note(tmp_path):
    folder = write(tmp_path / "series", images(STORED))
    (folder / "readme.txt").write_text("nothing")
    (folder / "Thumbs.db").write_bytes(bytes(4000))
    (folder / "empty").touch()
    (folder / "DICOMDIR").write_bytes((REAL / "DICOMDIR").read_bytes())
    with pytest.warns(InputWarning, match="4 of the folder's files are not images"):
        assert io.read(folder).grid.shape == (7, 6, 5)


def test_a_dicomdir_s_paths_are_never_followed(tmp_path):
    folder = write(tmp_path / "inside", images(STORED))
    write(tmp_path / "outside", images(STORED))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, on the path that we plant
        directory = pydicom.dcmread(REAL / "DICOMDIR")
        for record in directory.DirectoryRecordSequence:
            if "ReferencedFileID" in record:
                record.ReferencedFileID = ["..", "outside", "0000"]
        directory.save_as(folder / "DICOMDIR", enforce_file_format=True)
    assert quiet(folder).data.shape == (1, 7, 6, 5)
    refused(folder / "DICOMDIR", "a DICOM image in DICOMDIR; got a DICOM file without pixels")


def test_a_link_to_a_folder_is_not_followed(tmp_path):
    folder = write(tmp_path / "inside", images(STORED))
    write(tmp_path / "outside", images(STORED))
    (folder / "more").symlink_to(tmp_path / "outside")
    assert io.read(folder).data.shape == (1, 7, 6, 5)


def test_a_folder_without_an_image(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    refused(tmp_path, "a DICOM image; got the folder .* with 1 files, none of them one")


def test_no_decoder_names_the_package(tmp_path):
    made = images(STORED)
    for item in made:
        item.file_meta.TransferSyntaxUID = JPEGLosslessSV1
        item.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"])
        item["PixelData"].VR = "OB"
    refused(write(tmp_path / "series", made), "JPEG Lossless.*Install python-gdcm")


def test_pixels_that_cannot_be_decoded_name_the_package_and_quote_nothing(tmp_path):
    made = images(STORED)
    for item in made:
        item.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.90"
        item.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51" + NAME.encode()])
        item["PixelData"].VR = "OB"
    refused(write(tmp_path / "series", made), "a failure of the kind .*Install pylibjpeg and pylibjpeg-openjpeg")


def test_a_huge_image_is_refused_before_it_is_allocated(tmp_path):
    def huge(made):
        for item in made:
            item.Rows = item.Columns = 65535
            item.NumberOfFrames = 60000

    refused(
        write(tmp_path / "series", images(STORED[:1]), huge), "at most half the memory.*65535 rows, 65535 columns and 60000 images"
    )


def test_truncated_pixels(tmp_path):
    def cut(made):
        made[1].PixelData = made[1].PixelData[:-10]

    refused(write(tmp_path / "series", images(STORED), cut), "84 bytes of pixels in each image.*got 74. It is truncated")


def test_a_deflated_bomb_is_not_unpacked(tmp_path, monkeypatch):
    (item,) = images(STORED[:1])
    item.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    item.save_as(tmp_path / "fine.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(io.read(tmp_path / "fine.dcm").data, STORED[:1] - 1024)
    raw = (tmp_path / "fine.dcm").read_bytes()
    start = 144 + pydicom.filereader.read_file_meta_info(tmp_path / "fine.dcm").FileMetaInformationGroupLength
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(100)) + packer.flush()
    (tmp_path / "bomb.dcm").write_bytes(raw[:start] + bomb)
    monkeypatch.setattr("os.sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 8192}[name])
    unpacked = []
    monkeypatch.setattr("pydicom.dcmread", lambda *a, **k: unpacked.append(a))
    refused(tmp_path / "bomb.dcm", "at most half the memory.*deflated data")
    assert not unpacked


@pytest.mark.parametrize("keyword", ["ImagePositionPatient", "PixelSpacing", "RescaleSlope"])
def test_a_name_where_a_number_belongs_is_not_quoted(tmp_path, keyword):
    folder = write(tmp_path / "series", images(STORED))
    for path in folder.iterdir():
        item = pydicom.dcmread(path)
        old = item[keyword]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            item[keyword] = pydicom.DataElement(old.tag, "LO", NAME)
            item.save_as(path, enforce_file_format=True)
        raw = path.read_bytes()
        tag = int(old.tag).to_bytes(4, "big")
        tag = bytes([tag[1], tag[0], tag[3], tag[2]])
        path.write_bytes(raw.replace(tag + b"LO", tag + b"DS"))
    refused(folder, "")


def test_odd_identifiers_are_not_shown(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for n, uid in enumerate((NAME, ID)):
            made = images(STORED[:1])
            made[0].SeriesInstanceUID, made[0].Modality = uid, "CT"
            raw = BytesIO()
            made[0].save_as(raw, enforce_file_format=True)
            (tmp_path / f"{n}").write_bytes(raw.getvalue())
    said = refused(tmp_path, "")
    assert said.count("a series without a valid UID (CT, 1 images)") == 2


def test_a_file_that_only_claims_to_be_dicom(tmp_path):
    (tmp_path / "x.dcm").write_text("a text")
    refused(tmp_path / "x.dcm", "DICOM data in x.dcm; got text")
    (tmp_path / "y.dcm").write_bytes(bytes(128) + b"DICM" + b"\xff" * 400)
    refused(tmp_path / "y.dcm", "y.dcm")


def test_a_dicom_file_needs_no_suffix_and_its_dots_are_no_suffix(tmp_path):
    path = tmp_path / "1.2.840.5"
    images(STORED[:1])[0].save_as(path, enforce_file_format=True)
    assert io.read(path).data.shape == (1, 6, 7)
    assert io.stem(path) == "1.2.840.5"
    assert io.stem(tmp_path) == tmp_path.name


def test_labels_are_not_read_from_dicom(tmp_path):
    with pytest.raises(BadInput, match="labels as NIfTI"):
        io.read_labels(write(tmp_path / "series", images(STORED)))


def test_a_series_is_chosen_for_dicom_only(tmp_path):
    nib.save(nib.Nifti1Image(np.ones((2, 2, 2), np.float32), np.eye(4)), tmp_path / "x.nii")
    with pytest.raises(BadInput, match="Leave `series` out"):
        io.read(tmp_path / "x.nii", series="1.2")


@pytest.mark.parametrize("absent", ["pydicom", "highdicom"])
def test_without_the_extra_the_message_names_it(tmp_path, monkeypatch, absent):
    folder = write(tmp_path / "series", images(STORED))
    for name in [n for n in sys.modules if n.partition(".")[0] == absent]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, absent, None)
    refused(folder, r"pip install \"radiolucent\[dicom\]\"")


def test_other_images_do_without_highdicom():  # nibabel loads pydicom by itself
    code = "import sys, radiolucent.io; sys.exit(any(n.startswith('highdicom') for n in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
