"""What SMOCAM costs: only the network behind the layer in each iteration, and all outputs together.

    python benchmarks/smocam.py                        # the paper's input and network: about ten minutes on two quiet cores
    python benchmarks/smocam.py --shape 48,52,60       # does it work?
    python benchmarks/smocam.py --only optimisers      # objective against iterations

Three tables, each with everything measured in the same run:

- layers: seconds per 1,000 iterations for one output at four layers (masks of 55, 27, 14 and 6 cells along the first axis
  at 164x172x202, as in the paper's Table 1: 59, 56.6, 42, 38.2 s on its hardware), and the ratio to the same loop with the
  whole network run in each iteration. Ours is the difference of a long and a short run of the method, so that the prefix
  is not in it; the other loop's `--slow` iterations (3) are measured after one warm-up and multiplied: an iteration costs
  what the one before it costs. `prefix_s` is what the short run takes besides its iterations: paid once.
- outputs: all 165 outputs in one call against one call for each, prefix included, both for `--steps` iterations with the
  stop switched off. Of the calls one by one `--alone` (8) are measured and multiplied.
- optimisers: what the objective is after 50, 100, 200, ... iterations, for each optimiser.

The network (random weights): convolution + ReLU + max pooling three times, three dense layers, 165 outputs. The paper does
not say its widths and strides; these give its four mask sizes.
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from radiolucent import Outputs
from radiolucent.hooks import evaluating
from radiolucent.methods import SmoCAM
from radiolucent.methods.descent import Steps

LAYERS = {"pool1": "2", "pool2": "5", "relu3": "7", "pool3": "8"}
OUTPUTS = 165
ENDLESS = 10**9
"""A window that no run reaches: the stop is switched off."""


def network(shape: tuple[int, ...], widths: tuple[int, ...], dense: int) -> nn.Sequential:
    a, b, c = widths
    features = [nn.Conv3d(1, a, 3, padding=1), nn.ReLU(), nn.MaxPool3d(3, ceil_mode=True)]
    features += [nn.Conv3d(a, b, 3, padding=1), nn.ReLU(), nn.MaxPool3d(2)]
    features += [nn.Conv3d(b, c, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool3d(3, 2)]
    with torch.no_grad():
        size = nn.Sequential(*features)(torch.zeros(1, 1, *shape)).numel()
    head = [nn.Flatten(), nn.Linear(size, dense), nn.ReLU(), nn.Linear(dense, dense), nn.ReLU(), nn.Linear(dense, OUTPUTS)]
    return nn.Sequential(*features, *head).eval()


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def whole(net: nn.Sequential, x: Tensor, at: int, method: SmoCAM, count: int) -> float:
    """Seconds per iteration of the loop that runs the whole network each time (the graph begins at the mask)."""
    with evaluating(net):
        with torch.no_grad():
            A = net[: at + 1](x)
            S = net[at + 1 :](A)[:, 0][None]
        M = torch.full((1, 1, 1, *A.shape[2:]), 1.1 / A[0, 0].numel() ** 0.5)
        steps, times = Steps("gradient", method.step, 0.99), []
        for _ in range(count + 1):
            start = time.perf_counter()
            M = M.detach().requires_grad_()
            now = method.parts(M, net[at + 1 :](net[: at + 1](x) * M[0])[:, 0][None], S, torch.ones(1, 1))
            (G,) = torch.autograd.grad(now.sum(), M)
            M = steps.next(M.detach(), G, now.detach().sum(0))
            times.append(time.perf_counter() - start)
    return sum(times[1:]) / count


def layers(net: nn.Sequential, x: Tensor, o: argparse.Namespace) -> None:
    for name, layer in LAYERS.items():
        with torch.no_grad():
            cells = tuple(net[: int(layer) + 1](x).shape[2:])
        quick = {"pool1": max(5, o.steps // 20), "pool2": o.steps}.get(name, 10 * o.steps)
        make = partial(SmoCAM, layer, 1.0, window=ENDLESS)
        make(iterations=1)(net, x, Outputs(0))
        short = timed(lambda make=make: make(iterations=1)(net, x, Outputs(0)))
        long = timed(lambda make=make, quick=quick: make(iterations=1 + quick)(net, x, Outputs(0)))
        ours = max(long - short, 1e-9) / quick
        slow = whole(net, x, int(layer), make(), o.slow)
        row = {"layer": name, "mask": cells, "s_per_1000": round(1000 * ours, 2), "whole_network_s_per_1000": round(1000 * slow, 1)}
        print(json.dumps(row | {"ratio": round(slow / ours, 2), "prefix_s": round(short, 2)}), flush=True)


def outputs(net: nn.Sequential, x: Tensor, o: argparse.Namespace) -> None:
    for name in o.layers.split(","):
        method = SmoCAM(LAYERS[name], 1.0, iterations=o.steps, window=ENDLESS)
        together = timed(lambda method=method: method(net, x, Outputs(*range(OUTPUTS))))
        alone = timed(lambda method=method: [method(net, x, Outputs(t)) for t in range(o.alone)]) / o.alone * OUTPUTS
        row = {"layer": name, "outputs": OUTPUTS, "iterations": o.steps, "together_s": round(together, 2)}
        print(json.dumps(row | {"one_by_one_s": round(alone, 1), "ratio": round(alone / together, 2)}), flush=True)


def _total(curve: dict[str, list[float]]) -> dict[int, float]:
    """Iteration -> objective."""
    parts = zip(curve["distance"], curve["norm"], curve["smooth"], strict=True)
    return dict(zip(curve["iteration"], map(sum, parts), strict=True))


def optimisers(net: nn.Sequential, x: Tensor, o: argparse.Namespace) -> None:
    """With an output's spread over images of noise as sigma."""
    with torch.no_grad():
        sigma = torch.cat([net(torch.rand_like(x) * (0.5 + 0.1 * i)) for i in range(8)]).std(0)
    at = (0, 50, 100, 200, 400, 800, 1200, 1600, 2000)
    for kind in ("paper", "adam"):
        for differences in ("mean", "sum"):
            method = SmoCAM(LAYERS["relu3"], optimiser=kind, differences=differences)
            _, rows = method.given(sigma[:5].tolist()).detailed(net, x, Outputs(*range(5)))
            curves = [_total(row["curve"]) for row in rows]
            mean = {i: round(sum(c[max(j for j in c if j <= i)] for c in curves) / len(curves), 4) for i in at}
            ends = {"iterations": [r["iterations"] for r in rows], "converged": sum(r["converged"] for r in rows)}
            print(json.dumps({"optimiser": kind, "differences": differences, "objective": mean} | ends), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="164,172,202")
    parser.add_argument("--widths", default="16,32,64", help="channels of the three convolutions")
    parser.add_argument("--dense", type=int, default=128, help="width of the dense layers")
    parser.add_argument("--steps", type=int, default=100, help="iterations that are measured")
    parser.add_argument("--slow", type=int, default=3)
    parser.add_argument("--alone", type=int, default=8)
    parser.add_argument("--layers", default="relu3,pool3", help="for the outputs together: among pool1, pool2, relu3, pool3")
    parser.add_argument("--only", choices=("layers", "outputs", "optimisers"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    o = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(o.threads)
    torch.manual_seed(0)
    shape = tuple(map(int, o.shape.split(",")))
    net, x = network(shape, tuple(map(int, o.widths.split(","))), o.dense), torch.rand(1, 1, *shape)
    parts = {f.__name__: f for f in (layers, outputs, optimisers)}
    for name, part in parts.items():
        if o.only in (None, name):
            part(net, x, o)


if __name__ == "__main__":
    main()
