"""What a page's viewer reads: scan, maps and labels as files of its own, in the page."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Sequence
from typing import Any

import numpy as np

from radiolucent import io
from radiolucent.parcellation import Parcellation
from radiolucent.report.beside import Map
from radiolucent.report.picture import OPACITY, THRESHOLD, lookup_table
from radiolucent.volume import Volume


def viewed(shown: Volume, maps: Sequence[Map], parcellation: Parcellation | None, labels: Any) -> dict[str, Any]:
    """All of it. `labels` are the parcellation's on the grid that is drawn."""
    return {
        "scan": _packed(shown, (shown.data[0] * 255).round().astype(np.uint8)),
        "maps": [_map(shown, each) for each in maps],
        "labels": _labels(parcellation, shown, labels),
        "colours": (lookup_table() * 255).round().astype(int).tolist(),
        "threshold": THRESHOLD,
        "opacity": OPACITY,
        "has_world": shown.has_world,
    }


def _map(shown: Volume, each: Map) -> dict[str, Any]:
    drawn = each.drawn
    peak = np.array([*drawn.peak, 0, 0][:3])
    return {
        "name": f"{each.name}: {each.target}" + (f" ({each.stamp})" if each.stamp else ""),
        "image": _packed(shown, (drawn.value * 127).round().astype(np.int8)),
        "scale": f"{drawn.scale:.2g}",
        "signed": drawn.signed,
        "unit": each.explanation.method.unit,
        "peak": list(drawn.peak),
        "peak_mm": (_page_affine(shown) @ [*peak, 1])[:3].tolist(),
    }


def _labels(parcellation: Parcellation | None, shown: Volume, labels: Any) -> dict[str, Any] | None:
    """The label image, renumbered from 1, and its colours as NiiVue takes them."""
    if parcellation is None:
        return None
    import matplotlib

    values = [v for v in parcellation.values if v != 0]
    order = np.array([0, *values])
    rank = order.argsort()
    dense = rank[np.searchsorted(order, labels, sorter=rank)]
    wheel = matplotlib.colormaps["tab20"]
    rgb = [[0, 0, 0]]
    for number, value in enumerate(values):
        own = parcellation.names[value].colour.lstrip("#")
        rgb.append(
            [int(own[i : i + 2], 16) for i in (0, 2, 4)] if len(own) == 6 else [int(255 * c) for c in wheel(number % 20)[:3]]
        )
    table = {
        "R": [c[0] for c in rgb],
        "G": [c[1] for c in rgb],
        "B": [c[2] for c in rgb],
        "A": [0] + [255] * len(values),
        "I": list(range(len(rgb))),
        "labels": ["background"] + [parcellation.name(v) for v in values],
    }
    kind = np.uint8 if len(rgb) < 256 else np.int32
    return {"image": _packed(shown, dense.astype(kind)), "table": table}


def _packed(on: Volume, data: np.ndarray[Any, Any]) -> str:
    content = io.to_nifti(Volume(data[None], _page_affine(on), True))
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode()


def _page_affine(on: Volume) -> np.ndarray[Any, Any]:
    """The affine for the viewer: without a world only voxel sizes, so that nothing is mirrored."""
    return on.affine if on.has_world else np.diag([*(*on.grid.spacing, 1.0)[:3], 1.0])
