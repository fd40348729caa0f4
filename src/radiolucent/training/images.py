"""Prepared images: kept in memory, on disk, or made each time; and their variants in training."""

from __future__ import annotations

import errno
import hashlib
import io as bytes_io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from radiolucent import io
from radiolucent.errors import BadInput
from radiolucent.training.augmentation import Augmentation
from radiolucent.training.cases import Cases

Draw = tuple[int, int]
"""A case's number, and the seed of its variant (-1: as it is)."""


@dataclass(eq=False)
class Images(Dataset[tuple[Tensor, int]]):
    """(image, number) by (number, seed)."""

    cases: Cases
    augmentation: Augmentation
    folder: Path | None = None
    kept: dict[int, Tensor] | None = None
    shape: tuple[int, ...] = field(default=())

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int]:
        number, seed = draw
        image = self.plain(number)
        return (image if seed < 0 else self.augmentation(image, seed)), number

    def __len__(self) -> int:
        return len(self.cases.ids)

    def plain(self, number: int) -> Tensor:
        """The prepared image (c, *grid), float32."""
        if self.kept is not None and number in self.kept:
            return self.kept[number]
        image = self._prepared(number)
        if self.shape and tuple(image.shape) != self.shape:
            raise _other_shape(self.cases.ids[number], tuple(image.shape), self.shape)
        return image

    def _prepared(self, number: int) -> Tensor:
        if self.folder is None:
            return torch.from_numpy(np.ascontiguousarray(self.cases.read(number).data, np.float32))
        path = self.folder / f"{number:06d}.npy"
        if not path.exists():
            buffer = bytes_io.BytesIO()
            np.save(buffer, np.ascontiguousarray(self.cases.read(number).data, np.float32))
            io.put(path, buffer.getvalue())
        return torch.from_numpy(np.load(path, allow_pickle=False))


def prepare(
    cases: Cases,
    augmentation: Augmentation,
    keep: str,
    folder: Path,
    leave_out: bool,
    say: Callable[[str], None],
) -> Images:
    """Read and check every image, kept or not. Files that cannot be read are named all at once, or left out.

    Raises:
        BadInput: files that cannot be used, or images of different shapes.
    """
    kept: dict[int, Tensor] | None = {} if keep == "memory" else None
    images = Images(cases, augmentation, _place(cases, folder) if keep == "disk" else None, kept)
    broken: dict[int, str] = {}
    for number in range(len(cases.ids)):
        try:
            image = images.plain(number)
            images.shape = images.shape or tuple(image.shape)
            if tuple(image.shape) != images.shape:
                raise _other_shape(cases.ids[number], tuple(image.shape), images.shape)
            if kept is not None:
                kept[number] = image
        except (BadInput, OSError) as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise  # a full disk is no file's fault
            broken[number] = f"{cases.ids[number]}: {' '.join(str(error).split())}"
    if broken and not leave_out:
        more = f" (and {len(broken) - 5} more)" if len(broken) > 5 else ""
        got = " | ".join(list(broken.values())[:5]) + more
        raise BadInput(f"images that can be used, {len(cases.ids)} of them", got, "Mend them, or leave_out = true in [data].")
    if not broken:
        return images
    for reason in broken.values():
        say(f"left out: {reason}")
    stay = [n for n in range(len(cases.ids)) if n not in broken]
    if not stay:
        raise BadInput("images that can be used", "none", "Check the files.")
    images.cases = cases.without(list(broken))
    if kept is not None:
        images.kept = {new: kept[old] for new, old in enumerate(stay)}
    elif images.folder is not None:
        images.folder = _place(images.cases, folder)
    return images


def _place(cases: Cases, folder: Path) -> Path:
    """A folder of its own for these cases, read and prepared like this: another recipe must not find them."""
    told: list[Any] = [cases.ids, dict(cases.origin), cases.how]
    place = folder / hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
    place.mkdir(parents=True, exist_ok=True)
    return place


def _other_shape(case: str, got: Sequence[int], expected: Sequence[int]) -> BadInput:
    do = "Give a size in [preprocessing] (and colour in [data], for pictures of both kinds)."
    return BadInput(f"images of one shape, {tuple(expected)} (channels first)", f"{tuple(got)} for {case}", do)
