"""From one scan to its explanations: the one place that handles device, modes, grids and provenance."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from radiolucent import provenance
from radiolucent.errors import BadInput, InputWarning
from radiolucent.explanation.kinds import check_kinds
from radiolucent.explanation.result import Explanation
from radiolucent.explanation.slices import located
from radiolucent.geometry import centre, coarsen, upsample
from radiolucent.hooks import Layer, depths, look
from radiolucent.methods import KernelSHAP, at_layers, auto_layer, shared_pass, titles
from radiolucent.methods.masking import MaskMethod, Told, masks
from radiolucent.methods.smocam import scaled
from radiolucent.models.preprocessing import Prepares, Preprocessing
from radiolucent.parcellation import Parcellation
from radiolucent.protocols import Detailed, FirstOrder, Method, Target
from radiolucent.targets import Deciding, Select, label_map, own_labels, part_of
from radiolucent.volume import Volume


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the unperturbed model says about one scan: the start of every explanation, made by `predict`.

    Args:
        model: the guest, as it was given.
        scan: the scan on its own grid.
        image: the scan on the model's grid, preprocessed.
        output: the model's output for it (batch of one, no graph).
        layers: the layers that ran, in order.
        preprocessing: how `image` came from `scan`.
    """

    model: nn.Module
    scan: Volume
    image: Volume
    output: Any
    layers: Sequence[Layer]
    preprocessing: Prepares

    @property
    def x(self) -> Tensor:
        """The image as the model takes it, (1, c, *grid)."""
        return _tensor(self.model, self.image)

    def auto(self, part: str | int | None = None) -> str:
        """What layer="auto" means for the output, or for its part of that name or position."""
        return auto_layer(self.model, self.x, lambda o: o if part is None else part_of(o, part), self.output, self.layers)

    def labels(self, part: str | int | None = None, regions: Sequence[int] = ()) -> Volume:
        """A segmentation model's label map (int32, nearest neighbour) on the scan's own grid.

        `part` names the segmentation where the model returns a dict, tuple or list; `regions` are the labels of
        channels that overlap (see Card).
        """
        output = self.output if part is None else part_of(self.output, part)
        if not isinstance(output, Tensor) or output.ndim != self.image.data.ndim + 1:
            raise BadInput(
                "a segmentation output (batch, classes, *grid)", f"{type(output).__name__}", "Use it for segmentation models."
            )
        labels = label_map(output, regions).cpu().numpy().astype(np.int32)
        shape = labels.shape[1:]
        coarser = all(n % m == 0 for n, m in zip(self.image.grid.shape, shape, strict=True))
        # Some models answer on a coarser grid; without padding, in the middle of theirs.
        cells = (coarsen if coarser else centre)(self.image.grid, shape)
        return Volume(labels, cells.affine, self.image.has_world).on(self.scan.grid, nearest=True)

    def explain(
        self,
        methods: Sequence[Method],
        targets: Target,
        *,
        classes: Sequence[str] = (),
        failed: Callable[[Method, BadInput], None] | None = None,
        parcellation: Parcellation | None = None,
        spread: Sequence[float] = (),
    ) -> list[Explanation]:
        """Several methods, several targets; all first-order methods share one forward pass.

        layer="full" stands for every layer with a grid, one explanation each. A method that fails, or whose
        map of some target is zero or not finite, raises; where `failed` is given it is handed to it with the
        reason, while the others, and its other targets, go on. `parcellation` is for methods with
        regions="parcellation", `spread` (the card's) for SMOCAM.
        """
        check_kinds(methods, targets)
        refuse = failed or _raise
        fixed = targets.fix(self.output)
        names = fixed.names(classes)
        plain = fixed(self.output).detach()
        methods = at_layers(methods, self.layers, lambda: auto_layer(self.model, self.x, fixed, self.output, self.layers))
        labels = own_labels(fixed)
        origin = {"target": repr(targets)} | ({"label_names": list(classes)} if labels and classes else {})
        origin |= provenance.describe(self.model, self.scan, self.preprocessing.as_dict())
        done: dict[int, Explanation] = {}
        ready: dict[int, Method] = {}
        for i, method in enumerate(methods):
            try:
                ready[i] = scaled(self._over(method, parcellation), fixed, spread)
            except BadInput as error:
                refuse(method, error)
        for i, relevance, cost in self._made(ready, fixed, plain, catch=failed is not None):
            if isinstance(relevance, BadInput):
                refuse(methods[i], relevance)
                continue
            volumes: dict[int, Volume] = {}
            for t, placed in enumerate(self.placed(relevance, methods[i], names)):
                if isinstance(placed, BadInput):
                    refuse(methods[i], placed)
                else:
                    volumes[t] = placed
            if volumes:
                said = tuple(names[t] for t in volumes), tuple(plain[t, 0].item() for t in volumes)
                facts = origin | cost | self._cells(methods[i], relevance)
                facts |= {"labels": [labels[t] for t in volumes]} if labels else {}
                facts |= {"details": [located(cost["details"][t], self.image) for t in volumes]} if "details" in cost else {}
                done[i] = Explanation(tuple(volumes.values()), *said, methods[i], facts)
        return [done[i] for i in sorted(done)]

    def _made(
        self, methods: Mapping[int, Method], targets: Target, plain: Tensor, catch: bool
    ) -> Iterator[tuple[int, Tensor | BadInput, dict[str, Any]]]:
        """Each method's number, its map (or the reason why there is none) and cost; those that can share a pass do."""
        kinds = {i: next((kind for kind in (FirstOrder, MaskMethod) if isinstance(m, kind)), None) for i, m in methods.items()}
        groups = [[i for i, own in kinds.items() if own is kind] for kind in (FirstOrder, MaskMethod)]
        groups = [group for group in groups if group] + [[i] for i, own in kinds.items() if own is None]
        for group in groups:
            maps, cost = self._run([methods[i] for i in group], targets, plain, catch)
            if len(group) > 1 and all(isinstance(m, BadInput) for m in maps):  # one may take the others along
                groups.extend([i] for i in group)
                continue
            for i, made in zip(group, maps, strict=True):
                if isinstance(made, BadInput):
                    yield i, made, cost
                else:
                    yield i, made[0], cost | ({"details": made[1]} if made[1] else {})

    def _run(
        self, group: list[Method], targets: Target, plain: Tensor, catch: bool
    ) -> tuple[list[Told | BadInput], dict[str, Any]]:
        """A group's maps with details, or the reasons why there is none, and what they cost together; `plain` are the scores."""
        x = self.x
        start = time.perf_counter()
        made: list[Told | BadInput]
        try:
            if isinstance(group[0], FirstOrder):
                met = Deciding.decided(targets)
                maps = shared_pass(self.model, x, met, [m for m in group if isinstance(m, FirstOrder)])
                made = [m if isinstance(m, BadInput) else (m, ()) for m in maps]
                _compare(met.scores, plain)
            elif isinstance(group[0], MaskMethod):
                made = masks(self.model, x, targets, [m for m in group if isinstance(m, MaskMethod)])
            else:
                one = (self.model, x, targets)
                made = [group[0].detailed(*one) if isinstance(group[0], Detailed) else (group[0](*one), ())]
        except Exception as error:  # also what a guest or the memory may raise
            if not catch:
                raise
            reason = f"{type(error).__name__}: {error}"
            made = [error if isinstance(error, BadInput) else BadInput(f"a map from {m}", reason, "Mend the model.") for m in group]
        seconds = time.perf_counter() - start
        cost = {"seconds": round(seconds, 4), "shared_by_methods": len(group), "peak_memory_mib": provenance.peak_memory(x)}
        return made, cost

    def _over(self, method: Method, parcellation: Parcellation | None) -> Method:
        """A method that asks for a parcellation, with its labels on the model's grid."""
        if parcellation is None or not isinstance(method, KernelSHAP) or method.regions != "parcellation":
            return method
        labels = parcellation.on(self.scan.grid).labels.on(self.image.grid, nearest=True)
        return method.over(torch.from_numpy(np.ascontiguousarray(labels.data)))

    def placed(self, relevance: Tensor, method: Method, names: Sequence[str]) -> list[Volume | BadInput]:
        """(t, 1, c, *cells) on the scan's own grid; a map without a finite value above or below 0 is none."""
        shape = tuple(self.image.data.shape[1:])
        placed: list[Volume | BadInput] = []
        for row, name in zip(relevance, names, strict=True):
            fine = upsample(row[None], shape)[0, 0].float().cpu().numpy()
            volume = self.image.like(fine).on(self.scan.grid)
            finite = bool(row.isfinite().all()) and bool(np.isfinite(volume.data).all())
            if finite and volume.data.any():
                placed.append(volume)
                continue
            zero = "A CAM is zero where all evidence speaks against the target: HiResCAM keeps its sign."
            placed.append(
                BadInput(
                    f"a relevance map from {method} for the target {name}",
                    f"one that is {'zero everywhere on the scan' if finite else 'NaN or infinite in places'}",
                    zero if finite else "Check the weights.",
                )
            )
        return placed

    def _cells(self, method: Method, relevance: Tensor) -> dict[str, Any]:
        """The map's own grid, and the place of its layer among those that ran."""
        cells = coarsen(self.image.grid, tuple(relevance.shape[3:]))
        depth, layer = depths(self.layers), titles(method)[2]
        where = {"depth": depth[layer]} if layer in depth else {}
        return {"cells": list(cells.shape), "cell_mm": [round(s, 3) for s in cells.spacing]} | where


def _raise(method: Method, error: BadInput) -> None:
    raise error


def _compare(scores: Tensor | None, plain: Tensor) -> None:
    """Warn where the pass that made the maps did not say what the plain one said."""
    if scores is not None and (scores - plain).abs().max() > 1e-2 * plain.abs().max():
        said = f"scores {plain[:, 0].tolist()}, and {scores[:, 0].tolist()} when the maps were made"
        warnings.warn(f"the model does not repeat itself: {said}", InputWarning, stacklevel=6)


def predict(model: nn.Module, scan: Volume, preprocessing: Prepares | None = None) -> Prediction:
    """Run the model once on a scan, as it would be used, and note which layers ran."""
    if not isinstance(model, nn.Module):
        raise BadInput("a PyTorch model", type(model).__name__, "Give the nn.Module itself; radiolucent.load gives (model, card).")
    if not isinstance(scan, Volume):
        do = "Wrap an array of shape (channels, *grid): Volume(array, affine); radiolucent.read(path) reads a file."
        raise BadInput("a Volume as the scan", type(scan).__name__, do)
    preprocessing = preprocessing or Preprocessing()
    image = preprocessing(scan)
    convolutions = {len(m.kernel_size) for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d))}
    axes = image.data.ndim - 1
    if convolutions == {3} and axes == 2:
        raise BadInput("a 3D image for this 3D model", f"2 axes of shape {image.grid.shape}", "Give a volume.")
    try:
        output, layers = look(model, _tensor(model, image))
    except BadInput:
        raise
    except Exception as error:  # a guest may raise anything
        text = str(error).strip().split("\n")[0]
        raise BadInput(
            "an image that the model can take",
            f"shape {(1, *image.data.shape)} (batch, channels, *grid): {type(error).__name__}: {text[:300]}",
            "Check channels, number of axes and size against the model's training.",
        ) from error
    return Prediction(model, scan, image, output, layers, preprocessing)


def explain(
    model: nn.Module,
    scan: Volume,
    method: Method,
    targets: Target,
    *,
    preprocessing: Prepares | None = None,
    classes: Sequence[str] = (),
    output: str | int | None = None,
    parcellation: Parcellation | None = None,
    spread: Sequence[float] = (),
) -> Explanation:
    """Explain one scan with one method: relevance on the scan's own grid, for each of the targets.

    Args:
        model: any PyTorch model; it is left exactly as it was.
        scan: the scan (radiolucent.read, or Volume(array, affine)).
        method: for example GradCAM("layer4") or SmoothGrad().
        targets: for example Logits(1), Outputs() or Region(1, 2); several cost one forward pass.
        preprocessing: what the model was trained on; None gives it the scan as it is.
        classes: names of the classes, for the targets' names.
        output: key or position of the part to explain, where the model returns a dict, tuple or list.
        parcellation: regions for methods that want some, such as KernelSHAP("parcellation").
        spread: standard deviation of each output over the training data, as the card has it, for SmoCAM.

    Raises:
        BadInput: says what was expected, what came, and what to do.

    Several methods of one scan share their forward pass through `predict(...).explain([...], targets)`.
    """
    chosen = targets if output is None else Select(output, targets)
    return predict(model, scan, preprocessing).explain([method], chosen, classes=classes, parcellation=parcellation, spread=spread)[
        0
    ]


def _tensor(model: nn.Module, image: Volume) -> Tensor:
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return torch.from_numpy(np.ascontiguousarray(image.data))[None].to(like.device, like.dtype)
