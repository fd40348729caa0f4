"""A drop-in wrapper around a model: its own output, and maps on the side."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from radiolucent.errors import BadInput, Nothing, warn
from radiolucent.hooks import OneInput, Sharing, depths, guest_of, look
from radiolucent.injection.choice import Choice
from radiolucent.injection.making import make_maps
from radiolucent.injection.maps import TABLE, Maps
from radiolucent.methods import at_layer, at_layers, auto_layer, from_dict, titles
from radiolucent.metrics import METRICS, Metric, Part, against_mask, measure
from radiolucent.protocols import Method, Target
from radiolucent.scores import Scores, at_own_label
from radiolucent.targets import Deciding


@dataclass
class Side:
    """All that an injected model keeps for itself, apart from the guest's own attributes."""

    methods: Sequence[Method]
    choose: Callable[[Any], Target]
    target_input: int | str
    output_dir: Path | None
    metrics: Sequence[str | Metric]
    part: Part
    all_pairs: bool = False
    enabled: bool = True
    takes_mask: bool = False
    calls: int = 0
    maps: Maps | None = None
    scores: Scores = field(default_factory=Scores)
    names: Sequence[str] | None = None
    depth: dict[str, int] = field(default_factory=dict)
    last: tuple[Tensor, Sequence[str]] | None = None
    at: dict[Any, list[Method]] = field(default_factory=dict)

    def methods_at(self, model: nn.Module, x: Tensor) -> list[Method]:
        """The methods at the layers that run on images like x."""
        key = (*x.shape[1:], x.dtype, x.device)
        if key not in self.at:
            output, found = look(model, x)
            target = Deciding(lambda plain: self.choose(plain).fix(plain))
            self.at[key] = at_layers(self.methods, found, lambda: auto_layer(model, x, target, output, found))
            self.depth = depths(found)
        return self.at[key]


class Injected(Sharing):
    """A model that makes maps each time it is called; made by `inject`."""

    side: Side

    def __init__(self, model: nn.Module, side: Side) -> None:
        super().__init__(model, side=side)
        side.takes_mask = _takes_mask(_inside(model))

    @property
    def maps(self) -> Maps | None:
        """What was made of the last batch; None where there was nothing to explain."""
        return self.side.maps

    @property
    def scores(self) -> Scores:
        """How the maps of all calls, or of those since its last `clear()`, compare with the masks that were given."""
        return self.side.scores

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While inside, only the model runs."""
        before, self.side.enabled = self.side.enabled, False
        try:
            yield
        finally:
            self.side.enabled = before

    @contextmanager
    def named(self, *names: str) -> Iterator[None]:
        """While inside, the batch items are called so in the files and tables."""
        before, self.side.names = self.side.names, names
        try:
            yield
        finally:
            self.side.names = before

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's own output, bit for bit; `maps` holds what was made of this batch before.

        mask=M (b, *grid) or (b, 1, *grid), labels from 1: measures the maps against it, see `scores`. Where the
        model has an input of that name, it gets it: call `measure` instead.
        """
        mask = None if self.side.takes_mask else kwargs.pop("mask", None)
        if self.side.enabled:
            self._look_aside(args, kwargs, mask)
        # Last, so that what the model keeps from its forward pass is what the caller's pass left there.
        return self._guest(*args, **kwargs)

    def _look_aside(self, args: Sequence[Any], kwargs: Mapping[str, Any], mask: Any) -> None:
        side, inside = self.side, _inside(self._guest)
        given = _input(args, kwargs, side.target_input)
        x = given.detach().clone()  # some models overwrite their input
        if not len(x):
            side.maps = None
            return
        model = inside if len(args) == 1 and not kwargs else OneInput(inside, args, kwargs, side.target_input)
        names = side.names or [f"{side.calls:05d}_{item}" for item in range(len(x))]
        if len(set(names)) != len(x):
            raise BadInput(f"{len(x)} different names, one per batch item", ", ".join(names), "Rename them.")
        side.maps, side.last = None, None
        try:
            side.maps = make_maps(model, x, side.choose, side.methods_at(model, x))
        except Nothing as error:
            warn(f"no map of call {side.calls}: {error}")
        if side.maps is not None:
            side.last = given.detach(), names
            _announce(side.maps)
            if mask is not None:
                self.measure(mask)
            if side.output_dir:
                _save(side.maps, side.output_dir, names, side.last[0])
        side.calls += 1

    def measure(self, mask: Tensor) -> list[dict[str, Any]]:
        """Measure the last call's maps against label images; the rows are also added to `scores`.

        A segmentation's targets are measured at their own labels, unless `inject` was given all_pairs=True.
        """
        side = self.side
        if side.maps is None or side.last is None:
            raise BadInput("maps to measure", "none of the last call, or no call yet", "Call the model first.")
        x, names = side.last
        mask = torch.as_tensor(mask).detach()
        labels = mask[:, 0] if mask.ndim == x.ndim and mask.shape[1] == 1 else mask
        if labels.shape != (len(x), *x.shape[2:]):
            raise BadInput(f"a mask of shape {(len(x), *x.shape[2:])}", f"{tuple(mask.shape)}", "Resample it to the input's grid.")
        rows = []
        for name, t, i, scan, relevance in side.maps.volumes(x):
            method, settings, layer = titles(side.maps.methods[name])
            about = {"case": names[i], "method": method, "settings": settings, "layer": layer, "target": side.maps.items[t][i]}
            own = at_own_label(side.maps.labels[t] if side.maps.labels else None, side.all_pairs, {"part": side.part})
            found = measure(relevance, scan.like(labels[i][None].cpu().double().numpy()), side.metrics, **own)
            side.scores.add(found, **about, depth=side.depth.get(layer))
            rows += [about | row for row in found]
        return rows


_SHELLS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def _inside(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, _SHELLS) else model


def _takes_mask(model: nn.Module) -> bool:
    """Whether the model itself, also behind a compiled shell, has an input called mask."""
    try:
        return "mask" in inspect.signature(getattr(model, "_orig_mod", model).forward).parameters
    except (TypeError, ValueError):  # TorchScript
        return False


def _input(args: Sequence[Any], kwargs: Mapping[str, Any], where: int | str) -> Tensor:
    try:
        x = args[where] if isinstance(where, int) else kwargs[where]
    except (IndexError, KeyError):
        have = f"{len(args)} positional inputs and {', '.join(kwargs) or 'no named ones'}"
        raise BadInput(f"the input {where!r}, as target_input says", have, "Give it so, or choose another target_input.") from None
    if not isinstance(x, Tensor):
        raise BadInput("a tensor as the input that is explained", type(x).__name__, "Choose another with target_input.")
    return x


def _announce(maps: Maps) -> None:
    """One warning for all that could not be made of a batch."""
    if maps.failures:
        (name, target, item), why = next(iter(maps.failures.items()))
        parts = (name, f"target {target}" if target is not None else "", f"item {item}" if item is not None else "")
        more = f" (and {len(maps.failures) - 1} more: see maps.failures)" if len(maps.failures) > 1 else ""
        warn(f"no map for {' '.join(filter(None, parts))}: {why}{more}")


def _save(maps: Maps, folder: Path, names: Sequence[str], x: Tensor) -> None:
    try:
        maps.save(folder, names, x)
    except OSError as error:  # a full disk must not end a training
        warn(f"the maps could not be written to {folder}: {error}")


def _folder(output_dir: str | Path, overwrite: bool) -> Path:
    """The folder for the maps, made where there is none; without a table of earlier ones."""
    if not str(output_dir).strip():
        raise BadInput("a folder for the maps", "an empty name", 'Name it, or "." for this folder; None writes nothing.')
    path = Path(output_dir)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise BadInput("a folder for the maps", f"{path}: {error}", "Choose another output_dir.") from None
    if (path / TABLE).exists():
        if not overwrite:
            raise BadInput(f"no maps yet in {path}", f"a table {TABLE}", "Choose another output_dir, or pass overwrite=True.")
        (path / TABLE).unlink()
    return path


def inject(
    model: nn.Module,
    method: str | Method | Sequence[str | Method] = "grad-cam",
    *,
    layer: str | Sequence[str] = "auto",
    target: Target | int | Sequence[int] | None = None,
    output: str | int | None = None,
    target_input: int | str = 0,
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    metrics: Sequence[str | Metric] = tuple(METRICS),
    part: Part = "positive",
    all_pairs: bool = False,
) -> Injected:
    """The model, which from now on makes maps on the side each time it is called.

        model = radiolucent.inject(model, "grad-cam", layer="full", output_dir="maps")
        y = model(x)                 # the model's own output, bit for bit
        model.maps.on_input()        # (targets, batch, channels, *grid)

    Weights, names in the state dict, train or eval mode and attributes are the model's own, which itself is not
    changed. The maps are made in eval mode, whatever the mode of the call, by a pass of their own before it. Where
    there is nothing to explain in a batch (no voxel of a label), `maps` is None and a warning says why.

    Args:
        method: one or several, by name or as objects with settings.
        layer: for layer-wise methods: a name, several, "auto" (the last with a grid) or "full" (every one with
            a grid: one forward, and one backward per target, serve them all).
        target: a class or label, several, or a Target. None explains what is predicted: each item's class, or
            every label of a segmentation but the background.
        output: which part to explain, where the model returns a dict, tuple or list.
        target_input: position or keyword of the input to explain, where the model takes several.
        output_dir: where each call's maps are written, on the input's grid, with a table `maps.csv`; a MONAI
            MetaTensor's affine goes along.
        overwrite: take an output_dir that holds maps already; its table is begun anew.
        metrics, part: what `model(x, mask=...)` measures, as in radiolucent.metrics.measure; rows and means are in
            `model.scores`, `model.scores.save(folder)` writes them.
        all_pairs: measure a segmentation's targets at all labels of the mask, not each at its own.
    """
    given = [method] if isinstance(method, str) or not isinstance(method, Sequence) else method
    methods = [from_dict({"method": m}) if isinstance(m, str) else m for m in given]
    layers = [layer] if isinstance(layer, str) else layer
    metrics = [metrics] if isinstance(metrics, str) else metrics
    metrics = [against_mask(m) for m in metrics]
    placed = list(dict.fromkeys(at_layer(m, name) for m in methods for name in layers))
    folder = None if output_dir is None else _folder(output_dir, overwrite)
    return Injected(guest_of(model), Side(placed, Choice(target, output), target_input, folder, metrics, part, all_pairs))
