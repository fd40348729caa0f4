"""A drop-in wrapper around a model: its own output, and maps on the side."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from radiolucent.errors import BadInput, InputWarning
from radiolucent.hooks import Layer, OneInput, Sharing, depths, look
from radiolucent.injection.choice import Choice, Deciding, detached
from radiolucent.injection.maps import TABLE, Maps
from radiolucent.methods import as_dict, at_layer, at_layers, from_dict, shared_pass, title
from radiolucent.metrics import METRICS, Metric, measure
from radiolucent.protocols import FirstOrder, Method, Target
from radiolucent.scores import Scores, titles
from radiolucent.targets import Select


class Injected(Sharing):
    """A model that makes maps each time it is called; made by `inject`."""

    def __init__(
        self,
        model: nn.Module,
        methods: Sequence[Method],
        choose: Callable[[Any], Target],
        target_input: int | str,
        output_dir: Path | None,
        metrics: Sequence[str | Metric],
    ) -> None:
        super().__init__(model)
        self.methods, self.choose, self.target_input, self.output_dir = tuple(methods), choose, target_input, output_dir
        self.metrics, self.scores = metrics, Scores()
        self.enabled = True
        self.calls = 0
        self.maps: Maps | None = None
        self._last: tuple[Tensor, Sequence[str]] | None = None
        self.depth: dict[str, int] = {}
        self._at: dict[Any, list[Method]] = {}
        self._alike: dict[Any, bool] = {}
        self._names: Sequence[str] | None = None
        self._takes_mask = "mask" in inspect.signature(model.forward).parameters

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While inside, only the model runs."""
        before, self.enabled = self.enabled, False
        try:
            yield
        finally:
            self.enabled = before

    @contextmanager
    def named(self, *names: str) -> Iterator[None]:
        """While inside, the batch items are called so in the files that are written."""
        self._names = names
        try:
            yield
        finally:
            self._names = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's own output, bit for bit; `maps` then holds what was made of this batch.

        mask=M (b, *grid) or (b, 1, *grid), labels from 1: measures the maps against it, see `scores`. Where the
        model has an input of that name, it gets it: call `measure` instead.
        """
        mask = None if self._takes_mask else kwargs.pop("mask", None)
        if not self.enabled:
            return self._guest(*args, **kwargs)
        x = _input(args, kwargs, self.target_input)
        kept = x.detach().clone()  # some models overwrite their input
        inside = self._guest.module if isinstance(self._guest, _SHELLS) else self._guest
        model = inside if len(args) == 1 and not kwargs else OneInput(inside, args, kwargs, self.target_input)
        key = (*kept.shape[1:], kept.dtype, kept.device)
        if key not in self._at:
            self._found(key, look(model, kept)[1])
        if self._alike.get(key) and self._is_only_looked_at(self._at[key], args, kwargs):
            decide = Deciding(self.choose)
            self.maps = _explain(model, kept, decide, self._at[key])
            output = decide.output
        else:
            output = self._guest(*args, **kwargs)
            decide = Deciding(self.choose, tree_map(detached, output))
            self.maps = _explain(model, kept, decide, self._at[key])
            self._alike[key] = _identical(output, decide.output)
        self._last = x.detach(), self._names or [f"{self.calls:05d}_{item}" for item in range(len(x))]
        self.calls += 1
        if self.output_dir:
            self.maps.save(self.output_dir, self._last[1], x)
        if mask is not None:
            self.measure(mask)
        return output

    def _found(self, key: Any, found: Sequence[Layer]) -> None:
        self._at[key] = [m for method in self.methods for m in at_layers(method, found)]
        self.depth = depths(found)

    def measure(self, mask: Tensor) -> list[dict[str, Any]]:
        """Measure the last call's maps against label images; the rows are also added to `scores`."""
        if self.maps is None or self._last is None:
            raise BadInput("maps to measure", "no call of the model yet", "Call the model first.")
        x, names = self._last
        mask = torch.as_tensor(mask)
        labels = mask[:, 0] if mask.ndim == x.ndim and mask.shape[1] == 1 else mask
        if labels.shape != (len(x), *x.shape[2:]):
            raise BadInput(f"a mask of shape {(len(x), *x.shape[2:])}", f"{tuple(mask.shape)}", "Resample it to the input's grid.")
        rows = []
        for name, t, i, scan, relevance in self.maps.volumes(x):
            method, settings, layer = titles(as_dict(self.maps.methods[name]))
            about = {"case": names[i], "method": method, "settings": settings, "layer": layer, "target": self.maps.targets[t]}
            found = measure(relevance, scan.like(labels[i][None].cpu().numpy()), self.metrics)
            self.scores.add(found, **about, depth=self.depth.get(layer))
            rows += [about | row for row in found]
        return rows

    def _is_only_looked_at(self, methods: Sequence[Method], args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """In eval mode and without gradients one forward can serve the caller and the maps.

        It is used once it was seen to give the same bits for this shape (a fused kernel for inference might not).
        """
        tensors = [t for t in (*tree_leaves([args, kwargs]), *self.parameters()) if isinstance(t, Tensor)]
        wanted = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
        training = any(m.training for m in self._guest.modules())
        return not wanted and not training and all(isinstance(m, FirstOrder) for m in methods)


_SHELLS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def _explain(model: nn.Module, x: Tensor, decide: Deciding, methods: Sequence[Method]) -> Maps:
    """All maps of one batch, with what could not be made and why."""
    first = [m for m in methods if isinstance(m, FirstOrder)]
    made: dict[str, Tensor | BadInput] = dict(zip(map(title, first), shared_pass(model, x, decide, first), strict=True))
    made |= {title(m): m(model, x, decide) for m in methods if not isinstance(m, FirstOrder)}
    with torch.no_grad():
        scores = decide(decide.output).detach().clone()
    failures: dict[tuple[str, int | None, int | None], str] = {}
    target = decide.target.target if isinstance(decide.target, Select) else decide.target
    absent = [(t, i, r) for t, row in enumerate(getattr(target, "fixed", ())) for i, r in enumerate(row) if isinstance(r, BadInput)]
    for t, i, reason in absent:
        scores[t, i] = torch.nan
        failures["", t, i] = str(reason)
    relevance = {name: maps for name, maps in made.items() if isinstance(maps, Tensor)}
    failures |= {(name, None, None): str(maps) for name, maps in made.items() if isinstance(maps, BadInput)}
    for name, maps in relevance.items():
        for t, i, _ in absent:
            maps[t, i] = torch.nan
        flat = maps.flatten(2)
        for t, i in ((~flat.isfinite().all(2)) | ~flat.any(2)).nonzero().tolist():
            if ("", t, i) not in failures:
                failures[name, t, i] = "zero everywhere" if flat[t, i].isfinite().all() else "NaN or infinite in places"
    if failures and len(failures) >= len(made) * len(scores) * len(x):
        raise BadInput("at least one map", "; ".join(dict.fromkeys(failures.values())), "Choose another method, layer or target.")
    if failures:
        (name, target_number, item), why = next(iter(failures.items()))
        parts = (name, f"target {target_number}" if target_number is not None else "", f"item {item}" if item is not None else "")
        where, more = (
            " ".join(filter(None, parts)),
            f" (and {len(failures) - 1} more in maps.failures)" if len(failures) > 1 else "",
        )
        warnings.warn(f"no map for {where}: {why}{more}", InputWarning, stacklevel=4)
    by_name = {title(m): m for m in methods}
    return Maps(relevance, by_name, decide.names(), scores, tuple(x.shape[2:]), failures)


def _input(args: Sequence[Any], kwargs: Mapping[str, Any], where: int | str) -> Tensor:
    try:
        x = args[where] if isinstance(where, int) else kwargs[where]
    except (IndexError, KeyError):
        have = f"{len(args)} positional inputs and {', '.join(kwargs) or 'no named ones'}"
        raise BadInput(f"the input {where!r}, as target_input says", have, "Give it so, or choose another target_input.") from None
    if not isinstance(x, Tensor):
        raise BadInput("a tensor as the input that is explained", type(x).__name__, "Choose another with target_input.")
    return x


def _identical(one: Any, other: Any) -> bool:
    a, b = tree_leaves(one), tree_leaves(other)
    return len(a) == len(b) and all(
        torch.equal(p, q) if isinstance(p, Tensor) and isinstance(q, Tensor) else p == q for p, q in zip(a, b, strict=True)
    )


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
) -> Injected:
    """The model, which from now on makes maps on the side each time it is called.

        model = radiolucent.inject(model, "grad-cam", layer="full", output_dir="maps")
        y = model(x)                 # the model's own output, bit for bit
        model.maps.on_input()        # (targets, batch, channels, *grid)

    Weights, names in the state dict, train or eval mode and attributes are the model's own, which itself is not
    changed. The maps are made in eval mode, whatever the mode of the call.

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
        metrics: what `model(x, mask=...)` measures, as in radiolucent.measure; rows and means are in `model.scores`,
            `model.scores.save(folder)` writes them.
        overwrite: take an output_dir that holds maps already; its table is begun anew.
    """
    if isinstance(model, Injected):
        model = model._guest
    given = [method] if isinstance(method, str) or not isinstance(method, Sequence) else method
    methods = [from_dict({"method": m}) if isinstance(m, str) else m for m in given]
    layers = [layer] if isinstance(layer, str) else layer
    placed = list(dict.fromkeys(at_layer(m, name) for m in methods for name in layers))
    folder = Path(output_dir) if output_dir else None
    if folder and (folder / TABLE).exists():
        if not overwrite:
            raise BadInput(f"no maps yet in {folder}", f"a table {TABLE}", "Choose another output_dir, or pass overwrite=True.")
        (folder / TABLE).unlink()
    return Injected(model, placed, Choice(target, output), target_input, folder, metrics)
