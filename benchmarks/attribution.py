"""What an attribution map costs: this package against captum, grad-cam, torchcam, MONAI and medcam.

    python benchmarks/attribution.py --out attribution.csv          # all three cases
    python benchmarks/attribution.py --quick                        # small inputs, 3 runs: does it work?
    python benchmarks/attribution.py --case resnet3d --only "grad-cam" --runs 15

Every time is a ratio to one plain forward (eval, no_grad) and to one full forward + backward (gradients of
the parameters and the input) of the same run. See benchmarks/README.md for how it is measured.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import gc
import logging
import platform
import random
import re
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from peers import Case, Contestant, Run, contestants, declare_torchvision_operators, make_case

CASES = ("resnet3d", "unet3d", "resnet2d")
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


def status_mib(key: str) -> float:
    """VmRSS (memory now) or VmHWM (its peak since the last reset) of this process."""
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else float("nan")


def peak_memory(run: Run, x: Tensor) -> tuple[Any, float]:
    """What `run` returns, and the peak of resident memory above the one at rest (Linux; else nan).

    Freed memory goes back to the system first, so that reusing it counts; then the kernel's
    high-water mark is reset. numpy's and oneDNN's memory counts like torch's.
    """
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return run(x), float("nan")
    rest = status_mib("VmRSS")
    result = run(x)
    return result, status_mib("VmHWM") - rest


def count_forwards(model: nn.Module, batch: int) -> tuple[list[float], Any]:
    """Passes of a whole batch through the model's first layer, however they are called or batched."""
    count = [0.0]
    first = next(m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d)))

    def add(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        count[0] += len(args[0]) / batch

    return count, first.register_forward_pre_hook(add)


def references(case: Case) -> list[Row]:
    def plain(x: Tensor) -> Tensor:
        with torch.no_grad():
            return case.model(x)

    def full(x: Tensor) -> Tensor:
        x.requires_grad_()
        case.one(case.model(x)).sum().backward()
        return x.grad

    return [Row(PLAIN, "torch", plain), Row(FULL, "torch", full)]


def warm_up(case: Case, contestant: Contestant, ours: dict[str, Any]) -> Row:
    """Build it, run it once: its memory, its number of forwards, and whether its answer is ours."""
    row = Row(contestant.method, contestant.package, None, contestant.note)
    try:
        own = case.own()
        run = contestant.build(own)
        count, handle = count_forwards(own.model, len(case.x))
        result, row.peak_mib = peak_memory(run, case.x.clone())
        handle.remove()
        row.forwards = count[0]
        if contestant.package == "radiolucent":
            ours.setdefault(contestant.method, result)
        elif contestant.compare:
            row.difference = relative_difference(result.detach(), ours[contestant.method][0], contestant, case)
        row.run = run
    except Exception as error:
        message = str(error).strip().split("\n")[0][:110]
        row.note = f"FAILS: {type(error).__name__}: {message}"
    finally:
        case.model.zero_grad(set_to_none=True)
    return row


def relative_difference(theirs: Tensor, mine: Tensor, contestant: Contestant, case: Case) -> float:
    if contestant.shaped is not None:
        mine = contestant.shaped(mine, case)
    if theirs.shape != mine.shape:
        raise ValueError(f"its map has shape {tuple(theirs.shape)}, not {tuple(mine.shape)}")
    return float((theirs.double() - mine.double()).abs().max() / mine.abs().max())


def measure(case: Case, n: int, runs: int, only: str, clock: Callable[[], float]) -> list[Row]:
    """All rows of a case; each round runs all contestants once, in a new order, the plain forward three times."""
    rows = references(case)
    for row in rows:
        assert row.run is not None
        row.run(case.x.clone())
        row.forwards = 1
        row.peak_mib = peak_memory(row.run, case.x.clone())[1]
        case.model.zero_grad(set_to_none=True)
    ours: dict[str, Any] = {}
    rows += [warm_up(case, c, ours) for c in contestants(case, n) if re.search(only, f"{c.method} {c.package}")]
    ours.clear()
    gc.freeze()  # the collections below then look at the benchmark's own garbage only
    order = [rows[0], rows[0], *(row for row in rows if row.run)]
    shuffle = random.Random(0).shuffle
    for done in range(runs):
        started = time.perf_counter()
        shuffle(order)
        for row in order:
            x = case.x.clone()
            gc.collect()
            before = clock()
            row.run(x)  # type: ignore[misc]
            row.seconds.append(clock() - before)
            case.model.zero_grad(set_to_none=True)
        print(f"{case.name}: run {done + 1}/{runs}, {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    return rows


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=CASES, help="default: all; may be repeated")
    parser.add_argument("--runs", type=int, help="default: 7, with --quick 3")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2, help="points of IG and samples of SmoothGrad, the same for all")
    parser.add_argument("--stem-stride", type=int, default=2, help="of the ResNets (MONAI's default is 1, six times dearer in 3D)")
    parser.add_argument(
        "--only", default="", metavar="REGEX", help="rows whose 'method package' matches (the references always run)"
    )
    parser.add_argument(
        "--cpu-time", action="store_true", help="of all threads, not time on the wall: for busy machines, --threads 1"
    )
    parser.add_argument("--out", type=Path, help="CSV with every row")
    parser.add_argument("--quick", action="store_true", help="small inputs")
    options = parser.parse_args()
    runs = options.runs or (3 if options.quick else 7)
    clock = time.process_time if options.cpu_time else time.perf_counter

    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with suppress(Exception):  # grad-cam's rows then list the error
        declare_torchvision_operators()

    how = f"{options.threads} threads, {'CPU time, ' if options.cpu_time else ''}medians of {runs} runs"
    print(f"torch {torch.__version__}, {platform.machine()}, {how}{', QUICK' if options.quick else ''}")
    print(f"{options.steps} points of IG and samples of SmoothGrad, stem stride {options.stem_stride}")
    lines: list[dict[str, Any]] = []
    for name in options.case or CASES:
        case = make_case(name, options.quick, options.stem_stride)
        rows = measure(case, options.steps, runs, options.only, clock)
        print(f"\n{name}: input {'x'.join(map(str, case.x.shape))}, CAMs at {case.layer}\n\n{as_text(rows)}\n")
        head = "This package against its own limits, medians (and first quartiles):"
        print("\n".join([head, *targets_met(case, rows)]), flush=True)
        print("\n".join(["The fastest peer's time over ours:", *against_peers(rows)]), flush=True)
        settings = {"runs": runs, "threads": options.threads, "steps": options.steps, "torch": torch.__version__}
        lines += [{"case": name, **columns(row, rows), **settings} for row in rows]
        if options.out:
            with options.out.open("w", newline="") as file:
                writer = csv.DictWriter(file, lines[0])
                writer.writeheader()
                writer.writerows(lines)


if __name__ == "__main__":
    main()
