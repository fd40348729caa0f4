"""The demo: a real scan, a trained model, three methods, one report. Everything ships with the package.

Scan: the hippocampal region of the ICBM152 2009 T1 template (LICENSE-icbm152). Model: see hippocampus/card.json.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from radiolucent.case import explain_case
from radiolucent.methods import HiResCAM, IntegratedGradients, SmoothGrad
from radiolucent.models import load
from radiolucent.plan import Plan

SCAN = "icbm152-hippocampus.nii.gz"
METHODS = (HiResCAM("upsamples.0"), IntegratedGradients(steps=20), SmoothGrad(samples=10))


def run(out: Path, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Run the demo into the folder `out`, replacing an earlier run's results there; returns the summary."""
    say("loading the model (first time: some seconds for PyTorch and MONAI)")
    with as_file(files("radiolucent.demo")) as here:
        network, card = load(here / "hippocampus")
        folder = out / SCAN.removesuffix(".nii.gz")
        return explain_case(here / SCAN, folder, network, card, Plan(METHODS), overwrite=True, say=say)
