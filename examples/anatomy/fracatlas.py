"""FracAtlas as its files have it: regions, covariates, repeated pictures, whose images go together, fracture polygons.

FracAtlas (Abedeen et al. 2023, CC BY 4.0) names no patients. What the data does tell:

- The numbers in the file names are in the order of the archive: neighbours are mostly two or more views of one joint of
  one patient (of pairs of neighbours 64 % show the same region, of random pairs 40 %; looked at, they are the same limb).
- Some pictures come twice or three times under other numbers, pixel by pixel; five of them are called fractured the one
  time and intact the other.
- A few more differ by a crop or by their brightness only.

So one "patient" here is a run of neighbouring numbers that have a region in common, joined with all runs that hold the same
or nearly the same picture. A run may hold several patients, which costs nothing. A patient who came twice, or whose
pictures of different regions lie side by side, is not recognised.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas import DataFrame
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from radiolucent import BadInput, Volume, read
from radiolucent.geometry import Grid
from radiolucent.landmarks import from_polygons

REGIONS = ("hand", "leg", "hip", "shoulder")
COVARIATES = ("hardware", "multiscan", "frontal", "lateral", "oblique")
ALIKE = 0.98
"""Correlation of two pictures at 24 x 24 above which they are taken for one."""


def read_table(folder: Path) -> DataFrame:
    """A row per image: case, image (its file), label, fracture, patient, picture (which it is, pixel by pixel), covariates.

    `label` is the region, or "" where there are several.
    """
    path = folder / "dataset.csv"
    if not path.is_file():
        raise BadInput(f"dataset.csv and images/ of FracAtlas in {folder}", "nothing there", "Give its folder: --data.")
    raw = pd.read_csv(path).sort_values("image_id", ignore_index=True)
    regions = raw[list(REGIONS)].to_numpy(bool)
    files = [folder / "images" / name for name in raw["image_id"]]
    pictures, small = zip(*(_looked_at(read(file)) for file in files), strict=True)
    numbers = raw["image_id"].str.extract(r"(\d+)")[0].astype(int).to_numpy()
    table = DataFrame({"case": raw["image_id"].str.removesuffix(".jpg"), "image": files})
    table["label"] = [REGIONS[row.argmax()] if row.sum() == 1 else "" for row in regions]
    table["fracture"] = np.where(raw["fractured"] == 1, "fractured", "intact")
    table["patient"] = [f"p{n:04d}" for n in together(numbers, regions, np.stack(small))]
    table["picture"] = pictures
    return table.join(raw[list(COVARIATES)].astype(bool))


def _looked_at(picture: Volume) -> tuple[str, NDArray[np.float64]]:
    """A checksum of the pixels, and the picture at 24 x 24 with a mean of 0 and a length of 1."""
    pixels = picture.data[0]
    rows, columns = (np.array_split(np.arange(n), 24) for n in pixels.shape)
    small = np.array([[pixels[a[0] : a[-1] + 1, b[0] : b[-1] + 1].mean() for b in columns] for a in rows]).ravel()
    small -= small.mean()
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest(), small / max(np.linalg.norm(small), 1e-9)


def together(numbers: NDArray[np.int64], regions: NDArray[np.bool_], small: NDArray[np.float64]) -> NDArray[np.int64]:
    """A number for each image: the same for neighbours with a region in common, and for pictures that are nearly the same."""
    n = len(numbers)
    alike = np.argwhere(np.triu(small @ small.T > ALIKE, 1))
    next_to = np.flatnonzero((np.diff(numbers) == 1) & (regions[1:] & regions[:-1]).any(1))
    a, b = np.concatenate([alike, np.stack([next_to, next_to + 1], 1)]).T
    return connected_components(coo_matrix((np.ones(len(a)), (a, b)), shape=(n, n)), directed=False)[1].astype(np.int64)


def each_once(table: DataFrame) -> DataFrame:
    """The first of pictures that are the same pixel by pixel; none where these are not called the same."""
    told = table.groupby("picture")[["label", "fracture"]].transform("nunique").max(axis=1)
    return table[(told == 1) & ~table["picture"].duplicated()].reset_index(drop=True)


class Fractures:
    """The polygons around fractures, by case, in pixels of the images as they lie in the folder.

    The annotations are COCO's: x, y, x, y, ... from the upper left corner, in pixels of the ORIGINAL size; the images that
    are here have a longest side of 256. A pixel's centre is at + 0.5 in COCO, and at whole numbers in ours (row, column). One
    image (IMG0002628) was annotated lying on its side, a quarter turn anticlockwise of the file.
    """

    def __init__(self, folder: Path) -> None:
        told = json.loads((folder / "COCO_fracture_masks.json").read_text())
        self._images: Mapping[int, Mapping[str, float]] = {image["id"]: image for image in told["images"]}
        self._rings: dict[str, list[tuple[int, Sequence[float]]]] = {}
        for each in told["annotations"]:
            case = str(self._images[each["image_id"]]["file_name"]).removesuffix(".jpg")
            self._rings.setdefault(case, []).extend((each["image_id"], ring) for ring in each["segmentation"])

    def __contains__(self, case: str) -> bool:
        return case in self._rings

    def polygons(self, case: str, grid: Grid) -> list[NDArray[np.float64]]:
        """Corners (row, column) on the image's own grid."""
        found = []
        for image, ring in self._rings.get(case, ()):
            height, width = self._images[image]["height"], self._images[image]["width"]
            corners = np.asarray(ring, float).reshape(-1, 2)[:, ::-1] / (height, width)  # shares of rows and columns
            if (height < width) != (grid.shape[0] < grid.shape[1]):
                corners = np.stack([corners[:, 1], 1 - corners[:, 0]], 1)
            found.append(corners * grid.shape - 0.5)
        return found

    def mask(self, case: str, grid: Grid) -> NDArray[np.bool_]:
        """Where the fractures are; nowhere in an image without one."""
        polygons = self.polygons(case, grid)
        return from_polygons(polygons, grid) if polygons else np.zeros(grid.shape, bool)
