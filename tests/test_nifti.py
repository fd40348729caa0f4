"""NIfTI and FreeSurfer volumes: what is written comes back, and whatever is wrong with a file is said."""

import gzip
import itertools
import logging
import tracemalloc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from radiolucent import io
from radiolucent.errors import BadInput, InputWarning
from radiolucent.geometry import Grid, reorient, shear
from radiolucent.volume import Volume

ORIENTATIONS = ["".join(codes) for axes in itertools.permutations(("LR", "PA", "IS")) for codes in itertools.product(*axes)]
AFFINE = np.array([[2.0, 0, 0, -10], [0, 1.5, 0, 20], [0, 0, 3, -30], [0, 0, 0, 1]])
HEADER = nib.Nifti1Header.template_dtype


def ramp(shape: tuple[int, ...] = (4, 5, 6), dtype: type = np.float32) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=dtype).reshape(shape)


def content(data: np.ndarray | None = None, affine: np.ndarray | None = AFFINE, **fields: object) -> bytes:
    """A NIfTI file's bytes with header fields overwritten, which nibabel itself would refuse to write."""
    image = nib.Nifti1Image(ramp() if data is None else data, affine)
    if affine is not None:
        image.set_qform(affine, 1)
    raw = bytearray(image.to_bytes())
    header = np.ndarray((), HEADER, raw)
    for name, value in fields.items():
        header[name] = value
    return bytes(raw)


def save(folder: Path, raw: bytes, name: str = "scan.nii") -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(raw, 1) if name.endswith("z") else raw)
    return path


def refused(path: Path, match: str, **how: object) -> None:
    with pytest.raises(BadInput, match=match) as caught:
        io.read(path, **how)
    assert path.name in str(caught.value)


@contextmanager
def little_memory() -> Iterator[None]:
    """Fails where more than 10 MiB are in use at once."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    finally:
        tracemalloc.stop()


# What is written comes back.


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize(("dtype", "suffix"), [(np.float32, ".nii.gz"), (np.int16, ".nii")])
def test_write_and_read_in_every_orientation(tmp_path, orientation, dtype, suffix):
    grid = reorient(Grid((4, 5, 6), AFFINE), orientation)
    volume = Volume(ramp((1, *grid.shape), dtype), grid.affine)
    path = io.write(tmp_path / f"map{suffix}", volume)
    stored = nib.load(path)
    assert nib.aff2axcodes(stored.affine) == tuple(orientation)
    assert stored.get_data_dtype() == dtype
    np.testing.assert_array_equal(np.asanyarray(stored.dataobj), volume.data[0])
    assert io.read(path) == Volume(volume.data.astype(np.float32), grid.affine)


def test_channels_go_last_and_come_back(tmp_path):
    volume = Volume(ramp((3, 4, 5, 6)), AFFINE)
    path = io.write(tmp_path / "map.nii.gz", volume)
    assert nib.load(path).shape == (4, 5, 6, 3)
    assert io.read(path, frame="channels") == volume
    np.testing.assert_array_equal(io.read(path, frame=1).data[0], volume.data[1])


def test_an_image_comes_back_with_depth_one(tmp_path):
    path = io.write(tmp_path / "map.nii", Volume(ramp((2, 4, 5)), AFFINE))
    assert io.read(path, frame="channels") == Volume(ramp((2, 4, 5))[..., None], AFFINE)


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (bool, np.uint8),
        (np.float16, np.float32),
        (np.int64, np.int32),
        (np.uint64, np.int32),
        (np.float64, np.float64),
        (np.uint16, np.uint16),
    ],
)
def test_every_real_dtype_can_be_written(tmp_path, given, stored):
    data = (ramp((1, 4, 5, 6)) % 2).astype(given)
    path = io.write(tmp_path / "map.nii", Volume(data, AFFINE))
    assert nib.load(path).get_data_dtype() == stored
    np.testing.assert_array_equal(io.read(path).data, data.astype(np.float32))


def test_integers_that_no_format_holds_are_refused(tmp_path):
    with pytest.raises(BadInput, match=r"2\^31"):
        io.write(tmp_path / "map.nii", Volume(np.full((1, 2, 2, 2), 2**40), AFFINE))
    assert list(tmp_path.iterdir()) == []


def test_more_voxels_in_a_row_than_nifti1_counts(tmp_path):
    volume = Volume(ramp((1, 40_000, 2, 1)), AFFINE)
    assert io.read(io.write(tmp_path / "map.nii.gz", volume)) == volume


@pytest.mark.parametrize("name", ["map.nii.gz", "MAP.NII.GZ"])
def test_the_same_volume_gives_the_same_bytes_whatever_the_name(tmp_path, name):
    one = io.write(tmp_path / name, Volume(ramp((1, 4, 5, 6)), AFFINE)).read_bytes()
    (tmp_path / "elsewhere").mkdir()
    two = io.write(tmp_path / "elsewhere" / "x.nii.gz", Volume(ramp((1, 4, 5, 6)), AFFINE)).read_bytes()
    assert one == two
    assert one[:2] == b"\x1f\x8b"
    assert one[4:8] == bytes(4)  # gzip's time of day


def test_qform_and_sform_are_written_equal(tmp_path):
    affine = np.eye(4)
    affine[:3, :3] = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0] * [1, 2, 3]
    header = nib.load(io.write(tmp_path / "map.nii", Volume(ramp((1, 4, 5, 6)), affine))).header
    assert (header["qform_code"], header["sform_code"]) == (1, 1)
    np.testing.assert_allclose(header.get_qform(), header.get_sform(), atol=1e-5)
    assert header.get_xyzt_units()[0] == "mm"


def test_a_sheared_map_is_written_without_a_wrong_qform(tmp_path):
    sheared = AFFINE @ np.array([[1, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    header = nib.load(io.write(tmp_path / "map.nii", Volume(ramp((1, 4, 5, 6)), sheared))).header
    assert (header["qform_code"], header["sform_code"]) == (0, 1)
    np.testing.assert_allclose(header.get_sform(), sheared)


def test_without_a_world_the_codes_are_zero(tmp_path):
    path = io.write(tmp_path / "map.nii", Volume(ramp((1, 4, 5, 6)), has_world=False))
    header = nib.load(path).header
    assert (header["qform_code"], header["sform_code"]) == (0, 0)
    with pytest.warns(InputWarning, match="no world space"):
        assert not io.read(path).has_world


def test_a_name_of_no_known_kind_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"ends in \.nii.*Change the suffix"):
        io.write(tmp_path / "map.nrrd", Volume(ramp((1, 4, 5, 6))))


def test_swapped_arguments_are_told(tmp_path: Path) -> None:
    volume = Volume(np.zeros((1, 4, 4, 4)))
    with pytest.raises(BadInput, match=r"a path, then a Volume; got Volume and PosixPath.*write\(path, volume\)"):
        io.write(volume, tmp_path / "x.nii")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="PosixPath and ndarray"):
        io.write(tmp_path / "x.nii", volume.data)  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", [".mgz", ".mgh"])
def test_freesurfer_volumes(tmp_path, suffix):
    affine = np.array([[-1.0, 0, 0, 20], [0, 0, 2, -30], [0, -1, 0, 40], [0, 0, 0, 1]])
    nib.MGHImage(ramp(dtype=np.int16), affine).to_filename(tmp_path / f"scan{suffix}")
    assert io.read(tmp_path / f"scan{suffix}") == Volume(ramp()[None], affine)


def test_big_endian_and_nifti2_files(tmp_path):
    nib.Nifti1Image(ramp(dtype=np.int16), AFFINE, nib.Nifti1Header(endianness=">")).to_filename(tmp_path / "big.nii")
    nib.Nifti2Image(ramp(), AFFINE).to_filename(tmp_path / "two.nii.gz")
    assert io.read(tmp_path / "big.nii") == io.read(tmp_path / "two.nii.gz") == Volume(ramp()[None], AFFINE)


def test_real_scans_are_what_nibabel_reads(data_folder):
    for path in (
        data_folder / "ixi" / "t1" / "IXI012-HH-1211-T1_ds.nii.gz",
        data_folder / "hippocampus" / "images" / "hippocampus_003.nii.gz",
    ):
        scan, stored = io.read(path), nib.load(path)
        np.testing.assert_array_equal(scan.data[0], stored.get_fdata(dtype=np.float32))
        np.testing.assert_array_equal(scan.affine, stored.affine)
        assert scan.grid.orientation == "".join(nib.aff2axcodes(stored.affine))


# Bad inputs, by the rows of the design's table.


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_row_1_nonfinite_voxels(tmp_path, value):
    data = ramp()
    data[1, 2, 3] = data[0, 0, 1] = value
    path = save(tmp_path, content(data))
    refused(path, "expected finite voxels.*got 2 voxels that are NaN or infinite.*--nonfinite zero")
    with pytest.warns(InputWarning, match="2 voxels that were NaN or infinite were replaced by 0"):
        scan = io.read(path, nonfinite="zero")
    expected = ramp()
    expected[1, 2, 3] = expected[0, 0, 1] = 0
    np.testing.assert_array_equal(scan.data[0], expected)
    assert scan.notes == ("2 voxels that were NaN or infinite were replaced by 0",)


def test_row_1_values_too_large_for_float32(tmp_path):
    refused(save(tmp_path, content(ramp(dtype=np.float64) * 1e38)), "voxels that are NaN or infinite")


@pytest.mark.parametrize("value", [0, 7])
def test_row_2_constant_image(tmp_path, value):
    path = save(tmp_path, content(np.full((4, 5, 6), value, np.int16)))
    with pytest.warns(InputWarning, match=f"scan.nii: the image is constant: every voxel is {value}"):
        scan = io.read(path)
    assert scan.notes == (f"the image is constant: every voxel is {value}",)


def test_row_3_time(tmp_path):
    path = save(tmp_path, content(ramp((4, 5, 6, 3))))
    refused(path, r"3D image.*got 4D data of shape \(4, 5, 6, 3\).*--frame 0 to --frame 2")
    for frame in (3, -1, "all", 1.0):
        refused(path, f"got 4D data .* and frame {frame}", frame=frame)
    np.testing.assert_array_equal(io.read(path, frame=2).data[0], ramp((4, 5, 6, 3))[..., 2])
    np.testing.assert_array_equal(io.read(path, frame="channels").data[1], ramp((4, 5, 6, 3))[..., 1])


def test_row_3_a_single_frame_needs_no_choice(tmp_path):
    for shape in ((4, 5, 6, 1), (4, 5, 6, 1, 1, 1)):
        path = save(tmp_path, content(ramp(shape)))
        assert io.read(path) == io.read(path, frame=0) == Volume(ramp((1, 4, 5, 6)), AFFINE)
        refused(path, "frame 0, the only one.*got frame 3", frame=3)


def test_row_3_vectors_are_channels_and_five_axes_too_many(tmp_path):
    vectors = save(tmp_path, content(ramp((4, 5, 6, 1, 3))))
    np.testing.assert_array_equal(io.read(vectors, frame="channels").data[2], ramp((4, 5, 6, 1, 3))[..., 0, 2])
    refused(save(tmp_path, content(ramp((4, 5, 6, 2, 3)))), "got 5D data of shape .*one image per file", frame=0)


def test_row_5_colour_and_complex(tmp_path):
    rgb = np.zeros((4, 5, 6), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    refused(save(tmp_path, content(rgb)), "grey image.*got a colour image .RGB voxels.*one channel")
    refused(save(tmp_path, content(ramp().astype(np.complex64))), r"grey image.*got complex voxels \(complex64\).*magnitude")


def test_row_8_sheared_affine(tmp_path):
    sheared = AFFINE @ np.array([[1, 0.4, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    labels = np.zeros((8, 9, 10), np.int16)
    labels[2:6, 3:7, 3:7] = 2035
    image = nib.Nifti1Image(labels, sheared)
    image.set_qform(None, 0)
    image.to_filename(tmp_path / "scan.nii")
    with pytest.warns(InputWarning, match="scan.nii: the grid is sheared: resampled to .* voxels of 2 x 1.7 x 3 mm"):
        scan = io.read(tmp_path / "scan.nii")
    assert shear(scan.affine) < 1e-6
    assert "sheared" in scan.notes[0]
    mass = lambda v: v.grid.affine @ [*np.argwhere(v.data[0] > 1000).mean(0), 1]  # noqa: E731
    np.testing.assert_allclose(mass(scan), mass(Volume(labels[None], sheared)), atol=0.8)  # where it was, within a voxel
    with pytest.warns(InputWarning, match="sheared"):
        found = io.read_labels(tmp_path / "scan.nii")
    assert set(np.unique(found.data)) == {0, 2035}  # nearest neighbour
    assert found.grid == scan.grid


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"pixdim": [1, 2, 0, 3, 1, 1, 1, 1]}, r"voxel sizes above zero in scan.nii; got \[2.0, 0.0, 3.0\] mm"),
        ({"pixdim": [1, 2, np.nan, 3, 1, 1, 1, 1]}, "voxel sizes above zero in scan.nii; got .*nan"),
        ({"srow_x": [0, 0, 0, 0]}, "can be inverted.* in scan.nii"),
        ({"srow_y": [2, 0, 0, 1]}, "can be inverted.* in scan.nii"),
        ({"srow_z": [np.nan, 0, 0, 0]}, "finite .4, 4. affine in mm in scan.nii"),
        ({"sform_code": 0, "qoffset_y": np.inf}, "finite .4, 4. affine in mm in scan.nii"),
        ({"sform_code": 0, "quatern_b": 5.0}, "scan.nii"),
    ],
)
def test_row_9_geometry_that_cannot_be_known(tmp_path, fields, match):
    refused(save(tmp_path, content(**fields)), match)


def test_row_10_qform_and_sform_disagree(tmp_path):
    for shift in (0.2, 13):  # mm; a tenth of a voxel is 0.15
        with pytest.warns(InputWarning, match="scan.nii: qform and sform disagree: the sform is used"):
            scan = io.read(save(tmp_path, content(qoffset_x=-10 + shift)))
        np.testing.assert_array_equal(scan.affine, AFFINE)
        assert scan.notes == ("qform and sform disagree: the sform is used",)
    with pytest.warns(InputWarning, match="the qform is damaged: the sform is used"):
        scan = io.read(save(tmp_path, content(quatern_b=5.0)))
    np.testing.assert_array_equal(scan.affine, AFFINE)


def test_row_10_a_hundredth_of_a_voxel_is_no_disagreement(tmp_path):
    assert io.read(save(tmp_path, content(qoffset_x=-10.01))).notes == ()


def test_row_11_no_world(tmp_path):
    with pytest.warns(InputWarning, match="scan.nii: no world space: qform and sform codes are 0"):
        scan = io.read(save(tmp_path, content(qform_code=0, sform_code=0)))
    assert not scan.has_world
    assert scan.grid.spacing == (2, 1.5, 3)


def test_row_11_no_world_in_freesurfers_format(tmp_path):
    raw = bytearray(nib.MGHImage(ramp(), AFFINE).to_bytes())
    raw[28:30] = b"\0\0"  # goodRASFlag
    with pytest.warns(InputWarning, match="scan.mgh: no world space"):
        assert not io.read(save(tmp_path, bytes(raw), "scan.mgh")).has_world


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("dim", "match"),
    [
        ([3, 4, -5, 6, 1, 1, 1, 1], r"dimensions above zero.*got \[4, -5, 6\].*damaged"),
        ([3, 4, 0, 6, 1, 1, 1, 1], r"dimensions above zero.*got \[4, 0, 6\]"),
        ([0, 4, 5, 6, 1, 1, 1, 1], r"dimensions above zero.*got \[\]"),
        ([3, 30_000, 30_000, 30_000, 1, 1, 1, 1], r"half the memory.*got dimensions \[30000, 30000, 30000\]: 1.01e\+05 GiB"),
        ([7, 4, 5, 6, 20_000, 20_000, 20_000, 20_000], "at most half the memory"),
        ([3, 4, 5, 600, 1, 1, 1, 1], "truncated"),
    ],
)
def test_row_12_impossible_dimensions(tmp_path, suffix, dim, match):
    path = save(tmp_path, content(dim=dim), f"scan{suffix}")
    with little_memory():  # refused before anything is allocated
        refused(path, match)


def test_row_12_a_bitpix_that_hides_the_size(tmp_path):
    path = save(tmp_path, content(dim=[3, 1000, 1000, 1000, 1, 1, 1, 1], bitpix=0), "scan.nii.gz")
    with little_memory():  # refused before anything is allocated
        refused(path, "4000000352 bytes of image .*got 832.*truncated")


def test_row_12_in_freesurfers_format(tmp_path):
    for dims in ((-4, 5, 6, 1), (2**30, 2**30, 4, 1)):
        raw = bytearray(nib.MGHImage(ramp(), AFFINE).to_bytes())
        raw[4:20] = np.array(dims, ">i4").tobytes()
        refused(save(tmp_path, bytes(raw), "scan.mgz"), "scan.mgz")


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "scan.mgz"])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.99])
def test_row_13_truncated(tmp_path, name, share):
    noise = np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32)
    raw = nib.MGHImage(noise, AFFINE).to_bytes() if name.endswith("mgz") else content(noise)
    path = save(tmp_path, raw, name)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    refused(path, "truncated")


@pytest.mark.parametrize("noisy", [True, False])
def test_row_13_flipped_byte(tmp_path, noisy):
    data = np.random.default_rng(0).integers(0, 255, (30, 30, 30), np.uint8) if noisy else ramp((30, 30, 30))
    path = save(tmp_path, content(data), "scan.nii.gz")
    whole = path.read_bytes()
    for place in (len(whole) // 2, len(whole) - 6):  # in the middle, and in the checksum itself
        broken = bytearray(whole)
        broken[place] ^= 0x10
        path.write_bytes(broken)
        refused(path, "whole gzip file.*truncated or damaged: copy it again")


@pytest.mark.parametrize("fields", [{}, {"vox_offset": -1e9}, {"vox_offset": np.nan}, {"bitpix": -32}])
def test_row_14_gzip_bomb(tmp_path, fields):
    path = tmp_path / "scan.nii.gz"
    with gzip.open(path, "wb", 1) as file:
        file.write(content(**fields))
        for _ in range(64):
            file.write(bytes(2**20))
    with little_memory():  # refused before anything is allocated
        refused(path, "as its header says; got more.*fill your memory|damaged")


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "scan.mgz", "scan.mgh"])
@pytest.mark.parametrize(
    ("raw", "match"),
    [
        (b"", r"an empty file \(0 bytes\)"),
        (b"id,age\nA,43\nB,51\n" * 99, "text"),
        (b"\x89PNG\r\n\x1a\n" + bytes(500), "PNG"),
        (bytes(128) + b"DICM" + bytes(500), "DICOM"),
        (b"PK\x03\x04" + bytes(500), "zip"),
        (bytes(2000), "unknown"),
    ],
)
def test_row_15_another_kind_of_file(tmp_path, name, raw, match):
    path = tmp_path / name
    path.write_bytes(raw)
    refused(path, match)


def test_row_15_packed_and_not_called_so_and_the_reverse(tmp_path):
    packed, plain = tmp_path / "a.nii", tmp_path / "b.nii.gz"
    packed.write_bytes(gzip.compress(content()))
    plain.write_bytes(content())
    refused(packed, "gzip")
    refused(plain, "gzip data in b.nii.gz; got .*NIfTI")


@pytest.mark.parametrize("slope", [0.0, np.nan, np.inf])
def test_row_16_no_scaling(tmp_path, slope, caplog):
    path = save(tmp_path, content(ramp(dtype=np.int16), scl_slope=slope, scl_inter=5.0))
    with caplog.at_level(logging.INFO, "radiolucent"):
        np.testing.assert_array_equal(io.read(path).data[0], ramp())
    assert f"scan.nii: scl_slope is {slope}, values are taken unscaled" in caplog.text


def test_row_16_scaling_is_applied(tmp_path, caplog):
    path = save(tmp_path, content(ramp(dtype=np.int16), scl_slope=2.5, scl_inter=-4.0))
    np.testing.assert_array_equal(io.read(path).data[0], ramp() * 2.5 - 4)
    assert "scl_slope" not in caplog.text
    refused(save(tmp_path, content(ramp(dtype=np.int16), scl_slope=2.5, scl_inter=np.nan)), "intercept")


def test_row_19_labels_that_are_not_whole_numbers(tmp_path):
    data = ramp()
    data[1, 1, 1] += 0.5
    for value in (0.5, np.nan, np.inf):
        data[0, 0, 0] = value
        path = save(tmp_path, content(data))
        with pytest.raises(BadInput, match=f"whole numbers as labels in scan.nii.*values such as .*{value:g}.*nearest neighbour"):
            io.read_labels(path)
    with pytest.raises(BadInput, match=r"above 2.31"):
        io.read_labels(save(tmp_path, content(np.full((2, 2, 2), 2.0**40))))


def test_labels_are_exact_where_float32_is_not(tmp_path):
    data = np.array([[[0, 2**24 + 1, 2**31 - 1]]], np.int32)
    labels = io.read_labels(save(tmp_path, content(data)))
    assert labels.data.dtype == np.int32
    np.testing.assert_array_equal(labels.data[0], data)


def test_row_45_personal_data_do_not_reach_the_output(tmp_path):
    image = nib.Nifti1Image(ramp(), AFFINE)
    image.header["descrip"] = b"Erika Mustermann"
    image.header["intent_name"] = b"Mustermann"
    image.header["db_name"] = b"Mustermann"
    image.header["aux_file"] = b"Mustermann.txt"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"born 12.08.1964, Mustermann"))
    image.to_filename(tmp_path / "Mustermann.nii")
    assert (tmp_path / "Mustermann.nii").read_bytes().count(b"Mustermann") == 5
    scan = io.read(tmp_path / "Mustermann.nii")
    assert b"Mustermann" not in io.write(tmp_path / "map.nii", scan.like(scan.data)).read_bytes()
    packed = io.write(tmp_path / "Mustermann.nii.gz", scan).read_bytes()
    assert b"Mustermann" not in packed  # gzip would keep the file's name
    assert b"Mustermann" not in gzip.decompress(packed)
    assert "Mustermann" not in repr(scan) + "".join(scan.notes)


# Beyond the table.


def test_sizes_in_metres_or_micrometres_are_converted(tmp_path):
    for unit, factor in ((1, 1000), (3, 0.001)):
        path = save(tmp_path, content(xyzt_units=unit))
        with pytest.warns(InputWarning, match="converted to mm"):
            scan = io.read(path)
        np.testing.assert_allclose(scan.affine[:3], AFFINE[:3] * factor)
    assert io.read(save(tmp_path, content(xyzt_units=0))).notes == ()


def test_what_is_no_file_is_refused(tmp_path):
    (tmp_path / "folder.nii").mkdir()
    (tmp_path / "link.nii").symlink_to(tmp_path / "gone.nii")
    (tmp_path / "zero.nii").symlink_to("/dev/zero")
    refused(tmp_path / "missing.nii", "a file at .*missing.nii; got nothing there")
    refused(tmp_path / "folder.nii", "the folder .*folder.nii")
    refused(tmp_path / "link.nii", "nothing there")
    refused(tmp_path / "zero.nii", "a file at .*a device or pipe")
    (tmp_path / "scan.nrrd").write_bytes(b"NRRD")
    refused(tmp_path / "scan.nrrd", r"ends in one of \.nii, .*got scan.nrrd")


def test_a_misspelt_option_is_not_taken_for_another(tmp_path):
    data = ramp()
    data[0, 0, 0] = np.nan
    path = save(tmp_path, content(data))
    for option in ({"nonfinite": "Refuse"}, {"colour": "gray"}, {"nonfinite": None}):
        with pytest.raises(BadInput, match=f"expected one of refuse, .*got {next(iter(option.values()))!r}"):
            io.read(path, **option)


def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    path = save(tmp_path, content())

    def fail(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", fail)
    monkeypatch.setattr(Path, "open", fail)
    refused(path, "Permission denied")


@pytest.mark.parametrize("reader", [io.read, io.read_labels])
def test_warnings_point_at_the_line_that_asked(tmp_path, reader):
    sheared = AFFINE @ np.array([[1, 0.4, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    image = nib.Nifti1Image(np.full((5, 5, 5), 3, np.int16), sheared)
    image.set_qform(None, 0)
    image.to_filename(tmp_path / "sheared.nii")
    flat = save(tmp_path, content(np.full((5, 5, 5), 3, np.int16), qform_code=0, sform_code=0))
    with pytest.warns(InputWarning) as caught:
        reader(tmp_path / "sheared.nii")
    with pytest.warns(InputWarning) as also:
        reader(flat)
    assert {w.filename for w in [*caught, *also]} == {__file__}


SEEDS = {
    "scan.nii": content(np.ones((2, 3, 4), np.int16) * np.arange(4, dtype=np.int16)),
    "scan.mgh": nib.MGHImage(ramp((2, 3, 4)), AFFINE).to_bytes(),
    "two.nii": nib.Nifti2Image(ramp((2, 3, 4)), AFFINE).to_bytes(),
    "scan.nii.gz": gzip.compress(content(ramp((2, 3, 4))), mtime=0),
}


damages = st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), min_size=1, max_size=4)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(SEEDS)), damages, st.sampled_from([1.0, 1.0, 0.5, 0.02]))
def test_damaged_bytes_give_an_image_or_a_reason(tmp_path, name, edits, share):
    raw = bytearray(SEEDS[name])
    for place, value in edits:
        raw[place % min(len(raw), 600)] = value
    (tmp_path / name).write_bytes(raw[: int(share * len(raw))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        for reader in (io.read, io.read_labels):
            try:
                assert reader(tmp_path / name).data.size > 0
            except BadInput as error:
                assert error.got  # noqa: PT017
