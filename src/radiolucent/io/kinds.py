"""What a file really is, and how much it may hold."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from radiolucent.errors import BadInput

_MAGIC = (
    (0, b"\x1f\x8b", "gzip data"),
    (0, b"\x89PNG", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"II*\0", "a TIFF image"),
    (0, b"MM\0*", "a TIFF image"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"\x80\x02", "a pickle"),
    (0, b"\x80\x04", "a pickle"),
    (0, b"\x80\x05", "a pickle"),
    (0, b"NRRD", "an NRRD image"),
    (0, b"\x89HDF", "an HDF5 file"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (128, b"DICM", "a DICOM file"),
    (344, b"n+1", "an unpacked NIfTI file"),
    (344, b"ni1", "the header of a NIfTI pair (.hdr and .img)"),
)


def kind_of(start: bytes) -> str:
    """What a file is, in words, by its first bytes."""
    for place, magic, name in _MAGIC:
        if start[place : place + len(magic)] == magic:
            return name
    text = bool(start) and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start)
    return f"{'text' if text else 'unknown data'} (it begins with {start[:12]!r})"


def usable(path: str | Path) -> Path:
    """The path, unless no file can have such a name; whether there is one is another question."""
    try:
        os.lstat(path)
    except (ValueError, OSError) as error:
        if isinstance(error, ValueError) or error.errno == errno.ENAMETOOLONG:
            got = f"{str(path)!r:.80} ({getattr(error, 'strerror', None) or error})"
            raise BadInput("a file name that the system can have", got, "Give a shorter one, without odd characters.") from None
    return Path(path)


def check_size(path: Path, size: int, what: str) -> None:
    """Refuse a claim of more than half the memory before anything of that size is allocated."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 1 << 36
    if size > memory // 2:
        raise BadInput(
            f"an image of at most half the memory ({memory / 2**31:.3g} GiB) in {path.name}",
            f"{what}: {size / 2**30:.3g} GiB",
            "It is damaged, or needs a larger machine.",
        )
