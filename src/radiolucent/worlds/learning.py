"""A small network that learns a world: cases drawn anew in every step, so that it cannot learn them by heart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from radiolucent.errors import BadInput
from radiolucent.models import Card, Preprocessing
from radiolucent.models.loading.factories import build
from radiolucent.settings import at_least
from radiolucent.training.networks import State, rescaled
from radiolucent.worlds.heads import Head
from radiolucent.worlds.planting import Case, World

_EPOCH = 1 << 32
"""Seeds of cases that one seed of a training may use."""

_FASTER = {"regression": 3.0}
"""Times the rate: a mean over the grid moves little with a structure, so that what reads it off has far to go."""


@dataclass(frozen=True)
class Training:
    """How a world is learnt: AdamW, the rate warmed up over a tenth of the steps and then falling as a cosine.

    `seed` decides the first weights and every case; the same seed and number of `threads` give the same weights, bit for bit.
    """

    steps: int = 1500
    batch: int = 16
    rate: float = 3e-3
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        at_least(self, steps=1, batch=2, rate=0, seed=0, threads=1)


def network_of(world: World, size: int) -> tuple[str, dict[str, Any], str]:
    """The network of each task, its arguments and the layer of layer-wise methods, as a model card has them.

    A lesion is small, and a mean over the head hardly moves with it: so a classifier takes the maximum over each of 2 x 2 x 2
    parts of the grid. A volume is a sum, which the mean is. What lies elsewhere reaches a voxel through the bottom of the U,
    whose two convolutions see all of its 3 x 3 x 3 cells (with 24 voxels a side).
    The classifier's layer is the last but one: behind the maximum any cell that sees the lesion serves, also one beside it.
    """
    if world.task == "classification":
        arguments = {"outputs": 2, "size": [size] * 3, "channels": [8, 16, 32], "pool": [2, 2, size // 8], "hidden": [16]}
        return "radiolucent:Morphometry", arguments | {"norm": True}, "blocks.1.2"
    if world.task == "regression":
        return "radiolucent:AnatomyNet", {"outputs": 1, "axes": 3, "channels": [8, 16, 32], "convolutions": 1}, "auto"
    levels = {"channels": [16, 32, 32, 32, 32], "strides": [2, 2, 2, 1], "num_res_units": 0}
    shape = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2}
    return "monai:UNet", shape | levels | {"act": "RELU", "norm": "batch"}, "auto"


def card_of(world: World, size: int) -> Card:
    """The model card of a network that learns the world, before there are measures."""
    network, arguments, layer = network_of(world, size)
    return Card(
        name=f"world-{world.name}",
        task=world.task,
        network=network,
        weights="model.safetensors",
        arguments=arguments,
        classes=world.classes,
        layer=layer,
        preprocessing=Preprocessing(orientation="RAS", size=(size,) * 3),
    )


def fit(
    world: World, heads: Sequence[Head], training: Training, step: Callable[[], None] = lambda: None
) -> tuple[nn.Module, State]:
    """A network in eval mode that has learnt the world on these heads, and its weights; torch's random numbers stay.

    A regression's outputs are in the target's own unit.
    """
    with _alone(training):
        network = build(*network_of(world, heads[0].size)[:2], trust=False)
        optimiser = torch.optim.AdamW(network.parameters(), lr=training.rate * _FASTER.get(world.task, 1.0), weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda done: _factor(done / training.steps))
        mean, spread = _scale(world, heads, training)
        for number in range(training.steps):
            cases = drawn(world, heads, training.seed * _EPOCH + number * training.batch, training.batch)
            outputs = network(images(cases))
            loss = _loss(world, outputs, torch.tensor(np.stack([case.target for case in cases])), mean, spread)
            if not loss.isfinite():
                raise BadInput("a loss that is a number", f"{float(loss)} in step {number + 1}", "Lower the rate.")
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            step()
        network.eval().requires_grad_(False)
        if world.task == "regression":
            network.load_state_dict(rescaled(network, mean, spread, images(cases)[0]))
        return network, network.state_dict()


def drawn(world: World, heads: Sequence[Head], seed: int, count: int, **do: bool) -> list[Case]:
    """So many cases of a world, from this seed on."""
    return [world.case(heads, seed + number, do) for number in range(count)]


def images(cases: Sequence[Case]) -> Tensor:
    """(b, 1, *size)"""
    return torch.from_numpy(np.stack([case.image for case in cases]))


def _loss(world: World, outputs: Tensor, truths: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    """Cross-entropy; of a regression the squares in units of the spread; of a segmentation with the Dice loss of its label."""
    if world.task == "regression":
        return F.mse_loss(outputs, (truths[:, None].float() - mean) / spread)
    loss = F.cross_entropy(outputs, truths)
    if world.task == "classification":
        return loss
    said, true = outputs.softmax(1)[:, 1], (truths == 1).float()
    return loss + 1 - (2 * (said * true).sum() + 1) / (said.sum() + true.sum() + 1)  # over the batch: some have no label


def _scale(world: World, heads: Sequence[Head], training: Training) -> tuple[Tensor, Tensor]:
    """Mean and spread (1,) of a regression's target over the first cases."""
    if world.task != "regression":
        return torch.zeros(1), torch.ones(1)
    values = torch.tensor([case.target for case in drawn(world, heads, training.seed * _EPOCH, 200)])
    return values.mean()[None], values.std()[None]


def _factor(done: float) -> float:
    """Of the learning rate, with a share of the steps done."""
    return min(1.0, 0.1 + 9 * done, 0.5 * (1 + np.cos(np.pi * done)))


@contextmanager
def _alone(training: Training) -> Iterator[None]:
    """torch with the training's seed and threads, as it was afterwards."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng([]):
        torch.manual_seed(training.seed)
        try:
            torch.set_num_threads(training.threads)
            yield
        finally:
            torch.set_num_threads(threads)
