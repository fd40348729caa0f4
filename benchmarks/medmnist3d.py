"""The paper's Tables 1 and 3 and its Fig. 2 (Ziller et al. 2024): data set x model x seed, beside the paper's numbers.

    python benchmarks/medmnist3d.py --out grid --encoder-weights resnet18.pth                       # all of it: a GPU
    python benchmarks/medmnist3d.py --out grid --data adrenal,vessel --models attention,mean --seeds 3 \\
        --preset fast --encoder efficientnet-lite:efficientnet-lite0 --encoder-weights lite0.pth --slices 56
    python benchmarks/medmnist3d.py --out grid --table                                              # of what is there

Each cell is a training of its own (`radiolucent train`), so that a grid that was killed goes on where it was. Writes
OUT/table.csv, OUT/table.md and OUT/auroc-DATA.png.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from radiolucent.training import train
from radiolucent.training.figures import boxes
from radiolucent.training.recipe import from_tables

DATA = ("organ", "nodule", "fracture", "adrenal", "vessel", "synapse")
OUTPUTS = {"organ": 11, "fracture": 3}
POOLINGS = ("attention", "mean", "max", "lstm", "transformer", "gated")
KINDS = ("3d", "acs", "2.5d")

# AUROC and ACC in % of the data sets above. The paper's Table 3 prints seven columns under six names: Nodule stands twice, as
# its last row beside Table 1 shows, so that all later values are taken from one column further right.
_PAPER = """
3d           96.5 77.8  58.1 74.0  57.9 43.4  80.7 79.9  92.3 93.8  61.9 66.1
acs          99.2 89.7  79.0 81.9  58.1 43.8  79.1 80.1  84.3 91.0  61.5 71.1
attention    99.5 92.0  82.3 83.9  58.8 42.7  80.9 78.9  91.4 91.8  74.3 75.5
mean         99.6 91.4  86.9 85.3  58.3 43.3  87.0 81.9  93.1 88.7  83.7 80.1
max          99.2 88.5  84.9 84.7  57.6 42.3  76.3 79.9  84.3 89.8  68.0 72.2
lstm         99.4 92.2  84.6 82.3  56.1 40.2  78.9 76.3  88.3 89.9  70.7 72.0
transformer  97.1 78.1  67.3 80.8  58.3 40.2  65.9 76.8  59.8 88.7  62.7 73.4
"""
_LINES = [line.split() for line in _PAPER.strip().splitlines()]
PAPER = {name: {d: (float(v[2 * n]), float(v[2 * n + 1])) for n, d in enumerate(DATA)} for name, *v in _LINES}


def network(model: str, data: str, o: argparse.Namespace) -> dict[str, Any]:
    """[model] of a recipe."""
    arguments: dict[str, Any] = {"encoder": o.encoder, "outputs": OUTPUTS.get(data, 2)}
    if model in KINDS:
        name = "VolumeModel"
        arguments |= {"kind": model} | ({"size": [o.slices] * 3} if o.slices else {})
    else:
        name = "SliceModel"
        arguments |= {"pooling": model, "draw": o.draw, "width": o.width} | ({"size": [o.slices] * 2} if o.slices else {})
    weights = {"encoder_weights": str(o.encoder_weights.absolute())} if o.encoder_weights else {}
    return {"network": f"radiolucent:{name}", "arguments": arguments, **weights}


def recipe(model: str, data: str, o: argparse.Namespace) -> Any:
    asked = {"epochs": o.epochs, "frozen_epochs": o.frozen, "batch": o.batch, "encoder_rate": o.encoder_rate}
    tables = {
        "preset": o.preset,
        "training": {"name": f"{data} {model}", "seeds": list(range(o.seeds))},
        "data": {"medmnist": f"{data}mnist3d", "size": o.size},
        "preprocessing": {"preset": "eight-bit"},
        "model": network(model, data, o),
        "machine": {"device": o.device, "precision": o.precision, "features": str((o.out / data / "features").absolute())},
    }
    return from_tables(tables | {"optimiser": {key: value for key, value in asked.items() if value is not None}}, Path.cwd())


def cells(o: argparse.Namespace) -> list[tuple[str, str, Path]]:
    return [(data, model, o.out / data / model) for data in o.data for model in o.models]


def results(folder: Path) -> dict[str, list[float]]:
    """Measure -> its test values, one per seed that is done."""
    found: dict[str, list[float]] = {}
    for path in sorted(folder.glob("seed-*/metrics.json")):
        metrics = json.loads(path.read_bytes())
        for name, value in metrics["test"].items():
            found.setdefault(name, []).append(np.nan if value["mean"] is None else value["mean"])
        found.setdefault("minutes", []).append(metrics["seconds"] / 60)
    return found


def table(o: argparse.Namespace) -> None:
    """All cells that are there, beside the paper's."""
    rows = []
    for data, model, folder in cells(o):
        found = results(folder)
        if not found:
            continue
        row: dict[str, Any] = {"data": data, "model": model, "seeds": len(found["auroc"])}
        for name, place in (("auroc", 0), ("acc", 1)):
            paper = PAPER.get(model, {}).get(data)
            row |= {f"{name} %": round(100 * float(np.mean(found[name])), 1)}
            row |= {f"{name} sd": round(100 * float(np.std(found[name], ddof=1)), 1) if len(found[name]) > 1 else ""}
            row |= {f"{name} paper": paper[place] if paper else ""}
        rows.append(row | {"minutes per seed": round(float(np.mean(found["minutes"])), 1)})
    if not rows:
        print("nothing is done yet")
        return
    with (o.out / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    lines = [
        "| " + " | ".join(map(str, cells_)) + " |"
        for cells_ in [list(rows[0]), ["---"] * len(rows[0]), *[list(r.values()) for r in rows]]
    ]
    (o.out / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    for data in o.data:
        groups = {model: results(o.out / data / model).get("auroc", []) for model in o.models}
        groups = {model: values for model, values in groups.items() if values}
        if groups:
            (o.out / f"auroc-{data}.png").write_bytes(boxes(groups, f"test AUROC, {data}"))


def options(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=lambda text: text.split(","), default=list(DATA))
    parser.add_argument("--models", type=lambda text: text.split(","), default=[*KINDS[:2], *POOLINGS[:5]])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--preset", choices=("paper", "fast"), default="paper")
    for name, kind in {"epochs": int, "frozen": int, "batch": int, "encoder-rate": float}.items():
        parser.add_argument(f"--{name}", type=kind, help="in place of the preset's")
    parser.add_argument("--draw", type=int, default=0, help="in training, so many slices of each volume stand for all")
    parser.add_argument("--encoder", default="monai:resnet18", help="a 2D network, as SliceModel takes it")
    parser.add_argument("--encoder-weights", type=Path)
    parser.add_argument("--size", type=int, choices=(28, 64), default=28)
    parser.add_argument("--slices", type=int, default=0, help="resize slices (and volumes) to this many pixels")
    parser.add_argument("--width", type=int, default=0, help="reduce an encoder's features to this width before the pooling")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto")
    parser.add_argument("--precision", choices=("no", "fp16", "bf16"), default="no")
    parser.add_argument("--table", action="store_true", help="only the table of what is there")
    return parser.parse_args(given)


def main() -> None:
    o = options()
    o.out.mkdir(parents=True, exist_ok=True)
    for data, model, folder in [] if o.table else cells(o):
        print(f"{data} {model}", flush=True)
        train(recipe(model, data, o), folder, say=lambda text: print(f"  {text}", flush=True))
    table(o)


if __name__ == "__main__":
    main()
