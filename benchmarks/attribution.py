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
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from calling import Run, declare_torchvision_operators
from cases import Case, make_case
from peers import Contestant, contestants
from reading import FULL, PLAIN, Row, against_peers, as_text, columns, targets_met

CASES = ("resnet3d", "unet3d", "resnet2d")


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
