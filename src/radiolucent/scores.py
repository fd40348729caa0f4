"""Scores of many maps: rows in, means with intervals, tables and a plot out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from radiolucent import io
from radiolucent.explanation import Explanation
from radiolucent.io.tables import TABLES, write_tables
from radiolucent.methods import titles
from radiolucent.metrics import measure
from radiolucent.statistics import means
from radiolucent.volume import Volume

GROUP = ("method", "settings", "layer", "target", "label", "region", "metric")
"""What a mean is over the cases of."""


Names = Mapping[int, str] | None


def at_own_label(label: int | None, all_pairs: bool, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `measure` with the target's own label as the only one, unless others are asked for."""
    asked = all_pairs or options.get("labels") is not None
    return dict(options) if asked or not label else {**options, "labels": [label]}


class Scores:
    """Collects what `measure` gives for map after map.

    Args:
        layers: all layers in the order in which they run, for the plot; without it, by the depth that maps carry, else
            in order of appearance.
    """

    def __init__(self, layers: Sequence[str] = ()) -> None:
        self._rows: list[dict[str, Any]] = []
        self._place: dict[str, tuple[float, int]] = {layer: (-1.0, i) for i, layer in enumerate(layers)}

    def add(
        self,
        rows: Iterable[Mapping[str, Any]],
        *,
        case: str,
        method: str = "",
        settings: str = "",
        layer: str = "",
        target: str = "",
        depth: int | None = None,
    ) -> None:
        """Rows of `measure`, with what they are about. `depth` is the layer's place in the order of running."""
        first = -2.0 if layer == "" else float("inf") if depth is None else depth  # "" is the input
        self._place.setdefault(layer, (first, len(self._place)))
        about = {"case": case, "method": method, "settings": settings, "layer": layer, "target": target}
        self._rows += [about | dict(row) for row in rows]

    def measure(
        self, case: str, explanation: Explanation, mask: Volume, *, all_pairs: bool = False, names: Names = None, **options: Any
    ) -> None:
        """Measure all targets of an explanation against one mask; `options` are those of `radiolucent.metrics.measure`.

        A segmentation's target is measured at its own label, and with `all_pairs`, or where `labels` are given, at all
        of them; the regions have the names of the model's classes. Other targets are measured at all labels.
        """
        method, settings, layer = titles(explanation.method)
        about = explanation.provenance
        known = dict(enumerate(about.get("label_names", ())))
        own = about.get("labels", [None] * len(explanation.targets))
        depth = about.get("depth")
        for target, relevance, label in zip(explanation.targets, explanation.relevance, own, strict=True):
            rows = measure(relevance, mask, names=names, **at_own_label(label, all_pairs, options))
            if names is None:
                rows = [row | {"region": known.get(row["label"], row["region"])} for row in rows]
            self.add(rows, case=case, method=method, settings=settings, layer=layer, target=target, depth=depth)

    def take(self, others: Scores) -> None:
        """All rows of another collection."""
        for layer, (depth, _) in others._place.items():
            self._place.setdefault(layer, (depth, len(self._place)))
        self._rows += others._rows

    def clear(self) -> None:
        """Begin anew, for example with each epoch; what the layers' order is stays known."""
        self._rows = []

    @property
    def layers(self) -> list[str]:
        """The layers that have scores, in the order in which they run."""
        seen = {row["layer"] for row in self._rows}
        return sorted(seen, key=lambda layer: self._place[layer])

    def rows(self) -> list[dict[str, Any]]:
        """case, method, settings, layer, target, label, region, metric, value, threshold, reason."""
        return list(self._rows)

    def means(self, **options: Any) -> list[dict[str, Any]]:
        """Mean over cases with its bootstrap interval per method, layer, target, region and metric (see `statistics.means`)."""
        order = {layer: i for i, layer in enumerate(self.layers)}
        table = means(self._rows, GROUP, **options)
        return sorted(table, key=lambda row: (row["method"], row["settings"], order[row["layer"]]))

    def write(self, path: str | Path) -> list[Path]:
        """The table of scores and that of means to .csv, .parquet or .xlsx, and, for several layers, a plot beside them."""
        path = Path(path)
        tables = {"scores": self._rows, "means": self.means()}
        return [write_tables(path, tables), *self._plot(path.with_suffix(".png"), tables["means"])]

    def save(self, folder: str | Path) -> Path:
        """scores.csv, scores_means.csv, the same as Parquet, scores.xlsx with both, and scores.png for several layers."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tables = {"scores": self._rows, "means": self.means()}
        for suffix in TABLES:
            write_tables(folder / f"scores{suffix}", tables)
        self._plot(folder / "scores.png", tables["means"])
        return folder

    def _plot(self, path: Path, table: list[dict[str, Any]]) -> list[Path]:
        known = [row for row in table if row["n"]]
        pairs = {(row["method"], row["settings"], row["layer"]) for row in known}
        if len(pairs) == len({pair[:2] for pair in pairs}):  # no method has two layers to compare
            return []
        from radiolucent.report.depth import by_depth
        from radiolucent.report.figures import png

        return [io.put(path, png(by_depth(known, self.layers, ("method", "settings"), ("target", "region")), dpi=120))]
