"""25 units of an attentive response in one call, beside a call for each unit.

    python benchmarks/attentive.py                                   # about 5 minutes on a quiet core
    python benchmarks/attentive.py --only "deeper 2d" --runs 3       # a try
    python benchmarks/attentive.py --cpu-time                        # one thread on a busy machine
    python benchmarks/attentive.py --threads 2

A call for each unit is what there was to do without the batch: the same code for a single unit, with its own forward pass. `ratio`
is the median over runs of that time over the one call's. `forward_share` is the forward passes' part of the calls for each unit,
with what prepares them: all that one call can save where a backward pass costs the same alone and among others, so that `ratio`
ends at 1 / (1 - forward_share). So it is for images on a processor, where the convolutions' arithmetic is all there is (210
million multiplications for a unit of "deeper 2d 128", at 84 thousand million operations a second). For small images the calls
themselves cost more than that; for volumes PyTorch convolves several at once with oneDNN, and one without, ten times slower.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median

import torch
from torch import Tensor, nn

from radiolucent import Logits
from radiolucent.methods import AttentiveResponse
from radiolucent.methods.projection import projecting
from radiolucent.models import AnatomyNet
from radiolucent.models.anatomy import DEEPER, SHALLOW

CASES = [(kind, 2, size) for kind in ("shallow", "deeper") for size in (32, 64, 128, 256)]
CASES += [("deeper", 3, 16), ("deeper", 3, 24), ("deeper", 3, 32)]
N = 25


def together(model: nn.Module, x: Tensor) -> Tensor:
    """The maps of all units from one call, (n, *grid)."""
    return AttentiveResponse("blocks", n=N).responses(model, x, Logits(0)).maps[0, 0]


def one(model: nn.Module, x: Tensor, unit: int) -> Tensor:
    """The map of a unit from a call of its own, forward pass included."""
    with projecting(model, "blocks", x, Logits(0), "forward") as projection:
        z = projection.features.relu()

        def signal(i: int, empty: Tensor) -> None:
            empty[:, unit] = z[:, unit]

        ((_, found),) = projection.back(1, signal, 1)
        return found[0]


def forward(model: nn.Module, x: Tensor) -> None:
    """All of a unit's call but its backward pass."""
    with projecting(model, "blocks", x, Logits(0), "forward") as projection:
        projection.features.relu()


def measure(kind: str, axes: int, size: int, runs: int, clock: Callable[[], float]) -> dict[str, float]:
    """Medians over runs, of which each takes all variants one after the other."""
    torch.manual_seed(0)
    model = AnatomyNet(4, axes=axes, **(DEEPER if kind == "deeper" else SHALLOW)).eval()
    x = torch.rand(1, 1, *[size] * axes)
    found = AttentiveResponse("blocks", n=N).responses(model, x, Logits(0))
    units = [int(u) for u in found.units[0, 0] if u >= 0]
    alone = torch.stack([one(model, x, unit) for unit in units])
    difference = float((alone - found.maps[0, 0, : len(units)]).abs().max() / alone.abs().max())
    rows = []
    for _ in range(runs):
        times = [clock()]
        for work in (
            lambda: [forward(model, x) for _ in units],
            lambda: [one(model, x, unit) for unit in units],
            lambda: together(model, x),
        ):
            work()
            times.append(clock())
        rows.append([b - a for a, b in pairwise(times)])
    return {
        "units": len(units),
        "one_by_one_ms": 1e3 * median(row[1] for row in rows),
        "together_ms": 1e3 * median(row[2] for row in rows),
        "ratio": median(row[1] / row[2] for row in rows),
        "forward_share": median(row[0] / row[1] for row in rows),
        "difference": difference,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--only", default="", help='a pattern, as "deeper 2d"')
    parser.add_argument("--cpu-time", action="store_true")
    o = parser.parse_args()
    torch.set_num_threads(o.threads)
    for kind, axes, size in CASES:
        name = f"{kind} {axes}d {size}"
        if re.search(o.only, name):
            row = measure(kind, axes, size, o.runs, time.process_time if o.cpu_time else time.perf_counter)
            print(name, *(f"{k} {v:.3g}" for k, v in row.items()), sep="  ", flush=True)


if __name__ == "__main__":
    main()
