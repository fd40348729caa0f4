"""Is a planted bias found? Burn a letter into images of one class, train on them, and hunt.

    python examples/anatomy/planted.py burn --share 0.95 --out PLANTED      # images, cases.csv, planted.toml
    radiolucent train PLANTED/planted.toml --out PLANTED/training           # about as long as deeper.toml
    python examples/anatomy/planted.py hunt PLANTED --model PLANTED/training --clean TRAINING/deeper

`burn` writes every image again, with a white letter in a corner that is free: in `--share` of the images of
`--class`, and in `--elsewhere` of all others, in training and validation. In the test images the letter comes by chance in
half of every class, so that it says nothing of the class, and the images of all classes can be compared with and without.

`hunt` asks the network that was trained on these, and one that has never seen a letter, about the same test images. It is
the hunt of `radiolucent hunt` with the letter as a covariate, and it says for each network whether the letter was found: a
test over all cases of the response outside the anatomy, on marks, on the border or in the background with q < 0.05, and more
of it where the letter is. Deep units respond to a letter in a wide field around it, which is background to the rule.
Each is asked twice: where is what speaks for the class that it says, and where is what speaks for `--class`? On an image of a leg
that is called one, the letter speaks against what is explained, and only the second question sees it.
Known failure: a white letter is a strong edge, and any network responds to it a little. So beside the verdict stands how
much of the response moves, and how much of the accuracy the letter costs.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from landmarks import as_markdown
from numpy.typing import NDArray
from pandas import DataFrame
from PIL import Image, ImageDraw, ImageFont

import radiolucent as rl
from radiolucent.landmarks import radiograph_parts
from radiolucent.methods import AttentiveResponse
from radiolucent.study.hunting import Asked, Hunted, hunt_table

HERE = Path(__file__).parent
LETTER = "L"
SIZE = 34
"""Pixels of the letter's height, where the longest side of the image is 256."""
MARGIN = 10


def burnt(pixels: NDArray[np.uint8], taken: NDArray[np.bool_], letter: str = LETTER) -> NDArray[np.uint8]:
    """The image with a white letter in the corner that has least in it: body, film edge, other letters."""
    rows, columns = pixels.shape
    low, right = rows - SIZE - MARGIN, columns - SIZE - MARGIN
    corners = [(top, left) for top in (MARGIN, low) for left in (MARGIN, right)]
    top, left = min(corners, key=lambda at: int(taken[at[0] : at[0] + SIZE, at[1] : at[1] + SIZE].sum()))
    picture = Image.fromarray(pixels)
    place = (left + SIZE // 2, top + SIZE // 2)
    ImageDraw.Draw(picture).text(place, letter, fill=255, font=ImageFont.load_default(SIZE), anchor="mm")
    return np.asarray(picture)


def with_letter(cases: DataFrame, chosen: str, share: float, elsewhere: float, seed: int) -> NDArray[np.bool_]:
    """Which cases get the letter: by class in training and validation, half of every class in the test.

    All images of a patient have one or none: a covariate that differs between them could not be tested.
    """
    rates = np.where(cases["label"] == chosen, share, elsewhere)
    rates = np.where(cases["split"] == "test", 0.5, rates)
    names, number = np.unique(cases["patient"].to_numpy(str), return_inverse=True)
    return np.random.default_rng(seed).random(len(names))[number] < rates


def burn(table: Path, out: Path, chosen: str, share: float, elsewhere: float, seed: int = 0, size: int = 128) -> DataFrame:
    """Write images, cases.csv with the column letter, and planted.toml; returns the table."""
    cases = pd.read_csv(table, dtype={"case": str, "patient": str})
    cases["letter"] = with_letter(cases, chosen, share, elsewhere, seed)
    (out / "images").mkdir(parents=True, exist_ok=True)
    for case in cases.to_dict("records"):
        scan = rl.read(table.parent / case["image"])
        pixels = scan.data[0].astype(np.uint8)
        if case["letter"]:
            parts = radiograph_parts(scan)
            pixels = burnt(pixels, ~parts["background"])
        Image.fromarray(pixels).save(out / "images" / f"{case['case']}.png")
    cases["image"] = [f"images/{case}.png" for case in cases["case"]]
    cases.to_csv(out / "cases.csv", index=False)
    recipe = (HERE / "deeper.toml").read_text().replace('name = "anatomy-deeper"', 'name = "anatomy-planted"')
    (out / "planted.toml").write_text(recipe)
    return cases


def asked_about(table: Path, model: Path, target: str) -> Hunted:
    """The hunt in the test images with the letter as the one covariate."""
    network, card = rl.load(model)
    method = AttentiveResponse(card.layer, ranking="score")
    return hunt_table(table, network, card, Asked(method, target=target, split="test", covariates=("letter",)))


def findings(hunted: Hunted, chosen: str) -> Mapping[str, Any]:
    """What the hunt says of the letter, and what the letter does."""
    tests = hunted.hunt.tests
    tests = tests[tests["target"] == "all"].set_index("region")
    ranking = hunted.hunt.ranking.merge(hunted.manifest[["case", "letter"]], on="case")
    there = ranking["letter"].astype(bool)
    places = {"outside": "", "marks": "marks", "border": "border", "background": "background"}
    more = {name: float(ranking.loc[there, name].mean() - ranking.loc[~there, name].mean()) for name in places}
    q = {name: float(tests.loc[region, "q"]) for name, region in places.items()}
    found = [name for name in places if q[name] < 0.05 and more[name] > 0]
    others = ranking["truth"] != chosen
    return {
        "found": bool(found),
        "by": ", ".join(found),
        **{f"{name} with letter - without": value for name, value in more.items()},
        **{f"q ({name})": value for name, value in q.items()},
        "accuracy with letter": float(ranking.loc[there, "correct"].mean()),
        "accuracy without": float(ranking.loc[~there, "correct"].mean()),
        f"others taken for {chosen} with letter": float((ranking["predicted"] == chosen)[there & others].mean()),
        f"others taken for {chosen} without": float((ranking["predicted"] == chosen)[~there & others].mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest="step", required=True)
    first = steps.add_parser("burn", help="write the images with letters, their table and their recipe")
    first.add_argument("--table", type=Path, default=HERE / "cases.csv", help="what table.py made")
    first.add_argument("--out", type=Path, required=True)
    first.add_argument("--class", dest="chosen", default="hand")
    first.add_argument("--share", type=float, default=0.95, help="of the class's images that bear the letter")
    first.add_argument("--elsewhere", type=float, default=0.02, help="of all other images")
    then = steps.add_parser("hunt", help="ask a network that was trained on them, and a clean one")
    then.add_argument("folder", type=Path)
    then.add_argument("--model", type=Path, required=True)
    then.add_argument("--clean", type=Path, help="a network that has not seen the letter")
    then.add_argument("--class", dest="chosen", default="hand")
    given = parser.parse_args()
    if given.step == "burn":
        cases = burn(given.table, given.out, given.chosen, given.share, given.elsewhere)
        print(pd.crosstab([cases["split"], cases["label"]], cases["letter"]))
        print(
            f"then: radiolucent train {os.path.relpath(given.out / 'planted.toml')} --out {os.path.relpath(given.out / 'training')}"
        )
        return
    models = {"planted": given.model} | ({"clean": given.clean} if given.clean else {})
    rows = []
    for (name, path), target in product(models.items(), ("", given.chosen)):
        hunted = asked_about(given.folder / "cases.csv", path, target)
        rows.append({"network": f"{name}, {target or 'what it says'}"} | dict(findings(hunted, given.chosen)))
    table = DataFrame(rows).set_index("network").T.reset_index(names="")
    print(as_markdown(table))
    for row in rows:
        print(f"{row['network']}: the letter was {'FOUND, by the response on ' + row['by'] if row['found'] else 'not found'}")


if __name__ == "__main__":
    main()
