"""Small worlds to train on, and networks that a recipe may name (module:factory, with trust)."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from radiolucent.training.recipe import Recipe, from_tables

SIZE = (6, 6, 6)
SMALL: dict[str, Any] = {
    "network": "radiolucent:Morphometry",
    "arguments": {"outputs": 2, "size": list(SIZE), "channels": [2], "hidden": [4]},
}


class Cached(nn.Module):
    """An encoder per slice with features(x) and from_features(f), dropout behind: what caching and freezing are about."""

    calls = 0
    behind_features = ("dropout",)

    def __init__(self, outputs: int = 2, axis: int = -1, dropout: float = 0.2) -> None:
        super().__init__()
        self.axis = axis
        self.encoder = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.2), nn.AdaptiveMaxPool2d(1))
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(3, outputs))

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """One row of features for each slice of the axis, which no weight tells of."""
        Cached.calls += len(x)
        slices = x.movedim(self.axis, 1).flatten(0, 1)
        return {"slices": self.encoder(slices).flatten(1).unflatten(0, (len(x), -1))}

    def from_features(self, features: Mapping[str, Tensor]) -> Tensor:
        return self.head(features["slices"].mean(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.from_features(self.features(x))


class Plain(nn.Module):
    """A linear model without a standardise of its own."""

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        self.last = nn.Linear(int(np.prod(SIZE)), outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x.flatten(1))


class Diverging(Plain):
    """A network whose output is no number."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (float("nan") if self.training else 1.0)


CACHED = {"network": "trainings:Cached", "trust": True}


def images(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise, and in class 1 a bright cube somewhere."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    data = draw.normal(0, 0.3, (count, *SIZE)).astype(np.float32)
    for n in np.flatnonzero(labels):
        i, j, k = draw.integers(0, 4, 3)
        data[n, i : i + 2, j : j + 2, k : k + 2] += 3
    return data, labels


def world(folder: Path, count: int = 40, **columns: Any) -> Path:
    """cases.csv with image and label (and other columns), and its .npy files."""
    data, labels = images(count)
    folder.mkdir(parents=True, exist_ok=True)
    table = {"image": [f"{n:03d}.npy" for n in range(count)], "label": [("bare", "cube")[k] for k in labels]} | columns
    for name, image in zip(table["image"], data, strict=True):
        np.save(folder / name, image)
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))
    return folder / "cases.csv"


def recipe(table: Path, **changes: Any) -> Recipe:
    """A recipe over the world; each keyword changes a table of it."""
    tables: dict[str, Any] = {
        "training": {"name": "cubes"},
        "data": {"table": str(table)},
        "model": SMALL,
        "optimiser": {"kind": "adam", "rate": 0.01, "batch": 8, "epochs": 2},
        "machine": {"device": "cpu", "checkpoint_seconds": 1000},
    }
    for name, table_ in changes.items():
        merged = table_ if name == "model" else {**tables.get(name, {}), **table_}
        tables[name] = {key: value for key, value in merged.items() if value is not None}
    return from_tables(tables, table.parent)


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
