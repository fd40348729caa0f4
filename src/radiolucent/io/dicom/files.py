"""Which files make up a series, and reading them without letting a header's text out."""

from __future__ import annotations

import logging
import re
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from radiolucent.errors import BadInput
from radiolucent.io.kinds import check_size

SUFFIXES = (".dcm", ".dicom", ".ima")

_DICOMDIR = "1.2.840.10008.1.3.10"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_FEW = ("SOPClassUID", "SeriesInstanceUID", "Modality", "Rows", "NumberOfFrames")


def library(name: str) -> Any:
    """pydicom, highdicom or a module of theirs."""
    try:
        return import_module(name)
    except ImportError as error:
        raise BadInput(
            "the packages pydicom and highdicom, to read or write DICOM",
            f"{error.name or name} is not installed",
            'Add them: pip install "radiolucent[dicom]".',
        ) from None


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM files do, or a folder (which is taken for a series)."""
    if path.is_dir():
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError as error:
        raise BadInput(
            f"a file that can be read at {path}", error.strerror or "an error", "Check its permissions and its disk."
        ) from None


@contextmanager
def guarded(expected: str, do: str) -> Iterator[None]:
    """The libraries' errors, warnings and log lines may quote a patient's data: only an error's type is told."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL + 1)
            yield
        except BadInput:
            raise
        except Exception as error:
            raise BadInput(expected, f"a failure of the kind {type(error).__name__}", do) from None
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def dataset(path: Path, *, pixels: bool, few: bool = False) -> Any:
    """One file's dataset, checked against a deflated bomb before it is unpacked."""
    pydicom = library("pydicom")
    with guarded(f"a whole DICOM file at {path.name}", "It is damaged or truncated: copy it again."):
        meta = pydicom.filereader.read_file_meta_info(path)
        if meta.get("TransferSyntaxUID") == _DEFLATED:
            _check_inflated(path, 144 + int(meta.FileMetaInformationGroupLength))
        return pydicom.dcmread(path, stop_before_pixels=not pixels, specific_tags=list(_FEW) if few else None)


def _check_inflated(path: Path, start: int) -> None:
    """pydicom unpacks such a file in one go, so count what it would become first."""
    unpacker, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    with path.open("rb") as file:
        file.seek(start)
        while part := unpacker.unconsumed_tail or file.read(1 << 16):
            size += len(unpacker.decompress(part, 1 << 22))
            check_size(path, 3 * size, "deflated data")
            if unpacker.eof:
                return


def choose(path: Path, series: str | None) -> tuple[list[Path], list[str]]:
    """The files of one series, and notes on what was left aside. A DICOMDIR is never followed: files are taken as found."""
    found, aside = _search(path)
    if not found:
        raise BadInput(
            "a DICOM image" if path.is_dir() else f"a DICOM image in {path.name}",
            f"the folder {path} with {aside} files, none of them one" if path.is_dir() else "a DICOM file without pixels",
            "Name a file, or the folder of a DICOM series.",
        )
    listed = "; ".join(f"{_plain(*key)}, {len(files)} images)" for key, files in found.items())
    chosen = [files for (uid, _), files in found.items() if series in (None, uid)]
    if len(chosen) != 1:
        raise BadInput(
            f"one series at {path.name}" if series is None else f"the series {series}",
            f"{len(found)} series: {listed}",
            "Choose one by its UID: --series UID, or series=UID in Python.",
        )
    aside += sum(map(len, found.values())) - len(chosen[0])
    notes = [f"{aside} of the folder's files are not images of this series and were left aside"] if aside else []
    return chosen[0], notes


def _search(path: Path) -> tuple[dict[tuple[str, str], list[Path]], int]:
    """(UID, modality) -> files, in the order of their names; and how many files hold no image."""
    found: dict[tuple[str, str], list[Path]] = {}
    aside = 0
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]  # links to folders are not followed
    for file in files:
        if not is_dicom(file):
            aside += 1
            continue
        head = dataset(file, pixels=False, few=True)
        with guarded(f"a DICOM header in {file.name}", "It is damaged: copy it again."):
            if head.file_meta.get("MediaStorageSOPClassUID") == _DICOMDIR or not head.get("Rows"):
                aside += 1
                continue
            key = str(head.get("SeriesInstanceUID")), str(head.get("Modality"))
        found.setdefault(key, []).append(file)
    return found, aside


def _plain(uid: str, modality: str) -> str:
    """Both where they look as the standard says; else nothing of them is shown."""
    shown = uid if re.fullmatch(r"[0-9.]{1,64}", uid) else "a series without a valid UID"
    return f"{shown} ({modality if re.fullmatch('[A-Z]{2,8}', modality) else 'unknown'}"


def counted(values: Sequence[object]) -> str:
    """ "512 x 512 (40 images), 256 x 256 (1)": the distinct values with their numbers, the most frequent first."""
    rows = sorted({str(v) for v in values}, key=lambda text: -sum(str(v) == text for v in values))
    return ", ".join(f"{row} ({sum(str(v) == row for v in values)} images)" for row in rows[:5])
