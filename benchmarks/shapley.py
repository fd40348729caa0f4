"""KernelSHAP against captum's at the same number of samples: error to the exact values, and passes for 17 classes.

    python benchmarks/shapley.py                                   # 3 hippocampus scans, 8 and 10 cubes: 3 minutes
    python benchmarks/shapley.py --scans 1 --regions 2,2,2 --seeds 5    # does it work?

The exact values come from all 2^d coalitions, each predicted by the shipped model. The sampled ones ask the same
predictions, looked up in that table, so that many seeds cost nothing: to both packages the game is a model with d
inputs. A sample is one evaluation, those of everything and nothing included, as captum counts them too. The error is
|phi - exact|_2 / |exact - mean(exact)|_2, so that 1 is what equal shares for all would be off by.
Without RADIOLUCENT_DATA the scan is the demo's.
"""

import argparse
import os
import warnings
from importlib.resources import as_file, files
from itertools import product
from math import factorial, prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import radiolucent
from radiolucent import Logits, Outputs, Region
from radiolucent.methods import KernelSHAP
from radiolucent.models import load

warnings.filterwarnings("ignore")


class Table(nn.Module):
    """v(z) of a game as a model: (k, 1, 1, d) or (k, d) zeros and ones to scores (k, t)."""

    def __init__(self, v: Tensor) -> None:
        super().__init__()
        self.register_buffer("v", v)
        self.seen = 0

    def forward(self, z: Tensor) -> Tensor:
        z = z.flatten(1)
        self.seen += len(z)
        return self.v[(z.long() << torch.arange(z.shape[1])).sum(1)]


def scans(count: int) -> list[Path]:
    folder = Path(os.environ.get("RADIOLUCENT_DATA", "/nowhere")) / "hippocampus" / "images"
    found = sorted(folder.glob("*.nii*"))
    return found[:: max(1, len(found) // count)][:count]


def game(path: Path, along: tuple[int, ...]) -> Tensor:
    """Scores (2^d, t) of all coalitions of cubes, for both parts of the hippocampus."""
    with as_file(files("radiolucent.demo")) as here:
        network, card = load(here / "hippocampus")
    prediction = radiolucent.predict(network, radiolucent.read(path), card.preprocessing)
    targets, x = Region(1, 2).fix(prediction.output), prediction.x
    number = torch.zeros((), dtype=torch.long)
    for n, k in zip(x.shape[2:], along, strict=True):
        number = number[..., None] * k + torch.arange(n) * k // n
    found = []
    with torch.no_grad():
        for z in range(2 ** prod(along)):
            shown = torch.tensor([float(z >> r & 1) for r in range(prod(along))])[number]
            found.append(targets(network(x * shown))[:, 0])
    return torch.stack(found)


def exact(v: Tensor) -> Tensor:
    """Shapley values (d, t), as they are defined."""
    d, table = int(np.log2(len(v))), v.double()
    size = torch.tensor([bin(z).count("1") for z in range(2**d)])
    weight = torch.tensor([factorial(k) * factorial(d - k - 1) / factorial(d) for k in range(d)]).double()
    without = [torch.tensor([z for z in range(2**d) if not z >> r & 1]) for r in range(d)]
    return torch.stack([weight[size[z]] @ (table[z | 1 << r] - table[z]) for r, z in enumerate(without)])


def theirs(model: nn.Module, d: int, samples: int, seed: int, target: int) -> Tensor:
    from captum.attr import KernelShap

    torch.manual_seed(seed)
    with torch.no_grad():
        return KernelShap(model).attribute(torch.ones(1, d), target=target, n_samples=samples)[0].double()


def compare(o: argparse.Namespace) -> None:
    print(f"{'regions':>8} {'samples':>8}   {'ours: error (quartiles)':28} {'stated':>7}   {'captum: error (quartiles)':28} ratio")
    for along in o.regions or [(2, 2, 2), (5, 2, 1)]:
        d = prod(along)
        with as_file(files("radiolucent.demo")) as here:
            games = [game(path, along) for path in scans(o.scans) or [here / "icbm152-hippocampus.nii.gz"]]
        for samples in sorted({n for n in (2 * d, 3 * d, 4 * d, 8 * d, 16 * d, 32 * d, 2**d) if n <= 2**d}):
            ours, captums, stated = [], [], []
            for v, seed in product(games, range(o.seeds)):
                model, truth = Table(v), exact(v)
                found = KernelSHAP(cubes=(1, d), samples=samples, seed=seed).values(model, torch.ones(1, 1, 1, d), Outputs())
                assert model.seen == samples
                for t in range(v.shape[1]):
                    span = (truth[:, t] - truth[:, t].mean()).norm()
                    ours.append(float((found.phi[t, 0] - truth[:, t]).norm() / span))
                    stated.append(float(found.error[t, 0].norm() / span))
                    captums.append(float((theirs(model, d, samples, seed, t) - truth[:, t]).norm() / span))
            a, b = (np.quantile(values, [0.5, 0.25, 0.75]) for values in (ours, captums))
            row = [f"{m:9.2e} ({low:.2e} to {high:.2e})" for m, low, high in (a, b)]
            ratio = f"{b[0] / a[0]:.1f}" if a[0] > 1e-6 else ""
            print(f"{d:8d} {samples:8d}   {row[0]} {np.median(stated):7.1e}   {row[1]} {ratio}")


def classes(samples: int) -> None:
    """Evaluations for 17 classes at once, and for one after the other."""
    model = Table(torch.randn(2**10, 17))
    KernelSHAP(cubes=(1, 10), samples=samples)(model, torch.ones(1, 1, 1, 10), Logits(*range(17)))
    ours, model.seen = model.seen, 0
    for t in range(17):
        theirs(model, 10, samples, 0, t)
    print(
        f"17 classes, {samples} samples: ours {ours} evaluations, captum {model.seen} (one run per class): {model.seen / ours:.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scans", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--regions", type=lambda text: tuple(map(int, text.split(","))), action="append", help="such as 2,2,2")
    parser.add_argument("--threads", type=int, default=2)
    o = parser.parse_args()
    torch.set_num_threads(o.threads)
    classes(200)
    compare(o)


if __name__ == "__main__":
    main()
