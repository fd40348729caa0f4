"""Write the manifest of the 40 cases that the demo's model has not seen, for study.toml.

    python examples/hippocampus/cohort.py --data ../shared/data/hippocampus --out examples/hippocampus/manifest.csv
    radiolucent study run examples/hippocampus/study.toml --out hippocampus-study

Data: Medical Segmentation Decathlon Task04 (see train.py). It comes without covariates, so these are read off the
images: the crop's volume, and the range in which the grey values were stored.
"""

from __future__ import annotations

import argparse
import csv
import json
import warnings
from pathlib import Path

from radiolucent import InputWarning, demo, read

CARD = Path(demo.__file__).parent / "hippocampus" / "card.json"


def rows(data: Path) -> list[dict[str, object]]:
    found = []
    for name in json.loads(CARD.read_text())["about"]["held_out"]:
        image, label = (data / part / f"{name}.nii.gz" for part in ("images", "labels"))
        scan = read(image)
        found.append(
            {
                "case": name,
                "image": image.resolve(),
                "label": label.resolve(),
                "crop_ml": round(scan.data.size * scan.grid.voxel_mm3 / 1000, 2),
                "stored_as": "up to 255" if scan.data.max() < 256 else "above 255",
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        table = rows(arguments.data)
    with arguments.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    print(f"{len(table)} cases in {arguments.out}")


if __name__ == "__main__":
    main()
