"""A frame of the analysis as a table of the page, and the rows of one method."""

from __future__ import annotations

from collections.abc import Mapping

from pandas import DataFrame

from radiolucent.report.cohort import Table

_ABOUT = {"method", "layer", "target", "quantity", "region", "covariate", "pair", "score", "quality"}
_FIRST = ("verdict", "measure", "effect", "difference", "rho", "low", "high", "p", "q", "n")  # of tests, behind what they are about
HEADINGS = {
    "mass_fraction": "share",
    "low": "from",
    "high": "to",
    "q": "q (FDR)",
    "n": "n",
    "n_fit": "n fitted on",
    "n_targets": "targets",
    "strangest_z": "by how many SD",
    "volume_mm3_predicted": "predicted mm³",
    "voxels_predicted": "predicted voxels",
    "n_present": "n with region",
    "hd95_mm": "HD95 (mm)",
    "dice": "Dice",
    "iou": "IoU",
    "enrichment_low": "enrichment from",
    "enrichment_high": "enrichment to",
    "forest": "anomaly (forest)",
    "mahalanobis": "anomaly (Mahalanobis)",
    "strangest": "strangest region",
}


def table(frame: DataFrame, note: str, links: Mapping[str, str] | None = None) -> Table:
    """A frame as rows to search and sort, first what they say; columns that say nothing in any row are left out."""
    if "verdict" in frame.columns:
        about = [c for c in frame.columns if c in _ABOUT]
        first = [c for c in _FIRST if c in frame.columns]
        frame = frame[[*about, *first, *(c for c in frame.columns if c not in {*about, *first})]]
    if "kind" in frame.columns:  # the regions' names and roles say it here
        frame = frame.drop(columns=["kind", "label"])
    if "quality" in frame.columns:
        frame = frame.assign(quality=frame["quality"].replace(HEADINGS))
    kept = [c for c in frame.columns if frame[c].notna().any() and not (frame[c].astype(str) == "").all()]
    return Table({c: HEADINGS.get(c, c.replace("_", " ")) for c in kept}, frame[kept].to_dict("records"), links, note)


def each(frame: DataFrame) -> list[tuple[str, DataFrame]]:
    """The rows of each method and layer, with their name."""
    groups = frame.groupby(["method", "layer"], sort=False)
    return [(f"{method} at {layer}" if layer else str(method), part) for (method, layer), part in groups]


def of(frame: DataFrame, like: DataFrame) -> DataFrame:
    """The rows of a frame with the one method and layer of another."""
    first = like.iloc[0]
    return frame[(frame["method"] == first["method"]) & (frame["layer"] == first["layer"])] if len(frame) else frame
