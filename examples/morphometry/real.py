"""Does the brains' model, which has seen phantoms alone, measure real T1 scans too?

    python examples/morphometry/real.py --data ../shared/data/ixi

IXI scans with the volumes of their parcellations (MUSE numbering), as RADIOLUCENT_DATA has them: t1/, parcellation/ and
regions.tsv with the columns index, name, hemisphere. Prints for each output that the parcellation has: the mean of both in
mm3, and Pearson's r over the scans.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

import radiolucent as rl

MODEL = Path(__file__).parent / "weights" / "brains"


def volumes(path: Path, numbers: dict[str, int]) -> list[float]:
    """mm3 of each label."""
    scan = rl.read(path)
    return [float((scan.data == number).sum()) * scan.grid.voxel_mm3 for number in numbers.values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    model, card = rl.load(MODEL)
    regions = pd.read_csv(data / "regions.tsv", sep="\t")
    sides = regions["name"] + regions["hemisphere"].map(lambda side: "" if side == "midline" else f" ({side})")
    numbers = {name: int(n) for name, n in zip(sides, regions["index"], strict=True) if name in card.classes}
    scans = sorted((data / "t1").glob("*.nii.gz"))
    true = np.array([volumes(path, numbers) for path in sorted((data / "parcellation").glob("*.nii.gz"))])
    said = [rl.predict(model, rl.read(path), preprocessing=card.preprocessing).output[0].numpy() for path in scans]
    print(f"{'output':36} {'true mm3':>9} {'predicted':>9}     r   of {len(scans)} scans")
    for i, name in enumerate(numbers):
        t, p = true[:, i], np.array(said)[:, card.classes.index(name)]
        print(f"{name:36} {t.mean():9.0f} {p.mean():9.0f} {np.corrcoef(t, p)[0, 1]:5.2f}")


if __name__ == "__main__":
    main()
