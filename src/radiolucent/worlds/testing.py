"""Does the network know the cause? Its performance on heads that it has not seen, and what each part does to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from radiolucent.geometry import Array
from radiolucent.worlds.heads import Head
from radiolucent.worlds.learning import images
from radiolucent.worlds.planting import Case, World

SEED = 1 << 62
"""Where the test's seeds begin: no training uses them."""
_PART = 32
_DICE = 0.7
_STRAY = 5
_SPREADS = 0.25


def outputs_of(network: nn.Module, cases: Sequence[Case]) -> Array:
    """The network's outputs (n, ...), float64; a segmentation's are made label maps (n, *size)."""
    found = []
    with torch.no_grad():
        for start in range(0, len(cases), _PART):
            output = network(images(cases[start : start + _PART]))
            found.append((output.argmax(1) if output.ndim > 2 else output.double()).numpy())
    return np.concatenate(found)


def right(world: World, cases: Sequence[Case], outputs: Array) -> Array:
    """Which cases the network gets right (n,).

    The class; a value within a quarter of the truths' standard deviation; labels with a Dice of 0.7, and where
    nothing is labelled, at most 5 voxels.
    """
    truth = np.stack([case.target for case in cases])
    if world.task == "classification":
        return outputs.argmax(1) == truth
    if world.task == "regression":
        return np.abs(outputs[:, 0] - truth) <= _SPREADS * truth.std()
    dice, labelled = _dice(truth, outputs), truth.any((1, 2, 3))
    return np.where(labelled, dice >= _DICE, outputs.sum((1, 2, 3)) <= _STRAY)


def performance(world: World, cases: Sequence[Case], outputs: Array) -> dict[str, float]:
    """accuracy; r and mae; or dice where something is labelled, and the share of the others where nothing is."""
    truth = np.stack([case.target for case in cases])
    found: dict[str, float] = {"cases": len(cases), "right": float(right(world, cases, outputs).mean())}
    if world.task == "classification":
        return found | {"accuracy": float((outputs.argmax(1) == truth).mean())}
    if world.task == "regression":
        r = float(np.corrcoef(outputs[:, 0], truth)[0, 1]) if np.ptp(outputs) > 0 else 0.0  # one value for all tells nothing
        return found | {"r": r, "mae": float(np.abs(outputs[:, 0] - truth).mean())}
    labelled = truth.any((1, 2, 3))
    silent = outputs[~labelled].sum((1, 2, 3)) <= _STRAY
    return found | {"dice": float(_dice(truth, outputs)[labelled].mean()), "silent without cue": float(silent.mean())}


def effects(world: World, network: nn.Module, heads: Sequence[Head], count: int) -> list[dict[str, Any]]:
    """What each part does to the network's output, by intervention on the same cases.

        change[k] = mean_i S(case_i, do k) - S(case_i, do not k)

    S is the logit of the second class minus that of the first, the value, or the number of labelled voxels. `flipped`
    is the share of cases whose predicted class changes. A part that does not cause should change nothing: what it
    does change is the network's use of it.
    """
    rows = []
    for part in world.parts:
        with_it, without = (
            outputs_of(network, [world.case(heads, SEED + n, {part: there}) for n in range(count)]) for there in (True, False)
        )
        change = float((_signal(with_it) - _signal(without)).mean())
        row: dict[str, Any] = {"part": part, "cause": part in world.cause, "change": change}
        if world.task == "classification":
            row["flipped"] = float((with_it.argmax(1) != without.argmax(1)).mean())
        rows.append(row)
    return rows


def _signal(outputs: Array) -> Array:
    if outputs.ndim > 2:
        return outputs.sum((1, 2, 3))
    return outputs[:, 1] - outputs[:, 0] if outputs.shape[1] == 2 else outputs[:, 0]


def _dice(truth: Array, found: Array) -> Array:
    both = ((truth == 1) & (found == 1)).sum((1, 2, 3))
    return 2 * both / np.maximum((truth == 1).sum((1, 2, 3)) + (found == 1).sum((1, 2, 3)), 1)
