"""Cohorts in which the right answer is known: each case's masses are drawn from a Dirichlet distribution."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from pandas import DataFrame

NAMES = ("background", "liver", "kidney left", "kidney right")


def rows_of(
    masses: np.ndarray, names: Sequence[str] = NAMES, target: str = "liver", method: str = "Gradient", first: int = 0
) -> DataFrame:
    """Region rows of one class from masses (cases, regions); label b is region b, each of 100 (b + 1) voxels."""
    n, r = masses.shape
    voxels = 100 * (np.arange(r) + 1)
    flat = masses.reshape(-1)
    label = np.tile(np.arange(r), n)
    names = np.array(names, object)[label]
    side = np.where([" left" in x for x in names], "L", np.where([" right" in x for x in names], "R", ""))
    columns = {
        "case": np.repeat([f"c{i:04d}" for i in range(first, first + n)], r),
        "method": method,
        "layer": "",
        "target": target,
        "region": names,
        "label": label,
        "hemisphere": side,
        "kind": "label",
        "mass_fraction": flat,
        "positive": flat / 2,
        "negative": flat / 2,
        "density": flat / voxels[label],
        "enrichment": flat / (voxels[label] / voxels.sum()),
        "voxels": voxels[label],
        "volume_mm3": voxels[label] * 1.0,
    }
    return DataFrame(columns)


def cohort(n: int, alpha: Sequence[float] = (10, 20, 4, 4), seed: int = 0, **options: object) -> DataFrame:
    """n cases whose masses are Dirichlet(alpha)."""
    return rows_of(np.random.default_rng(seed).dirichlet(alpha, n), **options)


def several(n: int, targets: Sequence[str] = NAMES[1:], seed: int = 0) -> DataFrame:
    """Each class looks mostly at itself."""
    parts = []
    for t, target in enumerate(targets):
        alpha = np.full(len(NAMES), 3.0)
        alpha[[0, t + 1]] = 10, 20
        parts.append(cohort(n, alpha, seed + t, target=target))
    return pd.concat(parts, ignore_index=True)


def shuffled(table: DataFrame, seed: int = 3) -> DataFrame:
    return table.sample(frac=1, random_state=seed).reset_index(drop=True)


def manifest(n: int, seed: int = 5) -> DataFrame:
    """Covariates that have nothing to do with anything."""
    r = np.random.default_rng(seed)
    columns = {"case": [f"c{i:04d}" for i in range(n)], "image": "x.nii.gz", "label": ""}
    columns |= {"sex": r.choice(["F", "M"], n), "age": r.normal(60, 10, n), "site": r.choice(["A", "B", "C"], n)}
    return DataFrame(columns)
