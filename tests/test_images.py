"""2D images in and out: PNG, JPEG and TIFF keep their pixels, or say why not."""

import io as memory
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from radiolucent import io
from radiolucent.errors import BadInput, InputWarning
from radiolucent.io.image import AFFINE
from radiolucent.volume import Volume

GREY = np.random.default_rng(0).integers(0, 256, (6, 9), np.uint8)
RGB = np.random.default_rng(1).integers(0, 256, (6, 9, 3), np.uint8)


def save(path: Path, pixels: np.ndarray, mode: str | None = None, **how: object) -> Path:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **how)
    return path


def refused(path: Path, match: str, **how: object) -> None:
    with pytest.raises(BadInput, match=match) as caught:
        io.read(path, **how)
    assert path.name in str(caught.value)


@pytest.mark.parametrize(
    ("suffix", "dtype"), [(".png", np.uint8), (".png", np.uint16), (".tif", np.uint8), (".tiff", np.uint16), (".tif", np.int32)]
)
def test_every_pixel_of_grey_images(tmp_path, suffix, dtype):
    pixels = (GREY.astype(np.int64) * {np.uint8: 1, np.uint16: 257, np.int32: 65537}[dtype]).astype(dtype)
    scan = io.read(save(tmp_path / f"a{suffix}", pixels))
    assert scan == Volume(pixels[None].astype(np.float32), AFFINE, has_world=False)


def test_black_and_white_pixels(tmp_path):
    np.testing.assert_array_equal(io.read(save(tmp_path / "a.png", GREY > 99)).data[0], GREY > 99)


def test_big_endian_tiff(tmp_path):
    image = Image.frombytes("I;16B", (9, 6), (GREY.astype(">u2") * 257).tobytes())
    image.save(tmp_path / "a.tif")
    np.testing.assert_array_equal(io.read(tmp_path / "a.tif").data[0], GREY * np.float32(257))


def test_jpeg_is_what_pillow_decodes(tmp_path, data_folder):
    for path in (
        save(tmp_path / "a.jpeg", GREY),
        save(tmp_path / "A.JPG", GREY),
        next((data_folder / "fracatlas" / "images").iterdir()),
    ):
        with Image.open(path) as image:
            np.testing.assert_array_equal(io.read(path).data[0], np.asarray(image.convert("L")))


@pytest.mark.parametrize("name", ["map.tiff", "MAP.TIF"])
def test_a_map_as_float_tiff(tmp_path, name):
    relevance = np.random.default_rng(0).normal(size=(1, 6, 9)).astype(np.float32)
    relevance[0, 0, 0] = -1e-30
    volume = Volume(relevance, AFFINE, has_world=False)
    path = io.write(tmp_path / name, volume)
    assert io.read(path) == volume
    once = path.read_bytes()
    assert io.write(tmp_path / "again.tiff", volume).read_bytes() == once
    assert io.write(tmp_path / "wide.tiff", volume.like(relevance.astype(np.float64))).read_bytes() == once


@pytest.mark.parametrize("shape", [(2, 6, 9), (1, 6, 9, 4)])
def test_tiff_holds_one_channel_of_an_image(tmp_path, shape):
    with pytest.raises(BadInput, match=r"one channel on a 2D grid for TIFF; got shape .*Write NIfTI"):
        io.write(tmp_path / "map.tiff", Volume(np.zeros(shape)))


def test_rows_run_down_and_columns_right(tmp_path):
    """In a NIfTI of the map the first row lies on top and the first column on the left of a viewer."""
    scan = io.read(save(tmp_path / "a.png", GREY))
    top_left, bottom, right = (scan.affine @ [*at, 0, 1] for at in [(0, 0), (5, 0), (0, 8)])
    assert bottom[1] < top_left[1]
    assert right[0] > top_left[0]


def test_row_5_colour(tmp_path):
    path = save(tmp_path / "a.png", RGB)
    refused(path, r"a grey image in a.png; got a colour image \(mode RGB\).*--colour grey")
    channels = io.read(path, colour="channels")
    np.testing.assert_array_equal(channels.data, RGB.transpose(2, 0, 1))
    grey = io.read(path, colour="grey")
    np.testing.assert_allclose(grey.data[0], RGB @ [0.299, 0.587, 0.114], atol=1)
    assert grey.notes == ("the colour image was converted to grey",)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "CMYK", "YCbCr"])
def test_grey_stored_as_colour_is_read_as_grey(tmp_path, mode):
    path = save(tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr") else "a.png"), GREY, mode)
    scan = io.read(path)
    np.testing.assert_array_equal(scan.data[0], GREY)
    assert scan.notes == ("a grey image stored as colour was read as grey",)
    np.testing.assert_array_equal(io.read(path, colour="channels").data, np.stack([GREY] * 3))


def test_sixteen_bits_of_colour_are_not_cut_to_eight_without_a_word(tmp_path):
    import struct
    import zlib

    rows = b"".join(b"\0" + np.repeat(GREY[r].astype(">u2") * 257 + 1, 3).tobytes() for r in range(6))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 9, 6, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    packed = b"".join(struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + packed)
    refused(tmp_path / "a.png", "16 bits", colour="grey")


def test_row_3_several_images_in_one_file(tmp_path):
    pages = [Image.fromarray(GREY), Image.fromarray(255 - GREY), Image.fromarray(GREY // 2)]
    pages[0].save(tmp_path / "a.tiff", save_all=True, append_images=pages[1:])
    refused(tmp_path / "a.tiff", "one image in a.tiff; got 3.*--frame 0 to --frame 2")
    refused(tmp_path / "a.tiff", "one image in a.tiff; got 3", frame=3)
    np.testing.assert_array_equal(io.read(tmp_path / "a.tiff", frame=1).data[0], 255 - GREY)
    expected = np.stack([np.asarray(page) for page in pages])
    np.testing.assert_array_equal(io.read(tmp_path / "a.tiff", frame="channels").data, expected)
    refused(save(tmp_path / "one.png", GREY), "frame 0, the only one in one.png; got frame 1", frame=1)


def test_row_2_and_1_constant_and_nonfinite(tmp_path):
    with pytest.warns(InputWarning, match="a.png: the image is constant: every voxel is 3"):
        io.read(save(tmp_path / "a.png", GREY * 0 + 3))
    pixels = GREY.astype(np.float32)
    pixels[2, 3] = np.nan
    refused(save(tmp_path / "a.tiff", pixels), "got 1 voxels that are NaN")


def test_row_13_truncated(tmp_path):
    for name in ("a.png", "a.jpg", "a.tif"):
        path = save(tmp_path / name, np.random.default_rng(0).integers(0, 256, (90, 90), np.uint8))
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
        refused(path, f"a {name[2:]} image in {name}; got ")


def test_row_14_a_picture_too_large(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", np.zeros((300, 300), np.uint8))
    for limit in (20_000, 60_000):  # Pillow raises above twice the limit, and only warns below
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        refused(path, f"at most {limit} pixels in a.png; got .*90000 pixels")


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        (b"", "empty file"),
        (b"no image at all", "text"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(x) run\n", "text"),
        (b"\x93NUMPY" + bytes(99), "a NumPy array"),
    ],
)
def test_row_15_another_kind_of_file(tmp_path, raw, match):
    (tmp_path / "a.png").write_bytes(raw)
    refused(tmp_path / "a.png", match)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "PPM", "WEBP", "PDF"])
def test_row_15_formats_that_nobody_asked_for(tmp_path, kind):
    """Pillow goes by content: only what the suffixes name may reach its decoders (EPS would start Ghostscript)."""
    buffer = memory.BytesIO()
    Image.fromarray(GREY).save(buffer, kind)
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    refused(tmp_path / "a.png", "a png image in a.png")


def test_a_turned_photograph_is_read_as_stored_with_a_warning(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "a.jpg", GREY, exif=exif)
    with pytest.warns(InputWarning, match="a.jpg: the file asks viewers to turn it") as caught:
        scan = io.read(path)
    assert scan.data.shape == (1, 6, 9)
    assert "EXIF" in scan.notes[0]
    assert caught[0].filename == __file__


def test_row_45_personal_data_do_not_reach_the_output(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "Erika Mustermann"
    path = save(tmp_path / "a.tif", GREY, exif=exif)
    assert b"Mustermann" in path.read_bytes()
    scan = io.read(path)
    assert b"Mustermann" not in io.write(tmp_path / "map.tiff", scan).read_bytes()
    assert b"Mustermann" not in io.write(tmp_path / "map.nii", scan).read_bytes()


def test_label_images_keep_their_numbers(tmp_path):
    labels = (GREY % 3).astype(np.uint8)
    indexed = Image.fromarray(labels, "L").convert("P")
    indexed.putpalette([10, 10, 10, 200, 200, 200, 255, 0, 0])
    indexed.save(tmp_path / "palette.png")
    large = np.full((6, 9), 2**24 + 1, np.int32)
    for path, expected in [
        (save(tmp_path / "plain.png", labels), labels),
        (tmp_path / "palette.png", labels),
        (save(tmp_path / "large.tif", large), large),
    ]:
        found = io.read_labels(path)
        assert found.data.dtype == np.int32
        np.testing.assert_array_equal(found.data[0], expected)
    with pytest.raises(BadInput, match=r"one number per pixel in a.png; got a colour image"):
        io.read_labels(save(tmp_path / "a.png", RGB))


def _seeds() -> dict[str, bytes]:
    seeds = {}
    for name in ("a.png", "a.jpg", "a.tif"):
        buffer = memory.BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 3
        Image.fromarray(GREY).save(buffer, {"png": "PNG", "jpg": "JPEG", "tif": "TIFF"}[name[2:]], exif=exif)
        seeds[name] = buffer.getvalue()
    return seeds


SEEDS = _seeds()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(SEEDS)), st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_bytes_give_an_image_or_a_reason(tmp_path, name, edits):
    raw = bytearray(SEEDS[name])
    for place, value in edits:
        raw[place % len(raw)] = value
    (tmp_path / name).write_bytes(raw)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        try:
            assert io.read(tmp_path / name).data.size > 0
        except BadInput as error:
            assert error.got  # noqa: PT017
