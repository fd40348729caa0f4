"""Running a training: all seeds of a recipe, one after the other, as often as it is begun."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from radiolucent import io
from radiolucent.errors import BadInput
from radiolucent.study.claims import claim
from radiolucent.training import scoring
from radiolucent.training.cases import Cases, read_cases
from radiolucent.training.fitting import Fit, Setting
from radiolucent.training.folder import Folder
from radiolucent.training.images import prepare
from radiolucent.training.recipe import Machine, Recipe
from radiolucent.training.results import card_of, finish, summarise
from radiolucent.training.splits import SPLITS, check_labels


def train(
    recipe: Recipe,
    folder: str | Path,
    *,
    say: Callable[[str], None] = lambda text: None,
    begin: Callable[[int], None] = lambda epochs: None,
    step: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Do what is left of a training, and return its summary (summary.json).

    Args:
        recipe, folder: what is asked, and where it goes; a training that was begun otherwise is refused. More seeds, and
            all of [machine] but its precision, may be asked for later.
        say, begin, step: are told what happens, how many epochs are left at most, and of each one that ends.

    May be killed and called again at any time. On a CPU with the same number of threads the weights are then the same,
    bit for bit, as those of a run that nothing disturbed; on a GPU as far as its kernels are deterministic. Under
    `accelerate launch` all processes share the work.

    Raises:
        BadInput: data, labels, splits, a model or a folder that cannot be used.
    """
    if recipe.watch not in (*scoring.MEASURES[recipe.training.task], "loss"):
        have = ", ".join((*scoring.MEASURES[recipe.training.task], "loss"))
        raise BadInput(f"watch in [stopping] among {have}", repr(recipe.watch), "Correct the recipe.")
    path = Path(folder).absolute()
    with _machine(recipe.machine) as accelerator:
        leads = accelerator.is_main_process
        tell = say if leads else (lambda text: None)
        with accelerator.main_process_first():
            cases = read_cases(recipe, tell)
            _check_watched(cases, recipe)
            _check_place(path, recipe)
            if leads:
                Folder.begin(path, recipe, cases, tell)
        for note in (*cases.notes, *_random_encoder(recipe)):
            tell(f"note: {note}")
        place = Folder(path)
        with claim(path / "running" / "lock.json") if leads else nullcontext(True) as ours:
            if not ours:
                raise BadInput(f"no other process at {path}", "one that trains there", "Wait for it, or choose another --out.")
            _all_seeds(recipe, place, cases, accelerator, (tell, begin, step))
            return summarise(place, recipe) if leads else {}


def _random_encoder(recipe: Recipe) -> list[str]:
    """A note, where what is frozen has no weights from a file."""
    frozen = recipe.optimiser.frozen_epochs
    if not frozen or recipe.model.weights or recipe.model.encoder_weights:
        return []
    until = "throughout" if frozen < 0 else f"for {frozen} epochs"
    why = "unless the network brings weights of its own, what is frozen is random"
    return [
        f"the encoder is frozen {until}, and [model] has neither weights nor encoder_weights: {why} (frozen_epochs = 0 trains it)"
    ]


def _all_seeds(recipe: Recipe, place: Folder, cases: Cases, accelerator: Accelerator, told: tuple[Any, Any, Any]) -> None:
    say, begin, step = told
    left = [seed for seed in recipe.training.seeds if not place.is_done(seed)]
    begin(len(left) * recipe.optimiser.epochs)
    if not left:
        return
    images = prepare(cases, recipe.augmentation, recipe.machine.keep, place.path / "prepared", recipe.data.leave_out, say)
    check_labels(images.cases.labels, images.cases.splits, images.cases.classes, recipe.training.task)
    _check_watched(images.cases, recipe)
    counts = ", ".join(f"{len(images.cases.part(split))} {split}" for split in SPLITS)
    say(f"{counts}; images {tuple(images.shape)}; {accelerator.device}, {accelerator.num_processes} process(es)")
    card = card_of(recipe, images, images.cases.labels[images.cases.part("train")])
    for seed in left:
        own = _accelerator(recipe.machine)  # a loss scale of its own, as after a kill
        setting = Setting(recipe, images, place, own, card, say, step)
        fit = Fit(setting, seed)
        weights, progress = fit.run()
        finish(fit, weights, card)
        own.free_memory()
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            test = place.metrics(seed)["test"]
            shown = ", ".join(f"{name} {found['mean']:.3f}" for name, found in test.items() if found["mean"] is not None)
            say(f"seed {seed}: {progress.epoch} epochs; test {shown}")


@contextmanager
def _machine(asked: Machine) -> Iterator[Accelerator]:
    """accelerate on the asked device and precision; torch's random numbers and threads come back."""
    threads = torch.get_num_threads()
    cuda = list(range(torch.cuda.device_count())) if asked.device == "auto" and torch.cuda.is_available() else []
    with torch.random.fork_rng(cuda):
        try:
            if asked.threads:
                torch.set_num_threads(asked.threads)
            alone = int(os.environ.get("WORLD_SIZE", "1")) == 1  # several processes have met, and stay so
            AcceleratorState._reset_state(reset_partial_state=alone)
            yield _accelerator(asked)
        except torch.OutOfMemoryError as error:
            do = "Raise accumulate in [optimiser], lower part in [machine] or the batch, or take precision bf16."
            raise BadInput("a batch that fits into memory", str(error).split(". ")[0], do) from None
        finally:
            torch.set_num_threads(threads)


def _accelerator(asked: Machine) -> Accelerator:
    try:
        return Accelerator(cpu=asked.device == "cpu", mixed_precision=asked.precision)
    except ValueError as error:
        do = 'precision = "bf16" or "no" in [machine], or another device.'
        raise BadInput(f"a machine for precision {asked.precision}", str(error), do) from None


def _check_watched(cases: Cases, recipe: Recipe) -> None:
    scoring.check_watched(cases.labels[cases.part("val")], cases.classes, recipe.training.task, recipe.watch)


def _check_place(path: Path, recipe: Recipe) -> None:
    io.usable(path)
    if path.exists() and not path.is_dir():
        raise BadInput(f"a folder for the training at {path}", "a file", "Choose another --out.")
    inside = recipe.data.folder
    if inside and (path == inside or path.is_relative_to(inside)):
        raise BadInput(f"a folder outside {inside}, where the images are", f"{path}", "Choose another --out.")
