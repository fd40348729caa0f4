"""2D images: PNG, JPEG and TIFF through Pillow. Axes are (rows, columns), as models take them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from radiolucent.errors import BadInput, InputWarning
from radiolucent.io.atomic import put
from radiolucent.io.kinds import check_size, kind_of
from radiolucent.volume import Volume

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")

# Rows run downwards and columns to the right, so that a NIfTI of the map is upright in a viewer.
AFFINE = np.array([[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
_FORMATS = ("PNG", "JPEG", "TIFF")  # Pillow goes by content, and some of its other formats start programs
_GREY = {"1", "L", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}


def read(path: Path, frame: int | str | None, colour: str = "refuse", *, labels: bool = False) -> Volume:
    """Grey images as (1, rows, columns) float32; colour as `colour` says; `labels` as float64, a palette's as its indices."""
    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            start = file.read(512)
            file.seek(0)
            with Image.open(file, formats=_FORMATS) as opened:
                parts = []
                for page in _pages(path, opened, frame):
                    opened.seek(page)
                    deep = opened.mode not in _GREY and ";16" in str(opened.tile)  # load() cuts these to 8 bits
                    opened.load()
                    parts.append(_pixels(path, opened, colour, labels, deep))
                data, notes = np.concatenate([part for part, _ in parts]), parts[0][1]
                turned = opened.getexif().get(0x0112, 1) != 1
    except BadInput:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadInput(f"an image of at most {Image.MAX_IMAGE_PIXELS} pixels in {path.name}", str(error), "Crop it.") from None
    except Exception as error:
        got = kind_of(start) if isinstance(error, UnidentifiedImageError) else str(error) or repr(error)
        raise BadInput(f"a {path.suffix[1:]} image in {path.name}", got, "Copy or export the file again.") from None
    if turned:
        notes += ("the file asks viewers to turn it (EXIF orientation); the map lies on the pixels as stored",)
        warnings.warn(f"{path.name}: {notes[-1]}", InputWarning, stacklevel=3)
    return Volume(data, AFFINE, has_world=False, notes=notes)


def _pages(path: Path, opened: Image.Image, frame: int | str | None) -> Sequence[int]:
    """Which images of the file to read."""
    frames = getattr(opened, "n_frames", 1)
    if frame == "channels":
        check_size(path, frames * opened.width * opened.height * 4, f"{frames} images")
        return range(frames)
    if frames == 1 and frame not in (None, 0):
        raise BadInput(f"frame 0, the only one in {path.name}", f"frame {frame}", "Leave --frame out.")
    if frames > 1 and not (isinstance(frame, int) and 0 <= frame < frames):
        raise BadInput(f"one image in {path.name}", f"{frames}", f"Choose one: --frame 0 to --frame {frames - 1}.")
    return [int(frame or 0)]


def _pixels(path: Path, page: Image.Image, colour: str, labels: bool, deep: bool) -> tuple[np.ndarray, tuple[str, ...]]:
    """(channels, rows, columns), and what was done to them."""
    if labels:
        if page.mode not in _GREY | {"P"}:
            raise BadInput(
                f"one number per pixel in {path.name}", f"a colour image (mode {page.mode})", "Save labels as grey values."
            )
        return np.asarray(page, np.float64)[None], ()
    if page.mode in _GREY:
        return np.asarray(page, np.float32)[None], ()
    if deep:
        raise BadInput(f"8 bits per colour in {path.name}", "16 bits", "Save it as a grey image of 16 bits.")
    return grey_or_colour(path.name, page, colour)


def grey_or_colour(name: str, page: Image.Image, colour: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """A colour picture as (channels, rows, columns), as `colour` says, and what was done to it."""
    rgb = np.asarray(page.convert("RGB"), np.float32)
    if colour == "channels":
        return rgb.transpose(2, 0, 1), ()
    if np.ptp(rgb, axis=2).max() == 0:
        return rgb[None, :, :, 0], ("a grey image stored as colour was read as grey",)
    if colour == "grey":
        return np.asarray(page.convert("RGB").convert("L"), np.float32)[None], ("the colour image was converted to grey",)
    raise BadInput(
        f"a grey image in {name}",
        f"a colour image (mode {page.mode})",
        "Choose --colour grey, or --colour channels for a model of three channels.",
    )


def write(path: Path, volume: Volume) -> Path:
    """One 2D channel as a 32-bit float TIFF on the image's own pixels."""
    if volume.data.ndim != 3 or len(volume.data) != 1:
        raise BadInput("one channel on a 2D grid for TIFF", f"shape {volume.data.shape}", "Write NIfTI instead.")
    buffer = io.BytesIO()
    Image.fromarray(volume.data[0].astype(np.float32)).save(buffer, "TIFF", compression="tiff_deflate")
    return put(path, buffer.getvalue())
