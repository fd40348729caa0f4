"""2D images: PNG, JPEG and TIFF through Pillow. Axes are (rows, columns), as models take them."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from radiolucent.errors import BadInput, InputWarning
from radiolucent.io.atomic import put
from radiolucent.volume import Volume

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")

# Rows run downwards and columns to the right, so that a NIfTI of the map is upright in a viewer.
AFFINE = np.array([[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
_GREY = {"1", "L", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}


def read(path: Path, frame: int | str | None, colour: str) -> Volume:
    """Grey images as (1, rows, columns); colour as `colour` says."""
    notes: tuple[str, ...] = ()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            opened = Image.open(path)
            frames = getattr(opened, "n_frames", 1)
            if frames > 1:
                opened.seek(_frame(path, frames, frame))
            opened.load()
    except BadInput:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadInput(f"an image of at most {Image.MAX_IMAGE_PIXELS} pixels in {path.name}", str(error), "Crop it.") from None
    except Exception as error:
        raise BadInput(f"a {path.suffix[1:]} image in {path.name}", f"{error}", "Copy or export the file again.") from None
    if opened.getexif().get(0x0112, 1) != 1:
        notes += ("the file asks viewers to turn it (EXIF orientation); the map lies on the pixels as stored",)
        warnings.warn(f"{path.name}: {notes[-1]}", InputWarning, stacklevel=4)
    if opened.mode in _GREY:
        data = np.asarray(opened, np.float32)[None]
    else:
        data, notes = _from_colour(path, opened, colour, notes)
    return Volume(data, AFFINE, has_world=False, notes=notes)


def _frame(path: Path, frames: int, frame: int | str | None) -> int:
    if not isinstance(frame, int) or not 0 <= frame < frames:
        raise BadInput(f"one image in {path.name}", f"{frames}", f"Choose one: --frame 0 to --frame {frames - 1}.")
    return frame


def _from_colour(path: Path, opened: Image.Image, colour: str, notes: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    rgb = np.asarray(opened.convert("RGB"), np.float32)
    if np.ptp(rgb, axis=2).max() == 0 and colour != "channels":
        return rgb[None, :, :, 0], (*notes, "a grey image stored as colour was read as grey")
    if colour == "grey":
        return np.asarray(opened.convert("RGB").convert("L"), np.float32)[None], (*notes, "the colour image was converted to grey")
    if colour == "channels":
        return rgb.transpose(2, 0, 1), notes
    raise BadInput(
        f"a grey image in {path.name}", f"a colour image (mode {opened.mode})", "Choose --colour grey, or --colour channels for a model of three channels."
    )


def write(path: Path, volume: Volume) -> Path:
    """One 2D channel as a 32-bit float TIFF on the image's own pixels."""
    if volume.data.ndim != 3 or len(volume.data) != 1:
        raise BadInput("one channel on a 2D grid for TIFF", f"shape {volume.data.shape}", "Write NIfTI instead.")
    buffer = io.BytesIO()
    Image.fromarray(volume.data[0].astype(np.float32)).save(buffer, "TIFF", compression="tiff_deflate")
    return put(path, buffer.getvalue())
