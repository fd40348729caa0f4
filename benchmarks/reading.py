"""What the times of `attribution.py` say: its table, its limits, and how far the peers are."""

from __future__ import annotations

import re
import statistics
from dataclasses import dataclass, field
from typing import Any

from calling import Run
from cases import Case

PLAIN, FULL = "plain forward", "forward + backward"
CAMS = ("grad-cam", "grad-cam++", "hires-cam", "layer-cam")


@dataclass
class Row:
    """One contestant's measurements in one case."""

    method: str
    package: str
    run: Run | None
    note: str = ""
    seconds: list[float] = field(default_factory=list)
    forwards: float = float("nan")
    peak_mib: float = float("nan")
    difference: float | None = None
    """Largest difference from our map, relative to our largest value; None: not comparable."""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds) if self.seconds else float("nan")

    @property
    def quartile(self) -> float:
        """The first quartile: less moved by a busy machine than the median."""
        few = len(self.seconds) < 2
        return self.median if few else statistics.quantiles(self.seconds, n=4, method="inclusive")[0]


def columns(row: Row, rows: list[Row]) -> dict[str, Any]:
    return {
        "method": row.method,
        "package": row.package,
        "/ forward": row.median / rows[0].median,
        "/ fwd+bwd": row.median / rows[1].median,
        "quartile": row.quartile / rows[0].quartile,
        "seconds": row.median,
        "forwards": row.forwards,
        "peak MiB": row.peak_mib,
        "max rel diff": row.difference,
        "note": row.note,
    }


_FORMATS = {"forwards": "{:.3g}", "peak MiB": "{:.0f}", "max rel diff": "{:.1e}", "seconds": "{:.3f}"}


def as_text(rows: list[Row]) -> str:
    """The aligned table."""

    def cell(key: str, value: Any) -> str:
        if value is None or (value != value and key != "max rel diff"):
            return "-"
        return value if isinstance(value, str) else _FORMATS.get(key, "{:.2f}").format(value)

    table = [{key: cell(key, value) for key, value in columns(row, rows).items()} for row in rows]
    widths = {k: max(len(k), *(len(line[k]) for line in table)) for k in table[0]}
    left = ("method", "package", "note")
    lines = [{k: k for k in widths}, *table]
    return "\n".join("  ".join(f"{v:{'<' if k in left else '>'}{widths[k]}}" for k, v in line.items()).rstrip() for line in lines)


def targets_met(case: Case, rows: list[Row]) -> list[str]:
    """The limits that the project sets itself, as measured."""
    mine = {row.method: row for row in rows if row.package in ("radiolucent", "torch") and row.seconds}

    def line(top: str, bottom: str, limit: float | None, of: str = "") -> str | None:
        if top not in mine or bottom not in mine:
            return None
        ratio = mine[top].median / mine[bottom].median
        verdict = "" if limit is None else f"  limit {limit}: {'holds' if ratio <= limit else 'MISSED'}"
        return f"  {ratio:6.2f} ({mine[top].quartile / mine[bottom].quartile:.2f}) x {bottom:<30} {top + of}{verdict}"

    classifier = case.last == case.layer
    found: list[str | None] = [line("grad-cam", PLAIN, 1.15 if case.name == "resnet3d" else None, f" at {case.layer}")]
    found += [line(f"{cam} at the last layer, 10 targets", cam if classifier else f"{cam} at the last layer", 1.5) for cam in CAMS]
    found += [
        line("grad-cam, 10 targets", "grad-cam", None, f" at {case.layer}"),
        line("gradient, 10 targets", "gradient", None),
        line("gradient", FULL, 0.8),
        line("guided-backprop", FULL, 0.8),
    ]
    for k in range(1, len(case.layers)):
        found.append(line(f"grad-cam at {k + 1} layers", f"grad-cam at {case.layers[-1 - k]}", None))
    several = [row for row in mine.values() if re.search(r"\d layers|16 CAMs", row.method)]
    if several:
        passes = "all" if all(row.forwards == 1 for row in several) else "NOT all"
        found.append(
            f"  {passes} calls for several layers ran one forward: {', '.join(f'{r.method} {r.forwards:g}' for r in several)}"
        )
    return [text for text in found if text]


def against_peers(rows: list[Row]) -> list[str]:
    """Each method that a peer has: the fastest peer's median over ours (above 1: ours is faster), and peaks of memory."""
    lines = []
    for method in dict.fromkeys(row.method for row in rows[2:]):
        timed = {row.package: row for row in rows if row.method == method and row.seconds}
        peers = [row for package, row in timed.items() if not package.startswith("radiolucent")]
        if "radiolucent" not in timed or not peers:
            continue
        mine, best = timed["radiolucent"], min(peers, key=lambda row: row.median)
        paired = statistics.median(b / a for a, b in zip(mine.seconds, best.seconds, strict=True))
        lines.append(
            f"  {best.median / mine.median:6.2f} (pairs {paired:.2f}) {method:<28} against {best.package}, the fastest of "
            f"{len(peers)}; peak {mine.peak_mib:.0f} against {best.peak_mib:.0f} MiB"
        )
    return lines
