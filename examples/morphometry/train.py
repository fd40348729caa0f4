"""Train a morphometry model and write its folder: weights.safetensors and card.json.

    python examples/morphometry/train.py hippocampus --data ../shared/data/hippocampus --out models/hippocampus
    python examples/morphometry/train.py brains --data ../shared/data/brain_labels --out models/brains

hippocampus: anterior, posterior and total volume from T1 crops of 1 mm (Medical Segmentation Decathlon Task04,
CC BY-SA 4.0; images/ and labels/). The test set is that of the demo's segmentation model.
brains: 31 volumes from synthetic T1 scans of 4 mm, drawn anew in every epoch from 13 label maps (SynthSeg's training
maps, Apache-2.0); the test scans are drawn from 4 others.

A volume alone says little to a network that has 130 scans to learn from. So the blocks first learn, by one linear map that
is the same everywhere, how much of each structure lies in each of their cells (`located` epochs). The fully connected
layers then begin as the sum of those amounts, and the whole network is trained as in the paper: MSE on the volumes.

Started again, it goes on from checkpoint.pt in the folder. The same command gives the same model on the same machine
with the same number of threads.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from brains import Brains
from crops import Crops
from located import CellMap, begin_as_sum, located_loss
from safetensors.torch import save_model
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from radiolucent.io import put
from radiolucent.models import Morphometry
from radiolucent.statistics import intraclass_correlation

BATCH = 6
PATIENCE = 40
AVERAGE = 0.99
"""What is kept of the mean of the weights at each step."""
FINE = {"blocks": 10, "head": 1000}
"""Times smaller is the learning rate once the volumes themselves are learnt; the head adds up tens of thousands of features."""
TASKS = {"hippocampus": Crops, "brains": Brains}


class Task(Protocol):
    """What is learnt: where scans come from, and what is measured on them."""

    name: str
    outputs: list[str]
    arguments: dict[str, Any]
    located: int
    epochs: int
    learning_rate: float
    preprocessing: dict[str, Any]
    about: dict[str, Any]

    def truths(self) -> Tensor:
        """(n, outputs, *cells): measurements that stand for the training data, for their mean and spread."""

    def draw(self, epoch: int, number: int) -> tuple[Tensor, Tensor]:
        """A training scan (1, *size) and its measurements in each cell of the last block, (outputs, *cells), which add up to
        those of the scan; the same for the same numbers."""

    def fixed(self, part: str) -> tuple[Tensor, Tensor]:
        """The scans of "validation" or "test", and their measurements."""

    def __len__(self) -> int:
        """Training scans in an epoch."""


@dataclass
class Epoch(Dataset):
    task: Task
    epoch: int

    def __len__(self) -> int:
        return len(self.task)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        return self.task.draw(self.epoch, number)


def predicted(network: Morphometry, scans: Tensor) -> np.ndarray:
    network.eval()
    with torch.inference_mode():
        return torch.cat([network(batch) for batch in scans.split(BATCH)]).numpy()


def agreement(network: Morphometry, scans: Tensor, truths: Tensor, kind: str = "ICC(2,1)") -> list[float]:
    """The intraclass correlation of truth and prediction, for each output."""
    found = predicted(network, scans)
    return [intraclass_correlation(np.stack([t, p], 1), kind) for t, p in zip(truths.numpy().T, found.T, strict=True)]


class Training:
    """The network with its optimiser, its best state so far, and where it stands; all of it is in the checkpoint."""

    def __init__(self, task: Task, folder: Path, epochs: int) -> None:
        torch.manual_seed(0)
        self.task, self.epochs, self.checkpoint = task, epochs, folder / "checkpoint.pt"
        self.network = Morphometry(**task.arguments)
        cells = task.truths()
        self.network.standardise(cells.flatten(2).sum(2))
        self.where = CellMap(self.network, cells.movedim(1, 0).flatten(1).std(1))
        self.learnt = nn.ModuleDict({"network": self.network, "where": self.where})
        self.average = AveragedModel(self.learnt, multi_avg_fn=get_ema_multi_avg_fn(AVERAGE), use_buffers=True)
        self.optimiser = self._optimiser(0)
        self.done, self.best, self.best_epoch, self.best_state = 0, -math.inf, 0, self._state()
        if self.checkpoint.exists():
            self._resume(torch.load(self.checkpoint, weights_only=True))

    def _optimiser(self, done: int) -> torch.optim.Adam:
        rate, network = self.task.learning_rate, self.network
        if done < self.task.located:
            rates: dict[nn.Module, float] = {network.blocks: rate, self.where: rate}
        elif self.task.located:
            rates = {network.blocks: rate / FINE["blocks"], network.head: rate / FINE["head"]}
        else:
            rates = {network: rate}
        return torch.optim.Adam([{"params": part.parameters(), "highest": r} for part, r in rates.items()])

    def _state(self) -> dict[str, Tensor]:
        return {key: value.clone() for key, value in self.averaged.state_dict().items()}

    @property
    def averaged(self) -> Morphometry:
        """The network with the mean of its latest weights: the steps themselves swing."""
        return self.average.module["network"]

    def _resume(self, saved: dict[str, Any]) -> None:
        self.learnt.load_state_dict(saved["learnt"])
        self.average.load_state_dict(saved["average"])
        self.done, self.best, self.best_epoch, self.best_state = (saved[k] for k in ("done", "best", "best_epoch", "best_state"))
        self.optimiser = self._optimiser(self.done - 1)
        self.optimiser.load_state_dict(saved["optimiser"])

    def _save(self) -> None:
        parts = {"learnt": self.learnt, "average": self.average, "optimiser": self.optimiser}
        content = {name: part.state_dict() for name, part in parts.items()}
        content |= {k: getattr(self, k) for k in ("done", "best", "best_epoch", "best_state")}
        file = io.BytesIO()
        torch.save(content, file)
        put(self.checkpoint, file.getvalue())

    def _begin(self) -> bool:
        """The learning rate of this epoch; whether it is one that learns where the structures are."""
        located = self.done < self.task.located
        if self.done == self.task.located:
            self.network.load_state_dict(self.best_state)
            self.averaged.load_state_dict(self.best_state)
            self.optimiser = self._optimiser(self.done)
        at, of = (self.done, self.task.located) if located else (self.done - self.task.located, self.epochs - self.task.located)
        for group in self.optimiser.param_groups:
            group["lr"] = group["highest"] * min((at + 1) / (0.1 * of), (1 + math.cos(math.pi * at / of)) / 2)
        return located

    def epoch(self, workers: int) -> float:
        """One pass over the training scans; the mean loss."""
        torch.manual_seed(self.done)  # order and dropout depend on the epoch alone, so that resuming changes nothing
        located = self._begin()
        self.network.train()
        for part in self.network.modules():
            if isinstance(part, nn.BatchNorm3d) and not located:
                part.eval()  # its statistics are learnt with the cells, and kept for the volumes
        losses = []
        for scans, cells in DataLoader(Epoch(self.task, self.done), BATCH, shuffle=True, num_workers=workers):
            self.optimiser.zero_grad()
            loss = self._located_loss(scans, cells) if located else self._loss(scans, cells)
            loss.backward()
            self.optimiser.step()
            self.average.update_parameters(self.learnt)
            losses.append(loss.item())
        if located:
            begin_as_sum(self.averaged, self.average.module["where"])
        self.done += 1
        return float(np.mean(losses))

    def _loss(self, scans: Tensor, cells: Tensor) -> Tensor:
        return (((self.network(scans) - cells.flatten(2).sum(2)) / self.network.spread) ** 2).mean()

    def _located_loss(self, scans: Tensor, cells: Tensor) -> Tensor:
        return located_loss(self.network, self.where, scans, cells, self.done)

    def run(self, workers: int, minutes: float) -> None:
        """Until the epochs are through, the validation has not improved for PATIENCE of them, or the time is up."""
        validation, start = self.task.fixed("validation"), time.monotonic()
        while self.done < self.epochs and self.done - max(self.best_epoch, self.task.located) < PATIENCE:
            if time.monotonic() - start > 60 * minutes:
                print("the time is up: the best so far is kept, and the same command goes on from here")
                break
            said = self.advance(workers, *validation)
            print(f"epoch {self.done}: {said}, {time.monotonic() - start:.0f} s", flush=True)
        self.network.load_state_dict(self.best_state)

    def advance(self, workers: int, scans: Tensor, truths: Tensor) -> str:
        """One epoch, how it agrees with the validation, and the checkpoint."""
        loss = self.epoch(workers)
        reached = float(np.mean(agreement(self.averaged, scans, truths)))
        if reached > self.best:
            self.best, self.best_epoch, self.best_state = reached, self.done, self._state()
        self._save()
        return f"loss {loss:.4f}, validation ICC {reached:.4f}, best {self.best:.4f}"


def card(training: Training) -> dict[str, Any]:
    task, network = training.task, training.network
    test = task.fixed("test")
    figures = {
        kind: {name: round(v, 4) for name, v in zip(task.outputs, agreement(network, *test, kind), strict=True)}
        for kind in ("ICC(2,1)", "ICC(3,1)")
    }
    kept = f"epoch {training.best_epoch} of {training.done} kept, the best by validation ICC"
    located = f"{task.located} epochs of amounts in cells, then " if task.located else ""
    how = f"Adam, batch {BATCH}, {located}MSE on standardised outputs; {kept}"
    return {
        "name": task.name,
        "task": "regression",
        "network": "radiolucent:Morphometry",
        "arguments": task.arguments,
        "weights": "weights.safetensors",
        "channels": 1,
        "classes": task.outputs,
        "layer": "blocks.2",
        "preprocessing": task.preprocessing,
        "spread": [round(float(s), 3) for s in network.spread],
        "mean": [round(float(m), 3) for m in network.mean],
        "about": {**task.about, "unit": "mm3", "training": how, "validation_ICC": round(training.best, 4), "test": figures},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=0, help="0: as many as fit into an hour on two cores")
    parser.add_argument("--minutes", type=float, default=60.0, help="stop after this time and keep the best")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw scans beside the one that learns")
    parser.add_argument("--checkpoint", type=Path, help="folder of the checkpoint, if not the model's")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    task = TASKS[given.task](given.data)
    training = Training(task, given.checkpoint or given.out, given.epochs or task.epochs)
    training.run(given.workers, given.minutes)
    save_model(training.network, str(given.out / "weights.safetensors"))
    told = card(training)
    put(given.out / "card.json", json.dumps(told, indent=2).encode() + b"\n")
    print(json.dumps(told["about"]["test"], indent=2))


if __name__ == "__main__":
    main()
