"""Faithfulness correlation of many maps and targets: this package and Quantus in the same run, on the same maps.

    python benchmarks/metrics.py                       # 5 maps, 3 targets, 100 subsets, 3D ResNet-18 at 48^3
    python benchmarks/metrics.py --size 24 --samples 9 --maps 2 --targets 2 --runs 1       # does it work?
    python benchmarks/metrics.py --over cubes          # ours over cubes; Quantus has single voxels only

Each tool runs in a process of its own, `--runs` times in turn, on the same weights, image and maps. Measured is the scoring
alone (not imports, the network or the maps), by the same hook for both: seconds, images that went through the network, and
by how much resident memory rose above what was held at the start (after freed memory was given back; both tools have run
once before, small). `radiolucent-one-by-one` lets one copy at a time through the network, as Quantus does, which is the fair
comparison of memory; `radiolucent` takes as many as fit well. Quantus is called as its interface asks: once for each map and
target, which it evaluates one copy at a time. All hide as many subsets of as many voxels by the same value, and each draws
its own: that the numbers agree for the same draws is tested in tests/test_quantus.py; here their means stand side by side.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import warnings
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

SUBSET = 0.05
"""The share of the voxels that is hidden each time."""
TOOLS = ("radiolucent", "radiolucent-one-by-one", "quantus")


def world(o: argparse.Namespace) -> tuple[nn.Module, Tensor, Tensor]:
    """The network, the image and maps (maps, targets, 1, *grid), the same in every process."""
    from monai.networks.nets import resnet18

    torch.manual_seed(0)
    net = resnet18(spatial_dims=3, n_input_channels=1, num_classes=o.targets, conv1_t_stride=o.stem_stride).eval()
    return net, torch.rand(1, 1, *[o.size] * 3), torch.randn(o.maps, o.targets, 1, *[o.size] * 3)


def ours(o: argparse.Namespace, net: nn.Module, x: Tensor, maps: Tensor) -> list[float]:
    from radiolucent import Logits
    from radiolucent.metrics import FaithfulnessCorrelation, ask

    metric = FaithfulnessCorrelation(o.over, subset=SUBSET, samples=o.samples, baseline="zero")
    named = {str(m): relevance[:, None] for m, relevance in enumerate(maps)}
    return [a.value for a in ask(net, x, named, Logits(*range(maps.shape[1])), [metric], batch=o.batch)]


def quantus(o: argparse.Namespace, net: nn.Module, x: Tensor, maps: Tensor) -> list[float]:
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from quantuses import quantus as load

    quiet = {"disable_warnings": True, "display_progressbar": False, "normalise": False, "abs": False}
    hidden = round(SUBSET * o.size**3)
    metric = load().FaithfulnessCorrelation(nr_runs=o.samples, subset_size=hidden, perturb_baseline=0.0, **quiet)
    found: list[float] = []
    for of_targets in maps:
        for t, relevance in enumerate(of_targets):
            how: dict[str, Any] = {"a_batch": relevance[None].numpy(), "softmax": False, "channel_first": True, "device": "cpu"}
            found += metric(net, x.numpy(), np.array([t]), **how)
    return found


def child(o: argparse.Namespace) -> None:
    """One tool: a row as JSON on the last line."""
    from radiolucent.hooks import costing

    warnings.filterwarnings("ignore")
    torch.set_num_threads(o.threads)
    work = quantus if o.child == "quantus" else ours
    o.batch = 1 if o.child == "radiolucent-one-by-one" else o.batch
    net, x, maps = world(o)
    work(argparse.Namespace(**(vars(o) | {"samples": 4})), net, x, maps[:1, :1])  # what is imported and set up once
    with costing(net, memory=True) as cost:
        values = work(o, net, x, maps)
    rise = math.nan if cost.peak_mib is None else round(cost.peak_mib, 1)
    row = {"tool": o.child, "seconds": round(cost.seconds, 3), "images": cost.forwards, "rise_mib": rise}
    print(json.dumps(row | {"mean": round(mean(values), 4), "numbers": len(values)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--maps", type=int, default=5)
    parser.add_argument("--targets", type=int, default=3)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--batch", type=int, default=0, help="ours: copies in a pass; 0: its own choice")
    parser.add_argument("--over", choices=("voxels", "cubes"), default="voxels")
    parser.add_argument("--stem-stride", type=int, default=2, help="of the ResNet (MONAI's default is 1)")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", choices=TOOLS, help=argparse.SUPPRESS)
    o = parser.parse_args()
    if o.child:
        child(o)
        return
    print(f"torch {torch.__version__}, {o.threads} threads, medians of {o.runs} runs; {vars(o)}")
    rows: dict[str, list[dict[str, Any]]] = {tool: [] for tool in TOOLS}
    for _ in range(o.runs):
        for tool in TOOLS:
            command = [sys.executable, __file__, *sys.argv[1:], "--child", tool]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            line = done.stdout.splitlines()[-1]
            rows[tool].append(json.loads(line))
            print(line, flush=True)
    keys = ("seconds", "rise_mib", "images")
    of = {tool: {key: median(row[key] for row in found) for key in keys} for tool, found in rows.items()}
    for tool in TOOLS[:2]:
        ratios = [f"{key} {of['quantus'][key] / of[tool][key]:.2f}" for key in keys if of[tool][key]]
        print(f"Quantus over {tool}: {', '.join(ratios)}")


if __name__ == "__main__":
    main()
