"""The test volumes of a MedMNIST3D data set as NIfTI files, with the table cases.csv: what `radiolucent explain` takes.

python examples/attention/cases.py vesselmnist3d --out CASES
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

from radiolucent import Volume, write
from radiolucent.training.medmnist import read_medmnist


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--out", type=Path, required=True)
    o = parser.parse_args()
    data = read_medmnist(o.name, say=print)
    o.out.mkdir(parents=True, exist_ok=True)
    with (o.out / "cases.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("image", "label"))
        for number in np.flatnonzero(np.array(data.splits) == "test"):
            name, label = f"{number:04d}.nii.gz", data.classes[data.labels[number]]
            write(o.out / name, Volume(data.images[number][None], np.eye(4)))
            table.writerow((name, label))


if __name__ == "__main__":
    main()
