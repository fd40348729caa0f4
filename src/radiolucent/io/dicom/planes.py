"""Where the planes of a series lie, and whether they make a volume: nothing is guessed, mended or left out."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from radiolucent.errors import BadInput
from radiolucent.geometry import Array, Grid
from radiolucent.io.dicom.files import counted, guarded
from radiolucent.io.image import AFFINE

LPS = np.diag([-1.0, -1, 1, 1])  # DICOM's world runs to the left and back, ours to the right and front
_OFF = 0.1  # voxels by which a plane may lie off the regular grid: headers are rounded


@dataclass(frozen=True)
class Plane:
    """One image plane: rows and columns, mm between them, and (where it has one) its place in the patient."""

    shape: tuple[int, int]
    spacing: tuple[float, float] | None
    thickness: float | None
    position: Array | None
    orientation: Array | None


@dataclass(frozen=True)
class Stack:
    """The grid of a series, and the number of the plane that is its first, second, ... slice.

    Several planes: axes run along the columns, the rows and the slices, slices along the normal (ITK's
    order). One plane: along the rows and the columns, as all 2D images here.
    """

    grid: Grid
    order: tuple[int, ...]
    has_world: bool


def planes(datasets: Sequence[Any]) -> list[Plane]:
    """The planes in the order of the datasets, or of the frames of one multi-frame dataset."""
    with guarded("numbers in the headers' geometry", "The headers are damaged: export the series again."):
        found: list[Plane] = []
        for item in datasets:
            frames = item.get("PerFrameFunctionalGroupsSequence")
            if frames is None:
                found.append(_plane(item, item, item, item))
                continue
            shared = (item.get("SharedFunctionalGroupsSequence") or [{}])[0]
            for frame in frames:
                names = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
                found.append(_plane(item, *((frame.get(name) or shared.get(name) or [{}])[0] for name in names)))
    return found


def _plane(image: Any, position: Any, orientation: Any, measures: Any) -> Plane:
    spacing = _numbers(measures.get("PixelSpacing") or image.get("ImagerPixelSpacing"), 2)
    thickness = _numbers([measures.get("SliceThickness") or measures.get("SpacingBetweenSlices") or 0], 1)
    return Plane(
        (int(image.Rows), int(image.Columns)),
        None if spacing is None or min(spacing) <= 0 else (float(spacing[0]), float(spacing[1])),
        float(abs(thickness[0])) or None if thickness is not None else None,
        _numbers(position.get("ImagePositionPatient"), 3),
        _numbers(orientation.get("ImageOrientationPatient"), 6),
    )


def _numbers(values: Any, count: int) -> Array | None:
    numbers = np.array([float(v) for v in values or ()])
    return numbers if len(numbers) == count and np.isfinite(numbers).all() else None


def stack(name: str, given: Sequence[Plane]) -> Stack:
    """The regular grid on which all planes lie.

    Raises:
        BadInput: they do not lie on one; with the sizes, orientations or positions that are to blame.
    """
    _alike(f"images of one size in {name}", [f"{p.shape[0]} x {p.shape[1]}" for p in given])
    if len(given) == 1 and (given[0].position is None or given[0].orientation is None):
        return Stack(Grid(given[0].shape, AFFINE @ np.diag([*(given[0].spacing or (1, 1)), 1, 1])), (0,), False)
    lost = sum(p.position is None or p.orientation is None for p in given)
    if lost:
        raise BadInput(
            f"a position and an orientation in the patient for every image of {name}",
            f"{lost} of {len(given)} images without",
            "Export the series again with its geometry, or give one image.",
        )
    if any(p.spacing is None for p in given):
        raise BadInput(f"pixel spacings above zero in {name}", "none, or zero", "Export the series again with its geometry.")
    _alike(f"one pixel spacing in {name}", ["{:.4g} x {:.4g} mm".format(*(p.spacing or ())) for p in given])
    axes = _orientation(name, given)
    first = given[0].spacing or (1, 1)
    if len(given) == 1:
        return Stack(Grid(given[0].shape, _affine(given[0], axes[[1, 0, 2]], (*first, given[0].thickness or 1.0))), (0,), True)
    heights = np.array([p.position @ axes[2] for p in given])
    order = np.argsort(heights, kind="stable")
    _steps(name, [given[i] for i in order], heights[order])
    step = (heights[order[-1]] - heights[order[0]]) / (len(given) - 1)
    affine = _affine(given[order[0]], axes, (first[1], first[0], step))
    _perpendicular(name, np.array([given[i].position for i in order]), LPS @ affine, axes[2])
    return Stack(Grid((*given[0].shape[::-1], len(given)), affine), tuple(order.tolist()), True)


def _affine(first: Plane, axes: Array, spacing: tuple[float, ...]) -> Array:
    affine = np.eye(4)
    affine[:3, :3] = axes.T * spacing
    affine[:3, 3] = first.position
    return LPS @ affine


def _alike(expected: str, values: Sequence[str], do: str = "Move the images that do not belong out of the folder.") -> None:
    if len(set(values)) > 1:
        raise BadInput(expected, counted(values), do)


def _orientation(name: str, given: Sequence[Plane]) -> Array:
    """Unit vectors along the columns' numbers, the rows' numbers, and the normal; in DICOM's world."""
    all_ = np.array([p.orientation for p in given])
    if np.abs(all_ - all_[0]).max() > 1e-3:
        _alike(
            f"one orientation in {name}",
            [" ".join(f"{v:.3f}" for v in row + 0.0) for row in all_.round(3)],
            "Move the images that do not belong (a localizer?) out of the folder.",
        )
    row, column = all_[0, :3], all_[0, 3:]
    if max(abs(row @ row - 1), abs(column @ column - 1), abs(row @ column)) > 1e-2:
        raise BadInput(f"rows and columns at right angles in {name}", f"orientation {all_[0].round(3).tolist()}", "Mend it.")
    row = row / np.linalg.norm(row)
    column = column - (column @ row) * row
    column = column / np.linalg.norm(column)
    return np.array([row, column, np.cross(row, column)])


def _steps(name: str, sorted_planes: Sequence[Plane], heights: Array) -> None:
    """Refuse slices at one height, missing slices, and uneven distances."""
    gaps = np.diff(heights)
    places = [f"({', '.join(f'{v:.2f}' for v in p.position)})" for p in sorted_planes if p.position is not None]
    again = np.flatnonzero(gaps < 1e-3)
    if len(again):
        raise BadInput(
            f"one image at each position in {name}",
            f"{len(again)} at a position that has one already, for example {places[again[0]]} mm",
            "Split the series by time, echo or b-value, or remove the copies.",
        )
    step = statistics.median_low(gaps.tolist())
    wide = np.flatnonzero(gaps > 1.5 * step)
    if len(wide):
        shown = "; ".join(f"{gaps[i]:.4g} mm after the slice at {places[i]} mm" for i in wide[:3])
        raise BadInput(
            f"slices {step:.4g} mm apart without a gap in {name}", f"a missing slice: {shown}", "Export the series again, whole."
        )
    even = heights[0] + np.arange(len(heights)) * (heights[-1] - heights[0]) / (len(heights) - 1)
    if np.abs(heights - even).max() > _OFF * step:
        raise BadInput(
            f"evenly spaced slices in {name}",
            f"distances from {gaps.min():.4g} to {gaps.max():.4g} mm",
            "Resample it to even slices, or split it.",
        )


def _perpendicular(name: str, positions: Array, affine: Array, normal: Array) -> None:
    """Refuse a stack that leans: its voxels are not where a grid with right angles says."""
    inside = np.linalg.inv(affine) @ np.vstack([positions.T, np.ones(len(positions))])
    if np.abs(inside[:2]).max() <= _OFF:
        return
    along = positions[-1] - positions[0]
    angle = np.degrees(np.arccos(min(1.0, abs(along @ normal) / np.linalg.norm(along))))
    raise BadInput(
        f"slices stacked at a right angle to their plane in {name}",
        f"a stack that leans by {angle:.3g} degrees (gantry tilt?), up to {np.abs(inside[:2]).max():.3g} voxels off",
        "Convert it with a tool that straightens it, such as dcm2niix, and give the NIfTI file.",
    )
