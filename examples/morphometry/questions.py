"""Does a network read a volume off the structure that it measures? Numbers for SMOCAM and four other methods.

    python examples/morphometry/questions.py hippocampus --data ../shared/data/hippocampus
    python examples/morphometry/questions.py brains --data ../shared/data/brain_labels

Each takes about eight minutes on two quiet cores; the models are those of weights/, the answers go to answers/ beside
this file. All outputs are explained in one call. Scans are the first of the test set, on the model's own grid. Shares are
of |R|: evidence against counts as evidence for. Writes answers.json (everything), table.csv (means over scans with 95 %
bootstrap intervals, over all outputs and for each), regions.csv (attention per structure) and table.md, which it prints.

    share, mirror        share of |R| in the output's own structure, and in the same structure of the other side
    density              that share over the structure's share of what is labelled (crop, head): 1 is chance
    own side             (own - mirror) / (own + mirror), of the densities
    pointing, pointing@  1 if the peak of |R| lies in the structure; or so near to it
    deletion             how far the output moves, see deletion.py; the controls know nothing of the network
    unlabelled           share of |R| where there is nothing: in the padding of a crop, in the air around a head
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

import numpy as np
import torch
from asking import Asking
from findings import agreement, asymmetry, by_structure, means_of, relations, sidedness, tables
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


def measured(model: Any, task: Scans) -> tuple[np.ndarray, np.ndarray]:
    """The truth and the prediction of all test scans (scans, outputs)."""
    held = list(task(len(task)))
    with torch.inference_mode():
        said = torch.cat([model(torch.from_numpy(h.image.data)[None]) for h in held])
    return np.array([h.truth for h in held]), said.double().numpy()


def answers(task: Scans, model: Any, card: Any, scans: int, methods: dict[str, Method]) -> tuple[dict[str, Any], DataFrame]:
    start = time.perf_counter()
    truth, said = measured(model, task)
    asking, rows, attention = Asking(model, card, task, methods), [], []
    for held in task(scans):
        row, where = asking(held)
        rows, attention = rows + row, attention + where
        print(f"{held.name}: {time.perf_counter() - start:.0f} s", flush=True)
    overall, by_output = means_of(rows)
    outputs, frame = list(task.own), DataFrame(attention)
    agrees = agreement(outputs, truth, said)
    variation = {o: float(s / m) for o, s, m in zip(outputs, model.spread, model.mean, strict=True)}
    found = {
        "scans": scans,
        "test_scans": len(truth),
        "methods": {name: repr(method) for name, method in methods.items()},
        "deletion": repr(asking.deletion),
        "tolerance_mm": task.tolerance_mm,
        "agreement": [row | {"variation": variation[row["output"]]} for row in agrees],
        "overall": overall,
        "by_output": by_output,
        "relations": relations(by_output, variation, {row["output"]: row["ICC(2,1)"] for row in agrees}),
        "sides": sidedness(frame, task.pairs) if task.pairs else [],
        "asymmetry": asymmetry(outputs, task.pairs, truth, said),
        "seconds": round(time.perf_counter() - start),
        "threads": torch.get_num_threads(),
    }
    return found, by_structure(frame)


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
    found, regions = answers(task, model, card, given.scans or task.scans, compared(smocam, given.samples or task.samples))
    out.mkdir(parents=True, exist_ok=True)
    text = tables(found, task.tolerance_mm)
    put(out / "answers.json", json.dumps(found, indent=1).encode() + b"\n")
    put(out / "table.csv", DataFrame([*found["overall"], *found["by_output"]]).to_csv(index=False).encode())
    put(out / "regions.csv", regions.to_csv(index=False).encode())
    put(out / "table.md", text.encode() + b"\n")
    print(text)


if __name__ == "__main__":
    main()
