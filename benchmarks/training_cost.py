"""The paper's Table 2 (Ziller et al. 2024): trainable parameters, peak memory and seconds per epoch of one scan's training.

    python benchmarks/training_cost.py                                # 224x224x128, batch 2, on a GPU where there is one
    python benchmarks/training_cost.py --shape 56,56,32 --steps 2     # a try

One process per row, so that no peak is another's. Seconds per epoch are those of `--steps` steps, extrapolated to the paper's
975 scans; the first step is not counted. The paper: 3D 33.2 M, 15821 MiB, 744 s; ACS 11.2 M, 14475 MiB, 223 s; attention
12.2 M, 19091 MiB, 434 s (batch 2 on a GPU).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any

import torch
from torch.nn import functional as F

from radiolucent.models.loading.factories import build
from radiolucent.provenance import peak_memory

SCANS = 975
PAPER = {"3d": (33.2, 15821, 744.1), "acs": (11.2, 14475, 222.7), "attention": (12.2, 19091, 434.3)}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "3d": ("VolumeModel", {"kind": "3d"}),
    "acs": ("VolumeModel", {"kind": "acs"}),
    "attention": ("SliceModel", {"pooling": "attention"}),
    "attention, chunks of 32, checkpoints": ("SliceModel", {"pooling": "attention", "chunk": 32, "checkpoint": True}),
    "attention, encoder frozen": ("SliceModel", {"pooling": "attention", "chunk": 32}),
    "attention, features cached": ("SliceModel", {"pooling": "attention", "chunk": 32}),
}


def measure(name: str, o: argparse.Namespace) -> dict[str, Any]:
    """Steps of NAdam as in the paper's recipe."""
    torch.manual_seed(0)
    kind, arguments = MODELS[name]
    device = torch.device("cuda" if torch.cuda.is_available() and not o.cpu else "cpu")
    model = build(f"radiolucent:{kind}", {"encoder": o.encoder, "outputs": 2, **arguments}, trust=False).to(device)
    model.requires_grad_(True).train()
    frozen, cached = "frozen" in name or "cached" in name, "cached" in name
    if frozen:
        model.encoder.requires_grad_(False)  # type: ignore[union-attr]
        model.encoder.eval()  # type: ignore[union-attr]
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    x, y = torch.randn(o.batch, 1, *o.shape, device=device), torch.zeros(o.batch, dtype=torch.long, device=device)
    given = model.features(x).detach() if cached else x  # type: ignore[operator]
    optimiser = torch.optim.NAdam([p for p in model.parameters() if p.requires_grad], lr=2e-4)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(o.steps + 1):
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=o.bf16):
            output = model.from_features(given) if cached else model(given)  # type: ignore[operator]
        F.cross_entropy(output.float(), y).backward()
        optimiser.step()
        optimiser.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    mean = sum(times[1:]) / o.steps
    paper = PAPER.get(name, ("", "", ""))
    return {
        "model": name,
        "trainable parameters (M)": round(parameters / 1e6, 1),
        "paper (M)": paper[0],
        "peak MiB": peak_memory(x),
        "paper MiB": paper[1],
        "s per step": round(mean, 3),
        f"s per epoch of {SCANS}": round(mean * SCANS / o.batch, 1),
        "paper s": paper[2],
        "device": str(device),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=lambda text: tuple(map(int, text.split(","))), default=(224, 224, 128))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--encoder", default="monai:resnet18")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--only", choices=list(MODELS), help="one row, as JSON, in this process")
    o = parser.parse_args()
    if o.only:
        print(json.dumps(measure(o.only, o)))
        return
    rows = []
    for name in MODELS:
        done = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--only", name], capture_output=True, text=True, check=False
        )
        last = done.stderr.strip().splitlines()[-1:] or ["no word"]
        rows.append(json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"model": name, "failed": last[0]})
        print(json.dumps(rows[-1]), flush=True)


if __name__ == "__main__":
    main()
