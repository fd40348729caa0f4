"""From one scan to its explanations: the one place that handles device, modes, grids and provenance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from radiolucent import provenance
from radiolucent.errors import BadInput
from radiolucent.explanation.kinds import check_kinds
from radiolucent.explanation.result import Explanation
from radiolucent.explanation.slices import located
from radiolucent.explanation.together import made_together
from radiolucent.geometry import centre, coarsen, upsample
from radiolucent.hooks import Layer, depths, look
from radiolucent.methods import KernelSHAP, at_layers, auto_layer, titles
from radiolucent.methods.smocam import scaled
from radiolucent.models.preprocessing import Prepares, Preprocessing
from radiolucent.parcellation import Parcellation
from radiolucent.protocols import Method, Target
from radiolucent.targets import Select, label_map, own_labels, part_of
from radiolucent.volume import Volume


@dataclass(frozen=True, eq=False)
class Made:
    """One method's maps on the scan's grid, by the targets' numbers; its own number among the methods, and its cost."""

    number: int
    method: Method
    maps: Mapping[int, Volume]
    facts: Mapping[str, Any]


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
        fixed = targets.fix(self.output)
        names, plain, labels = fixed.names(classes), fixed(self.output)[:, 0].tolist(), own_labels(fixed)
        origin: dict[str, Any] = {"target": repr(targets)} | ({"label_names": list(classes)} if labels and classes else {})
        origin |= provenance.describe(self.model, self.scan, self.preprocessing.as_dict())
        done: dict[int, Explanation] = {}
        how: dict[str, Any] = {"classes": classes, "parcellation": parcellation, "spread": spread}
        for made in self.maps(methods, fixed, failed=failed, **how):
            said = tuple(names[t] for t in made.maps), tuple(plain[t] for t in made.maps)
            facts = {**origin, **made.facts} | ({"labels": [labels[t] for t in made.maps]} if labels else {})
            done[made.number] = Explanation(tuple(made.maps.values()), *said, made.method, facts)
        return [done[i] for i in sorted(done)]

    def maps(
        self,
        methods: Sequence[Method],
        targets: Target,
        *,
        classes: Sequence[str] = (),
        failed: Callable[[Method, BadInput], None] | None = None,
        parcellation: Parcellation | None = None,
        spread: Sequence[float] = (),
    ) -> Iterator[Made]:
        """The maps of `explain` as they are made, method by method, without a word on where they came from."""
        refuse = failed or _raise
        fixed = targets.fix(self.output)
        names, plain = fixed.names(classes), fixed(self.output).detach()
        methods = at_layers(methods, self.layers, lambda: auto_layer(self.model, self.x, fixed, self.output, self.layers))
        ready: dict[int, Method] = {}
        for i, method in enumerate(methods):
            try:
                ready[i] = scaled(self._over(method, parcellation), fixed, spread)
            except BadInput as error:
                refuse(method, error)
        for i, relevance, cost in made_together(self.model, self.x, ready, fixed, plain, catch=failed is not None):
            placed = [relevance] if isinstance(relevance, BadInput) else self.placed(relevance, methods[i], names)
            for each in placed:
                if isinstance(each, BadInput):
                    refuse(methods[i], each)
            maps = {t: each for t, each in enumerate(placed) if isinstance(each, Volume)}
            if maps and isinstance(relevance, Tensor):
                yield Made(i, methods[i], maps, self._facts(methods[i], relevance, cost, maps))

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

    def _facts(self, method: Method, relevance: Tensor, cost: dict[str, Any], maps: Iterable[int]) -> dict[str, Any]:
        """What it cost, the map's own grid, the place of its layer among those that ran, the method's details."""
        cells = coarsen(self.image.grid, tuple(relevance.shape[3:]))
        facts = cost | {"cells": list(cells.shape), "cell_mm": [round(s, 3) for s in cells.spacing]}
        depth, layer = depths(self.layers), titles(method)[2]
        facts |= {"depth": depth[layer]} if layer in depth else {}
        return facts | ({"details": [located(cost["details"][t], self.image) for t in maps]} if "details" in cost else {})


def _raise(method: Method, error: BadInput) -> None:
    raise error


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
