"""MedMNIST3D: six data sets of 3D scans with official splits, found or downloaded, checked by their MD5."""

from __future__ import annotations

import hashlib
import os
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from radiolucent import io
from radiolucent.errors import BadInput
from radiolucent.geometry import Array

_URL = "https://zenodo.org/records/10519652/files/{}?download=1"
_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Known:
    """The names of a data set's classes, and the MD5 of its files by size (those of the medmnist package 3.0.2)."""

    classes: tuple[str, ...]
    md5: dict[int, str]


KNOWN = {
    "organmnist3d": Known(
        (
            "liver", "right kidney", "left kidney", "right femur", "left femur", "bladder", "heart", "right lung", "left lung",
            "spleen", "pancreas",
        ),
        {28: "a0c5a1ff56af4f155c46d46fbb45a2fe", 64: "58a2205adf14a9d0a189cb06dc78bf10"},
    ),
    "nodulemnist3d": Known(
        ("benign", "malignant"), {28: "8755a7e9e05a4d9ce80a24c3e7a256f3", 64: "c47c5b7d457bf6332200d2ea6d64ecd8"}
    ),
    "adrenalmnist3d": Known(
        ("normal", "hyperplasia"), {28: "bbd3c5a5576322bc4cdfea780653b1ce", 64: "17721accfe9fb005146a47d33bc54b2f"}
    ),
    "fracturemnist3d": Known(
        ("buckle rib fracture", "nondisplaced rib fracture", "displaced rib fracture"),
        {28: "6aa7b0143a6b42da40027a9dda61302f", 64: "f01d7e6316aedf4210da0da5b7437b42"},
    ),
    "vesselmnist3d": Known(
        ("vessel", "aneurysm"), {28: "b41fd4f7e7e2feedddb201585ecafa1b", 64: "6bb274a8846e1097066dcd64e2c4520f"}
    ),
    "synapsemnist3d": Known(
        ("inhibitory synapse", "excitatory synapse"),
        {28: "1235b78a3cd6280881dd7850a78eadb6", 64: "43bd14ebf3af9d3dd072446fedc14d5e"},
    ),
}  # fmt: skip


@dataclass(frozen=True)
class MedMnist:
    """One file of MedMNIST3D, its three splits one after the other."""

    images: Array
    labels: Array
    splits: tuple[str, ...]
    classes: tuple[str, ...]


def read_medmnist(name: str, size: int = 28, *, say: Callable[[str], None] = lambda text: None) -> MedMnist:
    """uint8 images (n, size, size, size), labels (n,), and which split each is in."""
    path = find(name, size, say)
    with np.load(path, allow_pickle=False) as file:
        images = np.concatenate([file[f"{split}_images"] for split in _SPLITS])
        labels = np.concatenate([file[f"{split}_labels"].reshape(-1) for split in _SPLITS])
        splits = tuple(split for split in _SPLITS for _ in range(len(file[f"{split}_labels"])))
    return MedMnist(images, labels.astype(np.int64), splits, KNOWN[name].classes)


def find(name: str, size: int, say: Callable[[str], None] = lambda text: None) -> Path:
    """The data set's file: in RADIOLUCENT_DATA, in the cache, or downloaded into it. Its MD5 is checked each time."""
    if name not in KNOWN or size not in KNOWN[name].md5:
        raise BadInput(f"a data set among {', '.join(KNOWN)}, at 28 or 64", f"{name!r} at {size}", "Correct [data].")
    file = f"{name}.npz" if size == 28 else f"{name}_{size}.npz"
    places = [cache() / file]
    if os.environ.get("RADIOLUCENT_DATA"):
        data = Path(os.environ["RADIOLUCENT_DATA"])
        places = [data / "medmnist3d" / file, data / file, *places]
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        found = _download(file, places[-1], KNOWN[name].md5[size], say)
    got = hashlib.md5(found.read_bytes(), usedforsecurity=False).hexdigest()
    if got != KNOWN[name].md5[size]:
        raise BadInput(f"{found} with the MD5 {KNOWN[name].md5[size]}", got, "It is damaged or another version: delete it.")
    return found


def cache() -> Path:
    """Where downloads stay: $XDG_CACHE_HOME/radiolucent/medmnist3d."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "radiolucent" / "medmnist3d"


def _download(file: str, path: Path, md5: str, say: Callable[[str], None]) -> Path:
    url = _URL.format(file)
    say(f"downloading {url} to {path}")
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            content: bytes = answer.read()
    except OSError as error:
        do = f"Fetch it by hand, and put it into a folder medmnist3d; RADIOLUCENT_DATA names the folder above ({error})."
        raise BadInput(f"{file} from {url}", "no answer", do) from None
    got = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if got != md5:
        raise BadInput(f"{file} with the MD5 {md5}", f"{got} ({len(content)} bytes)", "Nothing was kept. Try again.")
    path.parent.mkdir(parents=True, exist_ok=True)
    return io.put(path, content)
