"""One training: from a seed to weights. All chance is a function of seed, epoch and step, so that a kill changes nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import DataLoader

from radiolucent.errors import BadInput
from radiolucent.geometry import Array
from radiolucent.models import Card
from radiolucent.training import networks, scoring
from radiolucent.training.curves import Log
from radiolucent.training.drawing import balancing, batches, mixed, order, share, variant, views
from radiolucent.training.features import Features
from radiolucent.training.folder import Checkpoint, Folder, Progress
from radiolucent.training.images import Draw, Images
from radiolucent.training.losses import Meaning
from radiolucent.training.networks import State
from radiolucent.training.recipe import Optimiser, Recipe


@dataclass(frozen=True)
class Setting:
    """What all seeds of a training share; `step` is told of every epoch, `card` is that of unfinished weights."""

    recipe: Recipe
    images: Images
    folder: Folder
    accelerator: Accelerator
    card: Card
    say: Callable[[str], None]
    step: Callable[[], None]

    @property
    def part(self) -> int:
        """Cases at a time where nothing is learnt."""
        return self.recipe.machine.part or -(-self.recipe.optimiser.batch // self.recipe.optimiser.accumulate)


class Fit:
    """One seed's training: `run` goes on from the newest checkpoint, or begins."""

    def __init__(self, setting: Setting, seed: int) -> None:
        self.setting, self.seed = setting, seed
        self.recipe, self.images, self.accelerator = setting.recipe, setting.images, setting.accelerator
        self.cases, self.asked = setting.images.cases, setting.recipe.optimiser
        self.train, self.validation = self.cases.part("train"), self.cases.part("val")
        self.network = networks.make(self.recipe.model, seed).to(self.accelerator.device)
        image = self.images[(int(self.train[0]), -1)][0].to(self.accelerator.device)
        if image.ndim == 3:
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # 1.4 times faster on a CPU
        networks.check_outputs(self.network, image, self.cases.classes)
        truths = self.cases.labels[self.train]
        self.meaning = Meaning.of(self.network, self.recipe.training.task, self.asked.smoothing, truths)
        self.truths = self.meaning.truths(self.cases.labels).to(self.accelerator.device)
        self.weights = balancing(truths, self.recipe.training.task) if self.asked.weighted else None
        self.optimiser = self.accelerator.prepare_optimizer(_optimiser(self.network, self.recipe))
        self.progress = Progress()
        self.best: State | None = None
        self.features: Features | None = None
        self.frozen: bool | None = None
        self.feeding: nn.Module = networks.Feeding(self.network)
        self.steps = len(self._batches([(0, 0)] * len(self.train)))
        self.saved = time.monotonic()

    def run(self) -> tuple[State, Progress]:
        """The weights that stay, and the history."""
        before = self.setting.folder.resume(self.seed)
        if before:
            self._restore(before)
            self.setting.say(f"seed {self.seed} goes on at epoch {self.progress.epoch + 1}, step {self.progress.step + 1}")
        with Log(
            self.setting.folder.logs(self.seed), self.progress.epoch, self.accelerator.is_main_process, self.setting.say
        ) as log:
            for _ in self.progress.history:
                self.setting.step()
            while self.progress.epoch < self.asked.epochs and not self._enough():
                log.epoch(self._epoch())
                self.setting.step()
                self._save()
        last = networks.to_cpu(self.network.state_dict())
        return (self.best or last) if self.recipe.stopping.keep == "best" else last, self.progress

    def settle(self, weights: State) -> None:
        """Take the weights that stay, and what the last epoch took for its input: features, or images."""
        self._phase(self.asked.is_frozen(self.progress.epoch - 1))
        self.network.load_state_dict(weights)

    def _enough(self) -> bool:
        return 0 < self.recipe.stopping.patience <= self.progress.waited

    def _epoch(self) -> dict[str, Any]:
        p, started = self.progress, time.perf_counter()
        self._phase(self.asked.is_frozen(p.epoch))
        draws = [variant(self.images.augmentation, n, self.seed, p.epoch) for n in self._order()]
        steps = self._batches(draws)[p.step :]
        mine = [share(b, self.accelerator.process_index, self.accelerator.num_processes, self.asked.accumulate) for b in steps]
        given = self._given([piece for pieces in mine for piece, _ in pieces])
        for batch, pieces in zip(steps, mine, strict=True):
            torch.manual_seed(mixed(self.seed, p.epoch, p.step, self.accelerator.process_index))
            p.loss += self._step(given, [counting for _, counting in pieces], len(batch)) * len(batch)
            p.seen, p.step = p.seen + len(batch), p.step + 1
            if p.step < self.steps and time.monotonic() - self.saved >= self.recipe.machine.checkpoint_seconds:
                p.seconds, started = p.seconds + time.perf_counter() - started, time.perf_counter()
                self._save(now=True)
        p.seconds += time.perf_counter() - started
        return self._close()

    def _batches(self, draws: Sequence[Draw]) -> list[list[Draw]]:
        """An epoch's steps; none so small that a process has a piece of one case alone."""
        return batches(draws, self.asked.batch, 2 * self.accelerator.num_processes * self.asked.accumulate)

    def _order(self) -> list[int]:
        return order(self.train, self.weights, self.seed, self.progress.epoch)

    def _step(self, given: Iterator[tuple[Any, list[int]]], pieces: Sequence[int], cases: int) -> float:
        """One step of the optimiser: the mean loss over the batch's `cases`, in pieces and over all processes."""
        rate = self.asked.rate * self._factor(self.progress.epoch * self.steps + self.progress.step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["ratio"]
        scale, loss = self.accelerator.num_processes / cases, 0.0  # gradients are the mean over processes
        for piece, counting in enumerate(pieces, 1):
            images, numbers = next(given)
            waits = piece < len(pieces)
            with self.accelerator.no_sync(self.feeding) if waits else nullcontext():
                outputs = self.feeding(images, self.features is not None)
                part = self.meaning.loss(outputs.float(), self.truths[numbers])[:counting].sum() * scale
                self.accelerator.backward(part)
            loss += float(part.detach())
        if not math.isfinite(loss):
            got = f"{loss} in epoch {self.progress.epoch + 1}, step {self.progress.step + 1}"
            do = 'Lower the rate, set clip = 1.0, or precision = "bf16" instead of fp16.'
            raise BadInput("a loss that is a number", got, do)
        if self.asked.clip:
            self.accelerator.clip_grad_norm_(self.network.parameters(), self.asked.clip)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return loss

    def _factor(self, step: int) -> float:
        """The learning rate's, at a step of the whole training."""
        total = self.steps * self.asked.epochs
        warm = self.asked.warmup * total
        if step < warm:
            return (step + 1) / (warm + 1)
        return 1.0 if self.asked.schedule == "constant" else 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))

    def _phase(self, frozen: bool) -> None:
        """Modes and gradients for frozen and other epochs; what several processes share is made anew when they change."""
        networks.set_mode(self.network, self.recipe.model, frozen)
        if frozen == self.frozen:
            return
        self.frozen, self.features = frozen, None
        numbers = views(self.images.augmentation, self.train) if frozen and networks.caches(self.network) else None
        if numbers is not None:
            draws = numbers + [(int(n), -1) for n in (*self.validation, *self.cases.part("test"))]
            folder, part = self.recipe.machine.features or self.setting.folder.path / "features", self.setting.part
            asked = self.recipe.model
            self.features = Features(self.network, asked, self.images, draws, folder, self.accelerator, part, self.setting.say)
        self.feeding = self.accelerator.prepare_model(networks.Feeding(self.network))

    def _given(self, pieces: Sequence[Sequence[Draw]]) -> Iterator[tuple[Any, list[int]]]:
        """What the network takes, piece by piece: features that are there, or images."""
        if self.features is not None:
            for piece in pieces:
                yield self.features.batch(piece), [number for number, _ in piece]
            return
        loader = DataLoader(
            self.images,
            batch_sampler=[list(piece) for piece in pieces],
            num_workers=self.recipe.machine.workers,
            pin_memory=self.accelerator.device.type == "cuda",
            generator=torch.Generator(),  # else it draws a number of torch's own at the first step after a resumption
        )
        for images, numbers in loader:
            yield images.to(self.accelerator.device, non_blocking=True), numbers.tolist()

    def outputs(self, numbers: Array) -> Tensor:
        """The network's outputs in eval mode (n, k), float32 on the CPU; each process does its share."""
        self.network.eval()
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        mine = [(int(n), -1) for n in numbers[rank::world]]
        found: list[tuple[int, Tensor]] = []
        with torch.no_grad(), self.accelerator.autocast():
            for given, which in self._given([mine[i : i + self.setting.part] for i in range(0, len(mine), self.setting.part)]):
                rows = self.network(given) if self.features is None else self.network.from_features(given)  # type: ignore[operator]
                found += zip(which, rows.float().cpu(), strict=True)
        by_number = dict(gather_object(found))
        return torch.stack([by_number[int(n)] for n in numbers])

    def _close(self) -> dict[str, Any]:
        """The end of an epoch: validation, the best weights, patience."""
        p, task = self.progress, self.recipe.training.task
        outputs, truth = self.outputs(self.validation), self.cases.labels[self.validation]
        told = self.meaning.told(outputs)
        values = {name: scoring.point(truth, told, task, name) for name in scoring.MEASURES[task]}
        values["loss"] = float(self.meaning.loss(outputs, self.truths[self.validation].cpu()).mean())
        watched = values[self.recipe.watch]
        better = -watched if self.recipe.watch in scoring.LOWER_IS_BETTER else watched
        if not math.isnan(better) and (p.best is None or better > p.best):
            p.best, p.best_epoch, p.waited = better, p.epoch, 0
            self.best = networks.to_cpu(self.network.state_dict()) if self.recipe.stopping.keep == "best" else None
        else:
            p.waited += 1
        row: dict[str, Any] = {
            "epoch": p.epoch + 1,
            "frozen": bool(self.frozen),
            "seconds": round(p.seconds, 3),
            "train_loss": p.loss / p.seen,
        }
        row |= {f"val_{name}": None if math.isnan(v) else v for name, v in values.items()}
        p.history.append(row)
        p.epoch, p.step, p.loss, p.seen, p.seconds = p.epoch + 1, 0, 0.0, 0, 0.0
        return row

    def _save(self, *, now: bool = False) -> None:
        """A checkpoint, where the last one is old enough."""
        if not now and time.monotonic() - self.saved < self.recipe.machine.checkpoint_seconds:
            return
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else None
            state = networks.to_cpu(self.network.state_dict())
            kept = Checkpoint(state, self.optimiser.state_dict(), scaler, self.progress, self.best)
            self.setting.folder.checkpoint(self.seed, kept, self.setting.card)
        self.saved = time.monotonic()

    def _restore(self, before: Checkpoint) -> None:
        self.network.load_state_dict(before.network)
        self.optimiser.load_state_dict(before.optimiser)
        if before.scaler is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(before.scaler)
        self.progress, self.best = before.progress, before.best


def _optimiser(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """With the encoder's parameters as a group of their own, where it has a rate of its own."""
    asked: Optimiser = recipe.optimiser
    ratio = asked.encoder_rate / asked.rate
    slow = networks.encoder_names(network, recipe.model) if ratio else set()
    named = list(network.named_parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in named if name not in slow], "ratio": 1.0},
        {"params": [p for name, p in named if name in slow], "ratio": ratio},
    ]
    how: dict[str, Any] = {"lr": asked.rate, "weight_decay": asked.weight_decay}
    kinds: dict[str, Any] = {
        "nadam": torch.optim.NAdam,
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "sgd": torch.optim.SGD,
    }
    if asked.kind == "sgd":
        how["momentum"] = 0.9
    return kinds[asked.kind]([group for group in groups if group["params"]], **how)
