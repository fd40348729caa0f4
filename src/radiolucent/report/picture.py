"""What a map looks like: one decision about scale, colour and orientation for every picture of it.

Relevance keeps its sign and scale everywhere else; here it is normalised, and the legend says how.
"""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib
import numpy as np
from scipy.ndimage import gaussian_filter

from radiolucent.geometry import Array, coarsen, reorient
from radiolucent.volume import Volume

THRESHOLD = 0.2
"""Share of the scale below which a map is not drawn."""

OPACITY = 0.75
MOST_VOXELS = 1 << 24
"""Of one volume on a page; four such volumes are the most that a page holds."""


def for_display(volume: Volume, most: int = MOST_VOXELS, *, nearest: bool = False) -> Volume:
    """The volume with axes that run to the right, front and top, and at most `most` voxels."""
    if volume.data.ndim == 4 and volume.has_world:
        volume = volume.on(reorient(volume.grid, "RAS"))
    voxels = volume.data[0].size
    if voxels > most:
        factor = (voxels / most) ** (1 / (volume.data.ndim - 1))
        volume = volume.on(coarsen(volume.grid, tuple(max(1, int(n / factor)) for n in volume.grid.shape)), nearest=nearest)
    return volume


def background(scan: Volume, most: int = MOST_VOXELS) -> Volume:
    """The scan's first channel for display, in [0, 1] from its 0.5th to its 99.5th percentile."""
    shown = for_display(Volume(scan.data[:1], scan.affine, scan.has_world), most)
    low, high = np.percentile(shown.data, [0.5, 99.5])
    return shown.like(np.clip((shown.data - low) / max(float(high - low), 1e-12), 0, 1).astype(np.float32))


@dataclass(frozen=True, eq=False)
class Picture:
    """A map ready to draw: `value` in [-1, 1] on the display grid, `scale` = the relevance that 1 stands for."""

    value: Array
    scale: float
    peak: tuple[int, ...]

    @property
    def signed(self) -> bool:
        return bool((self.value < 0).any())

    @property
    def full(self) -> str:
        """What full colour stands for, in few words, where there is no room for a legend."""
        return f"full colour {'±' if self.signed else ''}{self.scale:.2g}"


def picture(relevance: Volume, most: int = MOST_VOXELS) -> Picture:
    """Channels added up; full colour at the 99th percentile of |R| over the voxels where R is not 0."""
    total = for_display(relevance, most).data.sum(0)
    size = np.abs(total)
    scale = float(np.percentile(size[size > 0], 99)) if size.any() else 1.0
    smooth = gaussian_filter(size, 1.5)
    peak = tuple(int(i) for i in np.unravel_index(np.argmax(smooth), smooth.shape))
    return Picture(np.clip(total / scale, -1, 1), scale, peak)


def lookup_table() -> Array:
    """(255, 3) in [0, 1] for -1 to 1: cyan against, dark at 0, yellow for (Crameri's managua)."""
    return matplotlib.colormaps["managua_r"](np.linspace(0, 1, 255))[:, :3]


def overlay(grey: Array, value: Array) -> Array:
    """A grey slice with the map over it, (rows, columns, 3)."""
    colour = lookup_table()[np.round((value + 1) * 127).astype(int)]
    alpha = (OPACITY * (np.abs(value) >= THRESHOLD))[..., None]
    return grey[..., None] * (1 - alpha) + colour * alpha
