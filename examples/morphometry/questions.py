"""Does a network read a volume off the structure that it measures? Numbers for SMOCAM and four other methods.

    python examples/morphometry/questions.py hippocampus --data ../shared/data/hippocampus
    python examples/morphometry/questions.py brains --data ../shared/data/brain_labels

Each takes about eight minutes on two quiet cores; the models are those of weights/, the answers go to answers/ beside
this file. All outputs are explained in one call. Scans are the first of the test set, on the model's own grid. Shares are
of |R|: evidence against counts as evidence for. Writes answers.json, table.csv (means over patients with 95 % bootstrap
intervals, over all outputs and for each), the tables of radiolucent.analysis about structures (density.csv and so on, what
their columns mean is in that package), and table.md, which it prints.

    share, mirror        share of the |R| on labels in the output's own structure, and in the same one of the other side
    density              that share over the structure's share of the labelled volume: 1 is chance
    index                (share - mirror) / (share + mirror)
    pointing, pointing@  1 if the peak of |R| lies in the structure; or so near to it
    deletion             how far the output moves, see deletion.py; the controls know nothing of the network
    unlabelled           share of all |R| where there is nothing: in the padding of a crop, in the air around a head
    seconds              for one output, all of them asked at once; methods that share a pass have equal parts of it
    at start, distance   |S(masked) - S| / sigma of SMOCAM's uniform first mask, and of its last
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from asking import Asking
from findings import TABLES, agreement, means_of, shares, structures, tables
from held_out import HELD_OUT, Scans
from pandas import DataFrame

import radiolucent as rl
from radiolucent.io import put
from radiolucent.methods import GradCAM, Gradient, HiResCAM, SmoCAM, SmoothGrad
from radiolucent.protocols import Method

HERE = Path(__file__).parent
LAYERS = ("blocks.0", "blocks.1", "blocks.2")
CHEAP = 0.1
"""SMOCAM's `norm` in the variant in which a structure costs less than it is worth: docs/smocam.md."""


def compared(smocam: dict[str, int], samples: int) -> dict[str, Method]:
    """The methods, by the name that tables give them; `smocam` has the most iterations at each layer."""
    named: dict[str, Method] = {"gradient": Gradient(), f"smooth-grad ({samples} samples)": SmoothGrad(samples=samples)}
    named |= {f"grad-cam at {layer}": GradCAM(layer) for layer in LAYERS}
    named |= {f"hires-cam at {layer}": HiResCAM(layer) for layer in LAYERS}
    named |= {f"smo-cam at {layer}": SmoCAM(layer, iterations=n) for layer, n in smocam.items()}
    last = list(smocam)[-1]
    adam = SmoCAM(last, iterations=smocam[last], optimiser="adam")
    return named | {f"smo-cam (adam) at {last}": adam, f"smo-cam (adam, norm {CHEAP}) at {last}": replace(adam, norm=CHEAP)}


def measured(model: Any, task: Scans) -> DataFrame:
    """The truth and the prediction of all test scans: case, patient, target, true, score."""
    rows = []
    with torch.inference_mode():
        for held in task(len(task)):
            said = model(torch.from_numpy(held.image.data)[None])[0].tolist()
            rows += [(held.name, held.patient, *of) for of in zip(task.own, held.truth, said, strict=True)]
    return DataFrame(rows, columns=["case", "patient", "target", "true", "score"])


def answers(
    task: Scans, model: Any, card: Any, scans: int, methods: dict[str, Method]
) -> tuple[dict[str, Any], dict[str, DataFrame]]:
    start = time.perf_counter()
    said = measured(model, task)
    asking, rows, attention = Asking(model, card, task, methods), [], []
    for held in task(scans):
        row, where = asking(held)
        rows, attention = rows + row, attention + where
        print(f"{held.name}: {time.perf_counter() - start:.0f} s", flush=True)
    about = {"mean": model.mean.tolist(), "spread": model.spread.tolist(), "source": "the training data", "unit": "mm3"}
    outputs = DataFrame({"target": list(task.own)} | about)
    table = structures(DataFrame(attention), said, outputs, task.structures)
    overall, by_output = means_of([*rows, *shares(table["own"], dict(zip(said["case"], said["patient"], strict=True)))])
    variation = dict(zip(outputs["target"], outputs["spread"] / outputs["mean"], strict=True))
    found = {
        "scans": scans,
        "test_scans": len(task),
        "methods": {name: repr(method) for name, method in methods.items()},
        "deletion": repr(asking.deletion),
        "tolerance_mm": task.tolerance_mm,
        "agreement": [row | {"variation": variation[row["output"]]} for row in agreement(said)],
        "overall": overall,
        "by_output": by_output,
        "seconds": round(time.perf_counter() - start),
        "threads": torch.get_num_threads(),
    }
    return found, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=HELD_OUT)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="the model's folder; default: weights/TASK beside this file")
    parser.add_argument("--out", type=Path, help="default: answers/TASK beside this file")
    parser.add_argument("--scans", type=int, default=0, help="0: as many as fit into eight minutes")
    parser.add_argument("--samples", type=int, default=0, help="of SmoothGrad; 0: the task's own")
    parser.add_argument("--iterations", type=int, default=0, help="of SMOCAM at most, at each layer; 0: the task's own")
    given = parser.parse_args()
    out = given.out or HERE / "answers" / given.task
    model, card = rl.load(str(given.model or HERE / "weights" / given.task))
    task = HELD_OUT[given.task](given.data)
    smocam = {layer: given.iterations or n for layer, n in task.smocam.items()}
    found, table = answers(task, model, card, given.scans or task.scans, compared(smocam, given.samples or task.samples))
    out.mkdir(parents=True, exist_ok=True)
    text = tables(found, table, task.tolerance_mm)
    put(out / "answers.json", json.dumps(found, indent=1).encode() + b"\n")
    put(out / "table.csv", DataFrame([*found["overall"], *found["by_output"]]).to_csv(index=False).encode())
    for name in TABLES:
        put(out / f"{name}.csv", table[name].to_csv(index=False).encode())
    put(out / "table.md", text.encode() + b"\n")
    print(text)


if __name__ == "__main__":
    main()
