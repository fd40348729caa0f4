"""Where the response of trained networks lies on real test images: bone, soft tissue, film and markers, fractures.

    python examples/anatomy/landmarks.py TRAINING/shallow TRAINING/deeper TRAINING/augmented --data ../shared/data/fracatlas
    python examples/anatomy/landmarks.py TRAINING/fracture --data ../shared/data/fracatlas --out examples/anatomy/answers/fracture

Networks are compared on the same images, in the order given: each with the one before it. Written are landmarks.csv (a row per
network, class and place), differences.csv (paired, with intervals over patients) and responses.csv (every image); the first
two are printed as tables for a page. `--sheet` draws what is taken for bone on twelve images instead.

For a network of the regions the class that it says is explained; for one of fractures "fractured" is, on fractured images.
With ranking=sum (the paper's) the map does not know the target, with ranking=score it does.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from fracatlas import Fractures
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pandas import DataFrame
from torch import nn

import radiolucent as rl
from radiolucent.analysis import effects
from radiolucent.io.tables import write_table
from radiolucent.landmarks import correspondence, landmark_table, radiograph_parts
from radiolucent.methods import AttentiveResponse
from radiolucent.models import Card
from radiolucent.report.figures import png
from radiolucent.statistics import bootstrap_mean

HERE = Path(__file__).parent
BROKEN = "fractured"
COMPARED = ("share", "enrichment", "hit", "overlap", "rank_correlation")
COLOURS = {"bone": (1.0, 0.3, 0.2), "soft tissue": (0.2, 0.6, 1.0), "marks": (1.0, 1.0, 0.0)}


def read_cases(table: Path, split: str, most: int) -> DataFrame:
    """The cases of a split; of each class the first `most` (0: all)."""
    cases = pd.read_csv(table, dtype={"case": str, "patient": str})
    cases = cases[cases["split"] == split]
    cases["image"] = [table.parent / image for image in cases["image"]]
    return cases.groupby(["label", "fracture"]).head(most) if most else cases


def places(scan: rl.Volume, fracture: NDArray[np.bool_]) -> tuple[dict[str, NDArray[np.bool_]], dict[str, NDArray[np.bool_]]]:
    """Landmarks, of which the body is all others together, and annotations."""
    parts = radiograph_parts(scan)
    found = {"fracture": fracture} if fracture.any() else {}
    found |= {name: parts[name] & ~fracture for name in ("bone", "soft tissue")}
    found["body"] = np.any(list(found.values()), axis=0)
    return found, {"marks": parts["marks"] & ~fracture}


def responses(
    name: str, model: nn.Module, card: Card, cases: DataFrame, fractures: Fractures, rankings: Sequence[str]
) -> Iterator[Mapping[str, Any]]:
    """Rows of correspondence for every image, with who was asked and whether it was right."""
    broken = BROKEN in card.classes
    for case in cases[cases["fracture"] == BROKEN].to_dict("records") if broken else cases.to_dict("records"):
        scan = rl.read(case["image"])
        prediction = rl.predict(model, scan, card.preprocessing)
        said = int(prediction.output.argmax(1)[0])
        target = rl.Logits(card.classes.index(BROKEN) if broken else said)
        masks, marks = places(scan, fractures.mask(case["case"], scan.grid) if broken else np.zeros(scan.grid.shape, bool))
        methods = [AttentiveResponse(card.layer, ranking=ranking) for ranking in rankings]
        failed: list[tuple[Any, rl.BadInput]] = []
        found = prediction.explain(methods, target, failed=lambda *why, failed=failed: failed.append(why))
        for explanation in found:
            about = {"case": case["case"], "model": name, "ranking": explanation.method.ranking, "class": case["label"]}
            about |= {"correct": card.classes[said] == case["fracture" if broken else "label"]}
            yield from (about | row for row in correspondence(explanation.relevance[0], masks, annotations=marks))
        for method, reason in failed:
            print(f"{case['case']}, {name}, {method.ranking}: {reason}")


def differences(rows: DataFrame, patients: Mapping[str, str], models: Sequence[str]) -> DataFrame:
    """What each network has more than the one before it, on the same images: means of the patients' differences."""
    found = []
    for (ranking, landmark), group in rows.groupby(["ranking", "landmark"], sort=False):
        for before, after in pairwise(models):
            for measure in COMPARED:
                wide = group.pivot(index="case", columns="model", values=measure).dropna(subset=[before, after])
                each = (wide[after] - wide[before]).groupby(wide.index.map(patients)).mean().to_numpy(float)
                mean, test = bootstrap_mean(each), effects.signed(each)
                about = {"ranking": ranking, "landmark": landmark, "measure": measure, "difference": f"{after} - {before}"}
                found.append(about | {"mean": mean.mean, "low": mean.low, "high": mean.high, "patients": mean.n, "p": test.p})
    table = DataFrame(found)
    return table.assign(q=effects.q_values(table["p"].to_numpy(float))) if len(table) else table


def as_markdown(table: DataFrame) -> str:
    def text(value: Any) -> str:
        return f"{value:.3f}" if isinstance(value, float) else str(value)

    lines = [list(table.columns), ["---"] * len(table.columns), *([text(v) for v in row] for row in table.itertuples(index=False))]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def sheet(cases: DataFrame, each: int, seed: int) -> Figure:
    """What is taken for bone (red), soft tissue (blue) and marks (yellow), on `each` images of every region."""
    chosen = cases.groupby("label", sort=False).sample(each, random_state=seed)
    figure = Figure(figsize=(20, 11), layout="constrained")
    axes = figure.subplots(3, -(-2 * len(chosen) // 3), squeeze=False).ravel()
    for n, case in enumerate(chosen.to_dict("records")):
        scan = rl.read(case["image"])
        parts = radiograph_parts(scan)
        grey = (scan.data[0] / scan.data.max()) ** 0.6
        coloured = np.repeat(grey[..., None], 3, 2)
        for name, colour in COLOURS.items():
            coloured[parts[name]] = 0.55 * coloured[parts[name]] + 0.45 * np.array(colour)
        axes[2 * n].imshow(grey, cmap="gray")
        axes[2 * n].set_title(f"{case['case']}, {case['label']}", fontsize=8)
        axes[2 * n + 1].imshow(coloured)
        axes[2 * n + 1].set_title(", ".join(f"{name} {mask.mean():.0%}" for name, mask in parts.items()), fontsize=7)
    for axis in axes:
        axis.set_axis_off()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path, help="folders of `radiolucent train`, in the order of the comparison")
    parser.add_argument("--data", type=Path, required=True, help="FracAtlas: COCO_fracture_masks.json")
    parser.add_argument("--table", type=Path, default=HERE / "cases.csv", help="what table.py made")
    parser.add_argument("--out", type=Path, default=HERE / "answers" / "anatomy")
    parser.add_argument("--ranking", nargs="+", default=["sum", "score"], choices=["sum", "score", "max"])
    parser.add_argument("--split", default="test")
    parser.add_argument("--most", type=int, default=0, help="only so many images of each kind, for a try")
    parser.add_argument("--sheet", type=Path, help="draw what is taken for bone into this PNG, and nothing else")
    given = parser.parse_args()
    cases = read_cases(given.table, given.split, given.most)
    if given.sheet:
        given.sheet.write_bytes(png(sheet(cases, 3, 0)))
        return
    loaded = {path.name: rl.load(path) for path in given.models}
    fractures = Fractures(given.data)
    rows = DataFrame(
        row for name, (model, card) in loaded.items() for row in responses(name, model, card, cases, fractures, given.ranking)
    )
    owner = dict(zip(cases["case"], cases["patient"], strict=True))
    whole = landmark_table(rows, ["ranking", "model"], patients=owner).assign(**{"class": "all"})
    by_class = landmark_table(rows, ["ranking", "model", "class"], patients=owner)
    tables = {"landmarks": pd.concat([whole, by_class]), "differences": differences(rows, owner, list(loaded)), "responses": rows}
    given.out.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        write_table(given.out / f"{name}.csv", table.to_dict("records"))
    shown = ["ranking", "model", "class", "landmark", "n", "area", "share", "low", "high", "enrichment", "hit", "q"]
    print(as_markdown(tables["landmarks"][shown]), end="\n\n")
    if len(tables["differences"]):
        print(as_markdown(tables["differences"].query("measure in ('share', 'enrichment')")))


if __name__ == "__main__":
    main()
