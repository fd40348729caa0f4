"""A model's file: what it is, and reading it without running what came with it."""

from __future__ import annotations

import contextlib
import hashlib
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from radiolucent.errors import BadInput

ASK = "If you trust it: --trust-model (trust=True)."
SCRIPT, EXPORT = "a TorchScript archive", "an archive of torch.export"


def sha256(path: Path) -> str:
    """Of the file as it is on disk."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def trusted(path: Path, what: str) -> str:
    """The note on a file whose code was run because the user trusts it."""
    return f"{path.name} is {what}, and was trusted to run code; its SHA-256 is {sha256(path)}"


def program_in(path: Path) -> str | None:
    """Which kind of archive with a program it is, in words; None for anything else."""
    names = []
    if zipfile.is_zipfile(path):
        with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    if any("/code/" in name for name in names):
        return SCRIPT
    return EXPORT if any(name.endswith("/archive_format") for name in names) else None


def unpickled(path: Path, trust: bool) -> tuple[Any, tuple[str, ...]]:
    """What torch.save wrote, and notes: tensors, plain values and numbers of NumPy; code only where it is trusted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about how a foreign pickle was made
        try:
            with torch.serialization.safe_globals(_numbers()):
                return torch.load(path, map_location="cpu", weights_only=True), ()
        except Exception as error:
            code = re.search(r"GLOBAL ([\w.]+)", str(error))
            if not code:
                raise
        if trust:
            return torch.load(path, map_location="cpu", weights_only=False), (trusted(path, "a pickle with code"),)
    raise BadInput(
        f"weights only in {path.name}",
        f"a pickle that would run code ({code[1]})",
        f"It was blocked. Save the state dict alone: torch.save(model.state_dict(), ...), or safetensors. {ASK}",
    )


def _numbers() -> list[Any]:
    """NumPy's scalars, which training loops log: their maker, under its old and its new name, and the types."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = [type(np.dtype(code)) for code in "?bhilqBHILQefd"]
    return [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar"), np.dtype, *kinds]
