"""What it costs to add maps up by region: `RegionSums` against a mask for each pair of target and region.

    python benchmarks/regions.py                 # 17 targets x 17 regions on 256^3, one thread: minutes
    python benchmarks/regions.py --size 96       # does it work?

A mask for each pair, as in Agg2Exp's code: (|e_a| * (labels == b)).sum() / |e_a|.sum(), in numpy and in torch. Ours makes
all columns of the rows (also the positive and negative parts, in float64) and, in a run of its own, eight joined regions,
eight overlapping masks and the distance from the target besides. Regions are ellipsoids in a background, all of which the
maps cover with noise. Maps of all targets come slab by slab, as from a tiled model; for the masks, whole and one at a
time. Only the adding up is timed. Fails unless the numbers agree.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from radiolucent.io.tables import Name
from radiolucent.parcellation import Parcellation
from radiolucent.regions import Regions, RegionSums
from radiolucent.volume import Volume

SLAB = 8


def clock() -> float:
    """Processor time of one thread, which other work on the machine hardly moves; else the time that passes."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def anatomy(o: argparse.Namespace) -> np.ndarray:
    random = np.random.default_rng(0)
    labels = np.zeros((o.size,) * 3, np.int32)
    z, y, x = np.ogrid[: o.size, : o.size, : o.size]
    for label in range(1, o.regions):
        centre, radius = random.random(3) * o.size, o.size * (0.08 + 0.12 * random.random(3))
        labels[sum(((a - c) / r) ** 2 for a, c, r in zip((z, y, x), centre, radius, strict=True)) < 1] = label
    return labels


def slab(o: argparse.Namespace, target: int, start: int) -> np.ndarray:
    shape = (min(SLAB, o.size - start), o.size, o.size)
    return np.random.default_rng([target, start]).standard_normal(shape, np.float32)


def ours(o: argparse.Namespace, regions: Regions) -> tuple[float, np.ndarray]:
    """Seconds, and the mass fractions of the labels (targets, regions)."""
    sums, seconds = RegionSums(regions, [f"region {t}" for t in range(o.targets)]), 0.0
    for start in range(0, o.size, SLAB):
        part = np.stack([slab(o, t, start)[None] for t in range(o.targets)])
        begun = clock()
        sums.add((slice(start, min(start + SLAB, o.size)),), part)
        seconds += clock() - begun
    begun = clock()
    rows = sums.rows()
    seconds += clock() - begun
    shares = [row["mass_fraction"] for row in rows if row["kind"] == "label"]
    return seconds, np.array(shares).reshape(o.targets, -1)


def in_numpy(e: np.ndarray, labels: np.ndarray, b: int) -> float:
    return float((np.abs(e) * (labels == b)).sum() / np.abs(e).sum())


def in_torch(e: torch.Tensor, labels: torch.Tensor, b: int) -> float:
    return float((e.abs() * (labels == b)).sum() / e.abs().sum())


def mask_per_pair(o: argparse.Namespace, share: Callable[..., float], labels: object, as_map: Callable) -> tuple[float, np.ndarray]:
    seconds, found = 0.0, np.zeros((o.targets, o.regions))
    for a in range(o.targets):
        e = as_map(np.concatenate([slab(o, a, start) for start in range(0, o.size, SLAB)]))
        begun = clock()
        found[a] = [share(e, labels, b) for b in range(o.regions)]
        seconds += clock() - begun
    return seconds, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("size", 256), ("targets", 17), ("regions", 17), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    o = parser.parse_args()
    torch.set_num_threads(o.threads)
    labels = anatomy(o)
    begun = clock()
    names = {b: Name(f"region {b}") for b in range(o.regions)}
    parcellation = Parcellation(Volume(labels[None]), names)
    regions = Regions(parcellation)
    plain_preparation = clock() - begun
    seconds, shares = ours(o, regions)
    torch_seconds, torch_shares = mask_per_pair(o, in_torch, torch.from_numpy(labels), torch.from_numpy)
    numpy_seconds, numpy_shares = mask_per_pair(o, in_numpy, labels, np.asarray)
    joined = {f"joined {i}": [f"region {b}" for b in range(i, o.regions, 3)] for i in range(8)}
    masks = {f"mask {i}": Volume((labels * (i + 3) % 7 > 3)[None]) for i in range(8)}
    begun = clock()
    rich = Regions(parcellation, joined=joined, masks=masks, near_mm=[5])
    for t in range(o.targets):
        rich.near(f"region {t}")
    preparation = clock() - begun
    rich_seconds, rich_shares = ours(o, rich)
    for what, found in (("numpy", numpy_shares), ("torch", torch_shares), ("with extras", rich_shares)):
        worst = np.abs(found / shares - 1).max()
        assert worst < (1e-6 if what != "torch" else 1e-5), f"{what}: {worst}"
        print(f"largest relative difference of {what}: {worst:.1e}")
    print(f"{o.targets} targets x {o.regions} regions on {o.size}^3, {o.threads} threads")
    for what, value in (
        ("ours", seconds),
        ("ours, with its preparation", seconds + plain_preparation),
        ("ours, 8 joined, 8 masks, distances", rich_seconds),
        ("ours, the same with its preparation", rich_seconds + preparation),
        ("a mask per pair in torch", torch_seconds),
        ("a mask per pair in numpy", numpy_seconds),
    ):
        ratios = f"torch's masks cost {torch_seconds / value:6.1f}, numpy's {numpy_seconds / value:6.1f} times that"
        print(f"  {what:40s} {value:9.3f} s   {ratios}")


if __name__ == "__main__":
    main()
