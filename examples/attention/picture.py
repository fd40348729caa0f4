"""The README's picture: a scan with the weights of its slices, the slice of the highest one, and a 3D model's map beside.

python examples/attention/picture.py CASES/1526.nii.gz --model MODEL --beside MODEL3D --out docs/attention.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from radiolucent import Logits, load, predict, read
from radiolucent.explanation import slices_of
from radiolucent.methods import HiResCAM, SliceAttention, SliceCAM
from radiolucent.report import figures, slices
from radiolucent.report.picture import Picture, background, picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan")
    parser.add_argument("--model", required=True)
    parser.add_argument("--beside", help="a model that does not pool slices")
    parser.add_argument("--out", type=Path, required=True)
    o = parser.parse_args()
    scan = read(o.scan)
    attention, within = explained(o.model, scan, (SliceAttention(), SliceCAM()))
    maps: list[tuple[str, Picture]] = []
    if o.beside:
        (other,) = explained(o.beside, scan, (HiResCAM(),))
        maps = [("3D model, HiResCAM", picture(other.relevance[0]))]
    weights = slices_of(attention, attention.targets[0])
    figure = slices.attention(background(scan), weights, picture(within.relevance[0]), maps)
    o.out.write_bytes(figures.png(figure, 90))
    print(attention.targets[0], *slices.words(attention.provenance["details"][0]), sep="\n")


def explained(folder: str, scan, methods):
    """By the model's own card, for the class that it predicts."""
    model, card = load(folder)
    prediction = predict(model, scan, card.preprocessing)
    return prediction.explain(methods, Logits(int(prediction.output.argmax())), classes=card.classes)


if __name__ == "__main__":
    main()
