"""What a worker does: the model once, then one case after the other, each from its files to its folder."""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from radiolucent import io
from radiolucent.case import outlines, write_maps, write_page
from radiolucent.errors import BadInput, InputWarning
from radiolucent.explanation import Prediction, predict
from radiolucent.hooks.taps import module_of
from radiolucent.methods import as_dict, at_layer, named_layers
from radiolucent.models import Card, load
from radiolucent.parcellation import Parcellation
from radiolucent.plan import Explained, Plan, choose_targets, explain_all, is_segmentation, output_of, read_scan
from radiolucent.protocols import Target
from radiolucent.provenance import scan_hash, weights_hash
from radiolucent.report import Anatomy
from radiolucent.study.checking import check_names, check_output, on_device
from radiolucent.study.claims import claim
from radiolucent.study.cohort import Case
from radiolucent.study.recipe import Recipe
from radiolucent.study.rows import Row, case_rows, cost_rows, names_of, parcellation_of, region_rows, streamed_rows
from radiolucent.study.store import Study
from radiolucent.study.tables import to_parquet
from radiolucent.study.thumbnails import thumbnail
from radiolucent.targets import label_map
from radiolucent.tiling import Tiled, untiled


@dataclass(frozen=True)
class Job:
    """All that a worker must know. `identity` is what the driver has seen of recipe and model, `threads` PyTorch's."""

    recipe: Recipe
    folder: Path
    identity: Mapping[str, Any]
    threads: int | None = None

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Outcome:
    """How a case ended. `elsewhere`: another process is at it; `there`: one has just done it.

    `blameless`: it failed, but not by itself (a full disk).
    """

    case: str
    status: Literal["done", "failed", "elsewhere", "there"]
    reason: str = ""
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    blameless: bool = False


@dataclass(frozen=True)
class Loaded:
    """The model as the recipe wants it, on its device, and the plan of what is done to each case."""

    network: nn.Module
    card: Card
    plan: Plan
    identity: Mapping[str, Any]


def load_model(recipe: Recipe) -> Loaded:
    """The recipe's model, its plan, and all that must stay the same while a study runs."""
    with warnings.catch_warnings():  # they are in the card's notes
        warnings.simplefilter("ignore", InputWarning)
        network, card = load(recipe.model.model, recipe.model.weights, trust=recipe.model.trust)
    check_names(recipe, card)
    methods = tuple(at_layer(method, card.layer) for method in recipe.explain.methods)
    for layer in (name for method in methods for name in named_layers(method)):
        module_of(network, layer)
    plan = Plan(methods, recipe.explain.targets, recipe.explain.reduce, check="off")
    if recipe.model.window:
        network = Tiled(untiled(network), recipe.model.window, recipe.model.overlap, recipe.model.blend)
    if recipe.regions.streamed and not isinstance(network, Tiled):
        raise BadInput("[model] window, where [regions] are streamed", "none, in the recipe or the card", "Add it.")
    identity = _identity(recipe, plan, card, network)
    return Loaded(on_device(network, recipe.model.device), card, plan, identity)


def model_facts(network: nn.Module, card: Card, device: str) -> dict[str, Any]:
    """What a model's maps depend on: it must stay the same as long as results are added to earlier ones."""
    return {
        "weights_sha256": weights_hash(network),
        "task": card.task,
        "classes": card.classes,
        "regions": card.regions,
        "output": card.output,
        "spread": card.spread,
        "preprocessing": card.preprocessing.as_dict(),
        "windows": dict(network.settings) if isinstance(network, Tiled) else None,
        "device": device,
    }


def _identity(recipe: Recipe, plan: Plan, card: Card, network: nn.Module) -> dict[str, Any]:
    regions = recipe.regions
    parcellation = regions.parcellation
    if parcellation not in ("predicted", "label"):  # a study and its data may move together
        parcellation = os.path.relpath(parcellation, recipe.cohort.root)
    values = {
        "model": model_facts(network, card, recipe.model.device) | {"mean": card.mean, "unit": str(card.about.get("unit", ""))},
        "explain": {"methods": [as_dict(m) for m in plan.methods], "targets": plan.targets, "reduce": plan.reduce},
        "regions": {
            "parcellation": parcellation,
            "names_sha256": hashlib.sha256(regions.names.read_bytes()).hexdigest() if regions.names else None,
            "joined": dict(regions.joined),
            "near_mm": regions.near_mm,
            "streamed": regions.streamed,
        },
        "keep": {"maps": recipe.keep.maps, "reports": recipe.keep.reports},
    }
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


_loaded: dict[str, Loaded] = {}  # one at most, in each worker's process


def loaded(job: Job) -> Loaded:
    """The job's model, loaded once per process; refused where it is not the model that the study was begun with."""
    if job.key not in _loaded:
        if job.threads:
            torch.set_num_threads(job.threads)
        found = load_model(job.recipe)
        if found.identity != job.identity:
            raise BadInput("the same model in every process", "other weights here", "Give [model] weights, or a fixed seed.")
        keep(job, found)
    return _loaded[job.key]


def keep(job: Job, found: Loaded) -> None:
    """Use a model that this process has loaded already."""
    _loaded.clear()
    _loaded[job.key] = found


def work(job: Job, case: Case) -> Outcome:
    """Do one case, unless it is done or another process is at it; a failure is noted in failed/ and raises nothing."""
    study, start = Study(job.folder), time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", InputWarning)
        try:
            with claim(study.mark(case.folder)) as ours:
                if not ours:
                    return Outcome(case.id, "elsewhere")
                outcome = Outcome(case.id, "there") if study.is_done(case) else _attempt(job, study, case)
        except OSError as error:  # of the claim itself: no room for it
            outcome = Outcome(case.id, "failed", f"{type(error).__name__}: {error}", blameless=True)
    notes = []
    for warning in caught:
        if issubclass(warning.category, InputWarning):
            notes.append(str(warning.message))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return replace(outcome, notes=(*outcome.notes, *dict.fromkeys(notes)), seconds=time.perf_counter() - start)


def _attempt(job: Job, study: Study, case: Case) -> Outcome:
    model = loaded(job)
    try:
        notes = write_case(case, study.folder / "cases" / case.folder, model, job.recipe)
    except Exception as error:  # a case may fail in any way; the others go on
        if study.is_done(case):  # another process was quicker where nothing can be claimed
            return Outcome(case.id, "there")
        reason = str(error) if isinstance(error, BadInput) else f"{type(error).__name__}: {error}"
        blameless = io.no_room(error)
        if not blameless:
            study.quarantine(case, reason)
        return Outcome(case.id, "failed", reason, blameless=blameless)
    study.failure(case.folder).unlink(missing_ok=True)
    return Outcome(case.id, "done", notes=notes)


def write_case(case: Case, folder: Path, model: Loaded, recipe: Recipe) -> tuple[str, ...]:
    """The case's folder, whole or not at all; returns remarks. Rows are the same bytes wherever they are made."""
    start = time.perf_counter()
    prediction = predict(model.network, read_scan(case.image, model.card, model.plan), model.card.preprocessing)
    targets, notes = targets_there(prediction, model.card, model.plan)
    parcellation, called = parcellation_of(case, prediction, model.card, recipe.regions)
    found = _added_up(prediction, targets, parcellation, model, recipe)
    failed = [f"{method} failed: {reason}" for method, reason in found.explained.failures.items()]  # the page says so itself
    tables = {
        "regions": found.regions,
        "cases": case_rows(case, prediction, targets, model.card, recipe.explain.targets),
        "costs": found.costs,
    }
    explained = found.explained
    with io.new_folder(folder) as new:
        for name, rows in tables.items():
            io.put(new / f"{name}.parquet", to_parquet(name, [{"case": case.id} | row for row in rows]))
        maps = write_maps(new, case.image, explained.explanations, model.plan)[0] if recipe.keep.maps else []
        if recipe.keep.thumbnails and explained.explanations:
            io.put(new / "thumbnail.png", thumbnail(prediction.scan, explained.explanations))
        if recipe.keep.reports and explained.explanations:
            own = recipe.regions.parcellation in ("predicted", "label") and recipe.regions.names is None
            rows = [row for row in found.regions if row["kind"] == "label"]
            anatomy = Anatomy(parcellation, called, rows, outlines(prediction, model.card) if own else {})
            write_page(new / "report.html", case.id, explained, model.card, anatomy, notes)
        summary = explained.summary(maps) | {
            "case": case.id,
            "input_sha256": scan_hash(prediction.scan),
            "notes": [*prediction.scan.notes, *notes, *failed],
            "seconds": round(time.perf_counter() - start, 2),
        }
        io.put(new / "summary.json", json.dumps(summary, indent=1).encode(errors="replace"))
    return (*notes, *failed)


class _Added(NamedTuple):
    """A case's explanations (none where maps are never whole), their rows, and what they cost."""

    explained: Explained
    regions: list[Row]
    costs: list[Row]


def _added_up(prediction: Prediction, targets: Target | None, parcellation: Parcellation, model: Loaded, recipe: Recipe) -> _Added:
    if targets is None:
        return _Added(Explained(prediction, (), {}), [], [])
    if recipe.regions.streamed:
        found = streamed_rows(prediction, targets, parcellation, model.card, recipe.regions, model.plan.methods)
        return _Added(Explained(prediction, (), found.failures), found.rows, found.costs)
    explained = explain_all(prediction, targets, model.card, model.plan, parcellation)
    names = names_of([e.method for e in explained.explanations], model.plan.methods)
    rows = region_rows(explained, parcellation, model.card, recipe.regions, names)
    return _Added(explained, rows, cost_rows(explained.explanations, names))


def targets_there(prediction: Prediction, card: Card, plan: Plan) -> tuple[Target | None, list[str]]:
    """The targets that this scan has, and a note on those that it has not: a class without a voxel is no failure."""
    if not is_segmentation(prediction, card):
        return choose_targets(prediction, card, plan), []
    output = output_of(prediction, card)
    check_output(output, plan.targets, card)
    if plan.targets and plan.reduce == "probability":  # which needs no voxel
        return choose_targets(prediction, card, plan), []
    if card.regions:
        seen = {c for c in range(output.shape[1]) if bool((output[:, c] > 0).any())}
    else:
        seen = set(torch.unique(label_map(output)).tolist())
    absent = [name for name in plan.targets if card.index(name) not in seen]
    there = replace(plan, targets=tuple(name for name in plan.targets if name not in absent))
    if not there.targets and (absent or not (seen if card.regions else seen - {0})):
        return None, ["the model predicts no voxel of any target here: nothing to explain"]
    notes = [f"no voxel predicted of {', '.join(absent)}: not explained"] if absent else []
    return choose_targets(prediction, card, there), notes
