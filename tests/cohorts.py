"""A cohort that costs nothing: a network without weights to learn, images with a bright ball, labels of the ball."""

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from radiolucent.study import read_recipe
from radiolucent.study import run as run_study

NETWORK = '''
"""Three classes by the smoothed brightness; kills its process at an image above 1000, and is slow on wish."""
import os, signal, time
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blur = nn.Conv3d(1, 1, 3, padding=1, bias=False)
        self.classes = nn.Conv3d(1, 3, 1)
        with torch.no_grad():
            self.blur.weight.fill_(1 / 27)
            self.classes.weight.copy_(torch.tensor([0.0, 4.0, 12.0]).reshape(3, 1, 1, 1, 1))
            self.classes.bias.copy_(torch.tensor([float(os.environ.get("TINY_BIAS", "0.5")), -1.0, -7.0]))

    def forward(self, x):
        if x.max() > 1000:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(float(os.environ.get("TINY_SLEEP", "0")))
        return self.classes(self.blur(x))
'''

RECIPE = """
[study]
name = "balls"
[cohort]
manifest = "cases.csv"
[model]
model = "tinynet:Net"
[explain]
targets = ["1", "2"]
methods = [{ method = "gradient" }, { method = "smooth-grad", samples = 3 }, { method = "grad-cam", layer = "blur" }]
[regions]
near_mm = [2.0]
joined = { ball = ["label 1", "label 2"] }
[keep]
thumbnails = false
"""


def write_world(folder: Path, cases: int = 4) -> Path:
    """Images, labels, cases.csv, tinynet.py and recipe.toml in a folder, which must be the current one; the recipe's path."""
    (folder / "tinynet.py").write_text(NETWORK)
    (folder / "recipe.toml").write_text(RECIPE)
    lines = ["case,image,label,age,site"]
    for number in range(cases):
        name = f"case_{number}"
        write_case(folder, name, number)
        lines.append(f"{name},images/{name}.nii.gz,labels/{name}.nii.gz,{50 + number},{'AB'[number % 2]}")
    (folder / "cases.csv").write_text("\n".join(lines) + "\n")
    return folder / "recipe.toml"


def write_case(folder: Path, name: str, seed: int, brightness: float = 1.0) -> None:
    random = np.random.default_rng(seed)
    place = np.stack(np.meshgrid(*[np.arange(12)] * 3, indexing="ij"), -1)
    distance = np.linalg.norm(place - random.uniform(4.5, 6.5, 3), axis=-1)
    image = brightness * np.exp(-((distance / 3.5) ** 4)) + 0.01 * random.random((12, 12, 12))
    for part, data in (("images", image.astype(np.float32)), ("labels", (distance < 3).astype(np.uint8))):
        (folder / part).mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(data, np.diag([2.0, 1, 1, 1])), folder / part / f"{name}.nii.gz")


def enter_world(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`write_world`, with its folder as the current one; the recipe's path."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "tinynet", raising=False)
    return write_world(folder)


def change(recipe: Path, old: str, new: str) -> None:
    assert old in recipe.read_text()
    recipe.write_text(recipe.read_text().replace(old, new))


def run(recipe: Path, out: str = "study", **how: object):  # type: ignore[no-untyped-def]
    return run_study(read_recipe(recipe), recipe.parent / out, **how)  # type: ignore[arg-type]


def program(*arguments: object, before: str = "", **environment: str) -> subprocess.Popen[str]:
    """`radiolucent` as a process of its own."""
    code = f"import sys; sys.argv[0] = 'radiolucent'\n{before}\nfrom radiolucent.cli import main; main()"
    command = [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", **environment})
