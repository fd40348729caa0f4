"""From one scan to its explanations: the one place that handles device, modes, grids and provenance."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from radiolucent import io, provenance
from radiolucent.errors import BadInput, InputWarning
from radiolucent.geometry import centre, coarsen, upsample
from radiolucent.hooks import Layer, depths, look
from radiolucent.methods import as_dict, at_layers, from_dict, shared_pass, titles
from radiolucent.models.preprocessing import Prepares, Preprocessing
from radiolucent.protocols import Additive, FirstOrder, Method, Target, adds_up
from radiolucent.targets import Select, label_map, part_of
from radiolucent.volume import Volume


@dataclass(frozen=True, eq=False)
class Explanation:
    """What one method says about one scan, with everything needed to read and repeat it.

    Args:
        relevance: for each target a Volume (c, *grid) on the scan's own grid; signed, un-normalised.
        targets: a name for each target.
        scores: each target's score for the unperturbed scan.
        method: the method with its hyper-parameters ("auto" layers resolved).
        provenance: hashes of weights and input, versions, device, seconds, peak memory, notes.
    """

    relevance: tuple[Volume, ...]
    targets: tuple[str, ...]
    scores: tuple[float, ...]
    method: Method
    provenance: Mapping[str, Any]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Explanation) and all(
            getattr(self, name) == getattr(other, name) for name in self.__dataclass_fields__
        )

    __hash__ = None  # type: ignore[assignment]  # arrays are not hashable

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write `explanation.json` and one map per target (NIfTI; for 2D a float TIFF beside it), all or nothing."""
        folder = Path(folder)
        first = self.relevance[0]
        with io.new_folder(folder, replace=overwrite) as new:
            for number, relevance in enumerate(self.relevance):
                io.write(new / f"target_{number}.nii.gz", relevance)
                if relevance.data.ndim == 3 and len(relevance.data) == 1:
                    io.write(new / f"target_{number}.tiff", relevance)
            values = {
                "targets": self.targets,
                "scores": self.scores,
                "method": as_dict(self.method),
                "grid": {"shape": first.grid.shape, "affine": first.affine.tolist(), "has_world": first.has_world},
                "provenance": dict(self.provenance),
            }
            io.put(new / "explanation.json", json.dumps(values, indent=1).encode())
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Explanation:
        """What `save` wrote, equal to what was saved."""
        folder = Path(folder)
        try:
            values = json.loads((folder / "explanation.json").read_bytes())
            grid, targets = values["grid"], values["targets"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadInput(f"explanation.json in {folder}", str(error), "Is it a folder that Explanation.save wrote?") from None
        relevance = []
        for number in range(len(targets)):
            with warnings.catch_warnings():  # the affine comes from the JSON, where a NIfTI without a world has none
                warnings.simplefilter("ignore", InputWarning)
                data = io.read(folder / f"target_{number}.nii.gz", frame="channels").data
            relevance.append(Volume(data.reshape(len(data), *grid["shape"]), np.array(grid["affine"]), grid["has_world"]))
        method = from_dict(values["method"])
        return cls(tuple(relevance), tuple(targets), tuple(values["scores"]), method, values["provenance"])


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

    def labels(self, part: str | int | None = None) -> Volume:
        """A segmentation model's label map (int32, nearest neighbour) on the scan's own grid.

        `part` names the segmentation where the model returns a dict, tuple or list.
        """
        output = self.output if part is None else part_of(self.output, part)
        if not isinstance(output, Tensor) or output.ndim != self.image.data.ndim + 1:
            raise BadInput(
                "a segmentation output (batch, classes, *grid)", f"{type(output).__name__}", "Use it for segmentation models."
            )
        labels = label_map(output).cpu().numpy().astype(np.int32)
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
    ) -> list[Explanation]:
        """Several methods, several targets; all first-order methods share one forward pass.

        layer="full" stands for every layer with a grid, one explanation each. A method that fails, or whose
        map of some target is zero or not finite, raises; where `failed` is given it is handed to it with the
        reason, while the others, and its other targets, go on.
        """
        recipe = repr(targets)
        targets = targets.fix(self.output)
        names = targets.names(classes)
        plain = targets(self.output).detach()
        scores = plain[:, 0].tolist()
        methods = [at for m in methods for at in at_layers(m, self.layers)]
        shared = [i for i, m in enumerate(methods) if isinstance(m, FirstOrder)]
        groups = [shared] if shared else []
        groups += [[i] for i, m in enumerate(methods) if not isinstance(m, FirstOrder)]
        done: dict[int, Explanation] = {}
        depth = depths(self.layers)
        common = {"target": recipe} | provenance.describe(self.model, self.scan, self.preprocessing.as_dict())
        for group in groups:
            maps, cost = self._run([methods[i] for i in group], targets, plain, catch=failed is not None)
            if len(group) > 1 and all(isinstance(m, BadInput) for m in maps):  # one may take the others along
                groups.extend([i] for i in group)
                continue
            for i, relevance in zip(group, maps, strict=True):
                volumes = self._placed(relevance, methods[i], names) if isinstance(relevance, Tensor) else [relevance]
                for result in volumes:
                    if isinstance(result, BadInput):
                        if failed is None:
                            raise result
                        failed(methods[i], result)
                kept = [t for t, volume in enumerate(volumes) if isinstance(volume, Volume)]
                if kept and isinstance(relevance, Tensor):
                    cells = coarsen(self.image.grid, tuple(relevance.shape[3:]))
                    shape = {"cells": list(cells.shape), "cell_mm": [round(s, 3) for s in cells.spacing]}
                    where = titles(methods[i])[2]
                    shape |= {"depth": depth[where]} if where in depth else {}
                    done[i] = Explanation(
                        tuple(v for v in volumes if isinstance(v, Volume)),
                        tuple(names[t] for t in kept),
                        tuple(scores[t] for t in kept),
                        methods[i],
                        common | cost | shape,
                    )
        return [done[i] for i in sorted(done)]

    def _run(
        self, group: list[Method], targets: Target, plain: Tensor, catch: bool
    ) -> tuple[list[Tensor | BadInput], dict[str, Any]]:
        """A group's maps, or the reason why there is none, and what they cost together; `plain` are the scores."""
        x = self.x
        start = time.perf_counter()
        maps: list[Tensor | BadInput]
        try:
            if isinstance(group[0], FirstOrder):
                first = _First(targets)
                maps = shared_pass(self.model, x, first, [m for m in group if isinstance(m, FirstOrder)])
                _compare(first.scores, plain)
            else:
                maps = [group[0](self.model, x, targets)]
        except Exception as error:  # also what a guest or the memory may raise
            if not catch:
                raise
            reason = f"{type(error).__name__}: {error}"
            maps = [error if isinstance(error, BadInput) else BadInput(f"a map from {m}", reason, "Mend the model.") for m in group]
        seconds = time.perf_counter() - start
        cost = {"seconds": round(seconds, 4), "shared_by_methods": len(group), "peak_memory_mib": provenance.peak_memory(x)}
        return maps, cost

    def _placed(self, relevance: Tensor, method: Method, names: Sequence[str]) -> list[Volume | BadInput]:
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


def _compare(scores: Tensor | None, plain: Tensor) -> None:
    """Warn where the pass that made the maps did not say what the plain one said."""
    if scores is not None and (scores - plain).abs().max() > 1e-2 * plain.abs().max():
        said = f"scores {plain[:, 0].tolist()}, and {scores[:, 0].tolist()} when the maps were made"
        warnings.warn(f"the model does not repeat itself: {said}", InputWarning, stacklevel=5)


class _First:
    """Targets that remember their first scores."""

    def __init__(self, targets: Target) -> None:
        self.targets = targets
        self.scores: Tensor | None = None

    def __call__(self, output: Any) -> Tensor:
        found = self.targets(output)
        self.scores = found.detach() if self.scores is None else self.scores
        return found

    def names(self, classes: Sequence[str] = ()) -> tuple[str, ...]:
        return self.targets.names(classes)

    def fix(self, output: Any) -> _First:
        return self

    def adds_up(self, grid: Sequence[int]) -> bool:
        return adds_up(self.targets, grid)

    def within(self, where: tuple[slice, ...], factor: Tensor) -> tuple[Target, tuple[int, ...]]:
        """A part of the targets; of its scores nothing is remembered."""
        assert isinstance(self.targets, Additive)
        return self.targets.within(where, factor)


def predict(model: nn.Module, scan: Volume, preprocessing: Prepares | None = None) -> Prediction:
    """Run the model once on a scan, as it would be used, and note which layers ran."""
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

    Raises:
        BadInput: says what was expected, what came, and what to do.

    Several methods of one scan share their forward pass through `predict(...).explain([...], targets)`.
    """
    chosen = targets if output is None else Select(output, targets)
    return predict(model, scan, preprocessing).explain([method], chosen, classes=classes)[0]


def _tensor(model: nn.Module, image: Volume) -> Tensor:
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return torch.from_numpy(np.ascontiguousarray(image.data))[None].to(like.device, like.dtype)
