"""What a finished seed leaves: a model folder with its measures, predictions and pictures; and the summary over seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from radiolucent import io
from radiolucent.geometry import Array
from radiolucent.io.tables import write_table
from radiolucent.models import Card
from radiolucent.training import figures, networks, scoring
from radiolucent.training.cases import Cases
from radiolucent.training.fitting import Fit
from radiolucent.training.folder import Folder, write_model
from radiolucent.training.images import Images
from radiolucent.training.networks import State
from radiolucent.training.recipe import Recipe
from radiolucent.training.splits import SPLITS
from radiolucent.version import VERSION


def card_of(recipe: Recipe, images: Images, truths: Array) -> Card:
    """The card of a training's weights, before there are measures. `truths` are those of the training cases."""
    regression = recipe.training.task == "regression"
    cases = images.cases
    about = {
        **cases.about,
        "labels": recipe.training.task,
        "cases": {split: len(cases.part(split)) for split in SPLITS},
        "optimiser": {k: v for k, v in recipe.as_dict()["optimiser"].items() if v},
        "versions": {"radiolucent": VERSION, "torch": torch.__version__},
        "limits": "Trained for research; not for diagnosis.",
    }
    first = networks.weights_path(recipe.model)
    return Card(
        name=recipe.training.name,
        task="regression" if regression else "classification",
        weights="model.safetensors",
        **networks.card_arguments(recipe.model),
        channels=images.shape[0],
        classes=cases.classes,
        preprocessing=recipe.preprocessing,
        spread=tuple(truths.std(0, ddof=1).tolist()) if regression else (),
        about=about | ({"first weights": first.name} if first else {}),
    )


def finish(fit: Fit, weights: State, card: Card) -> None:
    """Measure the weights on validation and test, and write the seed's folder, whole or not at all."""
    recipe, cases, folder = fit.recipe, fit.cases, fit.setting.folder
    fit.settle(weights)
    told = {split: fit.meaning.told(fit.outputs(cases.part(split))) for split in ("val", "test")}
    if not fit.accelerator.is_main_process:
        return
    scores = {split: _scores(cases, split, found, recipe) for split, found in told.items()}
    if recipe.training.task == "regression" and not fit.meaning.own_units:
        image = fit.images[(int(fit.train[0]), -1)][0].to(fit.accelerator.device)
        scale = (fit.meaning.mean.to(image.device), fit.meaning.spread.to(image.device))
        weights = networks.rescaled(fit.network, *scale, image)
    p = fit.progress
    metrics = {
        "seed": fit.seed,
        "epochs": p.epoch,
        "kept": "last" if recipe.stopping.keep == "last" or p.best_epoch < 0 else f"epoch {p.best_epoch + 1}",
        "seconds": round(sum(row["seconds"] for row in p.history), 2),
        **{split: scoring.plain(found) for split, found in scores.items()},
    }
    short = {name: None if math.isnan(found.mean) else round(found.mean, 4) for name, found in scores["test"].items()}
    with io.new_folder(folder.seed(fit.seed), replace=True) as new:
        write_model(new, weights, replace(card, about=dict(card.about) | {"seed": fit.seed, "test": short}))
        write_table(new / "history.csv", p.history)
        write_table(
            new / "predictions.csv", [row for split, found in told.items() for row in _predictions(cases, split, found, recipe)]
        )
        for name, content in _pictures(cases, told["test"], recipe).items():
            io.put(new / name, content)
        io.put(new / "learning.png", figures.learning(p.history, recipe.watch))
        io.put(new / "metrics.json", json.dumps(metrics, indent=1).encode())
    folder.forget(fit.seed, features=networks.weights_path(recipe.model) is None)


def _scores(cases: Cases, split: str, told: Array, recipe: Recipe) -> dict[str, Any]:
    numbers = cases.part(split)
    return scoring.score(cases.labels[numbers], told, recipe.training.task, [cases.patients[n] for n in numbers])


def _predictions(cases: Cases, split: str, told: Array, recipe: Recipe) -> list[dict[str, Any]]:
    """A row per case: what it is, what it was taken for, and each output."""
    rows = []
    for n, row in zip(cases.part(split), told, strict=True):
        truth, values = cases.labels[n], {name: float(v) for name, v in zip(cases.classes, row, strict=True)}
        head: dict[str, Any] = {"case": cases.ids[n], "split": split, "patient": cases.patients[n]}
        if recipe.training.task == "classification":
            head |= {"label": cases.classes[truth], "predicted": cases.classes[int(row.argmax())]}
            rows.append(head | {f"p({name})": v for name, v in values.items()})
        else:
            head |= {f"true({name})": float(v) for name, v in zip(cases.classes, truth, strict=True)}
            rows.append(head | {f"predicted({name})": v for name, v in values.items()})
    return rows


def _pictures(cases: Cases, told: Array, recipe: Recipe) -> dict[str, bytes]:
    """Of the test cases: confusion matrix and ROC curves, or predicted against true values."""
    truth, classes = cases.labels[cases.part("test")], cases.classes
    if recipe.training.task == "regression":
        return {"agreement.png": figures.agreement(truth, told, classes)}
    if recipe.training.task == "multi-label":
        return {"roc.png": figures.roc({name: (truth[:, k] > 0.5, told[:, k]) for k, name in enumerate(classes)})}
    shown = [1] if len(classes) == 2 else range(len(classes))
    return {
        "confusion.png": figures.confusion(truth, told.argmax(1), classes),
        "roc.png": figures.roc({classes[k]: (truth == k, told[:, k]) for k in shown}),
    }


def summarise(folder: Folder, recipe: Recipe) -> dict[str, Any]:
    """Mean and standard deviation over the seeds that are done; the best in validation becomes the folder's own model."""
    done = [folder.metrics(seed) for seed in recipe.training.seeds if folder.is_done(seed)]
    names = scoring.MEASURES[recipe.training.task]
    rows = [_over_seeds(split, name, [found[split][name]["mean"] for found in done]) for split in ("val", "test") for name in names]
    best = max(done, key=lambda found: _worth(found, recipe.watch))["seed"]
    summary = {
        "seeds": [found["seed"] for found in done],
        "best_in_validation": best,
        "seconds": [found["seconds"] for found in done],
        "measures": [{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in rows],
    }
    _publish(folder.seed(best), folder.path)
    write_table(folder.path / "summary.csv", rows)
    if len(done) > 1:
        values = {name: [_float(found["test"][name]["mean"]) for found in done] for name in names if name not in ("mae", "rmse")}
        io.put(folder.path / "summary.png", figures.boxes(values, "test"))
    io.put(folder.path / "summary.json", json.dumps(summary, indent=1).encode())
    return summary


def _over_seeds(split: str, name: str, values: Sequence[float | None]) -> dict[str, Any]:
    known = [v for v in values if v is not None]
    mean = float(np.mean(known)) if known else float("nan")
    deviation = float(np.std(known, ddof=1)) if len(known) > 1 else float("nan")
    return {"split": split, "measure": name, "mean": mean, "sd": deviation, "seeds": len(known)}


def _worth(metrics: Mapping[str, Any], watch: str) -> float:
    """How good a seed is in validation; the loss is not kept, so its first measure stands for it."""
    name = watch if watch in metrics["val"] else next(iter(metrics["val"]))
    value = _float(metrics["val"][name]["mean"])
    return -math.inf if math.isnan(value) else -value if name in scoring.LOWER_IS_BETTER else value


def _float(value: float | None) -> float:
    return math.nan if value is None else value


def _publish(seed: Path, path: Path) -> None:
    """A card never stands beside the weights of another seed: the old one goes first, the new one comes last."""
    new = {name: (seed / name).read_bytes() for name in ("model.safetensors", "card.json")}
    if all((path / name).is_file() and (path / name).read_bytes() == content for name, content in new.items()):
        return
    (path / "card.json").unlink(missing_ok=True)
    for name, content in new.items():
        io.put(path / name, content)
