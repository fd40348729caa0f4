"""The injected model with M3d-CAM's functions, arguments and files."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from radiolucent import io
from radiolucent.compat.medcam.evaluation import Evaluator
from radiolucent.compat.medcam.label import Isolated, Label
from radiolucent.errors import BadInput
from radiolucent.geometry import Array, upsample
from radiolucent.hooks import Sharing, guest_of, layers
from radiolucent.injection import Injected, Maps, Side, maps
from radiolucent.methods import GradCAM, GradCAMPlusPlus, GuidedBackprop, GuidedGradCAM, at_layer, titles
from radiolucent.volume import Volume

BACKENDS: dict[str, Any] = {"gbp": GuidedBackprop, "gcam": GradCAM, "ggcam": GuidedGradCAM, "gcampp": GradCAMPlusPlus}


@dataclass(frozen=True)
class Settings:
    """The arguments of `inject` that decide what is done with a map."""

    output_dir: Path | None
    label: Label
    data_shape: tuple[int, ...]
    save_maps: bool
    save_pickle: bool
    save_scores: bool
    evaluate: bool
    return_score: bool
    return_attention: bool
    cudnn: bool


class Medcam(Sharing):
    """A model with M3d-CAM's functions; made by `inject`."""

    settings: Settings
    evaluator: Evaluator
    replaced: bool
    counter: int
    pickled: list[Array]
    attention: Array | None
    current_layer: str | None
    _injected: Injected

    def __init__(self, model: nn.Module, injected: Injected, settings: Settings, evaluator: Evaluator, replace: bool) -> None:
        own = {"settings": settings, "evaluator": evaluator, "replaced": replace, "counter": 0, "pickled": []}
        super().__init__(model, _injected=injected, attention=None, current_layer=None, **own)

    def forward(self, batch: Tensor, label: Label = None, mask: Any = None, raw_input: Any = None) -> Any:
        """The model's own output, unless `inject` was told otherwise; the maps are made, saved and scored on the side.

        Args:
            label: as in `inject`, for this call. mask: (b, 1, *grid) of 0 and 1, to evaluate against.
            raw_input: what the picture of a 2D map is drawn over, instead of the batch.
        """
        if not self._injected.side.enabled:
            return self._guest(batch)
        self._injected.side.choose = Isolated(self.settings.label if label is None else label).fix
        with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled and self.settings.cudnn):
            output = self._injected(batch)
        found = self._injected.maps
        if found is None:  # a warning has said why
            self.attention, self.current_layer = None, None
            return output
        attention = {name: self._shaped(found, name) for name in found.relevance}
        single = len(attention) == 1
        self.current_layer = _layer(found, next(iter(attention))) if single else None
        self.attention = next(iter(attention.values())).numpy() if single else None
        self._save(found, attention, batch if raw_input is None else torch.as_tensor(raw_input))
        scores = self._evaluate(found, mask, len(batch)) if self.settings.evaluate else None
        self.counter += 1
        if self.replaced or self.settings.return_attention:
            if self.attention is None:
                raise BadInput("one layer, whose map can be returned", f"{len(attention)}", "Name one layer, or take 'auto'.")
            shown = upsample(torch.from_numpy(self.attention)[None], tuple(batch.shape[2:]))[0].to(batch.device)
            output = shown if self.replaced else (output, shown)
        return (output, scores) if self.settings.return_score else output

    def _shaped(self, found: Maps, name: str) -> Tensor:
        """(b, 1, *data_shape) in [0, 1] per item: from the smallest to the largest value, or |R| over its maximum if signed."""
        shape = self.settings.data_shape or found.grid
        if len(shape) != len(found.grid):
            expected, got = f"a data_shape of {len(found.grid)} axes, as the input has", f"{shape}"
            raise BadInput(expected, got, "Leave batch and channels out, or take 'default'.")
        relevance = upsample(found.relevance[name], shape)[0].mean(1, keepdim=True).cpu().float()
        flat = relevance.flatten(1)
        flat = flat.abs() if (flat < 0).any() else flat - flat.amin(1, keepdim=True)
        return (flat / flat.amax(1, keepdim=True).clamp(min=torch.finfo(flat.dtype).tiny)).reshape(relevance.shape)

    def _save(self, found: Maps, attention: Mapping[str, Tensor], image: Tensor) -> None:
        if self.settings.save_pickle:
            self.pickled += [item.numpy() for batch in attention.values() for item in batch[:, 0]]
        if not self.settings.save_maps:
            return
        assert self.settings.output_dir is not None
        for name, _, i, scan, relevance in found.volumes(image):
            place = _place(self.settings.output_dir, _layer(found, name))
            path = place / f"attention_map_{self.counter}_{i}_0"
            if len(found.grid) == 2:
                io.put(path.with_name(path.name + ".png"), maps.drawn(scan, relevance, found.methods[name].unit))
            else:
                io.write(path.with_name(path.name + ".nii.gz"), relevance)

    def _evaluate(self, found: Maps, mask: Any, batch: int) -> dict[str, list[float]]:
        if mask is None:
            raise BadInput("a mask, since evaluate=True", "none", "Call model(x, mask=mask), or inject with evaluate=False.")
        mask = torch.as_tensor(mask)
        scores: dict[str, list[float]] = {_layer(found, name): [float("nan")] * batch for name in found.relevance}
        grey = torch.zeros(batch, 1, *found.grid)
        for name, _, i, _, relevance in found.volumes(grey):
            layer = _layer(found, name)
            case = f"{self.counter}_{i}"
            depth = self._injected.side.depth.get(layer)
            scores[layer][i] = self.evaluator.comp_score(
                relevance.data.mean(0), mask[i], layer, 0, case, depth, titles(found.methods[name])[0]
            )
        return scores

    def get_layers(self, reverse: bool = False) -> list[str]:
        """The names of the model's layers."""
        return get_layers(self._guest, reverse)

    def get_attention_map(self) -> Array | None:
        """(b, 1, *data_shape) of the last call, in [0, 1] per item; None where there are several layers."""
        return self.attention

    def save_attention_map(self, attention_map: Any, raw_input: Any = None) -> None:
        """Write an attention map (*grid) into the folder of the last call's layer."""
        if self.settings.output_dir is None:
            raise BadInput("an output_dir", "none", "Give one to inject.")
        place = _place(self.settings.output_dir, self.current_layer)
        save(attention_map, place / f"attention_map_{self.counter}", raw_input=raw_input)
        self.counter += 1

    def replace_output(self, replace: bool) -> None:
        """Whether the attention map takes the place of the model's output."""
        self.replaced = replace

    def dump(self) -> None:
        """Write what was collected: attention_maps.pkl, scores.xlsx (also as CSV and Parquet), scores.png."""
        if self.settings.save_pickle and self.settings.output_dir:
            io.put(self.settings.output_dir / "attention_maps.pkl", pickle.dumps(self.pickled))
        if self.settings.save_scores:
            self.evaluator.dump()

    def enable_medcam(self) -> None:
        """Make maps again."""
        self._injected.side.enabled = True

    def disable_medcam(self) -> None:
        """Run only the model."""
        self._injected.side.enabled = False

    def test_run(self, batch: Tensor, internal: bool = False) -> list[str]:
        """The layers that have a map for this batch; written to registered_layers.txt if there is an output_dir."""
        found = [layer.name for layer in layers(self._guest, batch) if layer.is_spatial]
        if not internal and self.settings.output_dir:
            io.put(self.settings.output_dir / "registered_layers.txt", "\n".join([*found, ""]).encode())
        return found


def get_layers(model: nn.Module, reverse: bool = False) -> list[str]:
    """Names of all layers, those inside a layer before it, as they finish; "full" and "auto" choose among them."""

    def inside(module: nn.Module, prefix: str) -> list[str]:
        return [n for name, child in module.named_children() for n in (*inside(child, f"{prefix}{name}."), prefix + name)]

    names = inside(model, "")
    return names[::-1] if reverse else names


def save(attention_map: Any, filename: str | Path, heatmap: bool = True, raw_input: Any = None) -> None:
    """Write an attention map (*grid) as `filename`.nii.gz, or in 2D as a picture `filename`.png over raw_input."""
    array = np.asarray(attention_map.detach().cpu() if isinstance(attention_map, Tensor) else attention_map, np.float32)
    relevance, path = Volume(array[None], has_world=False), Path(filename)
    if array.ndim == 3:
        io.write(path.with_name(path.name + ".nii.gz"), relevance)
        return
    image = (
        relevance.like(np.zeros_like(relevance.data)) if raw_input is None else Volume(_channels_first(raw_input), has_world=False)
    )
    io.put(path.with_name(path.name + ".png"), maps.drawn(image, relevance.on(image.grid), "attention"))


def _channels_first(image: Any) -> Array:
    array = np.asarray(image.detach().cpu() if isinstance(image, Tensor) else image, np.float32)
    return array[None] if array.ndim == 2 else array if len(array) in (1, 3) else array.transpose(2, 0, 1)


def _place(folder: Path, layer: str | None) -> Path:
    """The layer's folder, made if need be; maps of the input lie in `folder` itself."""
    place = folder / maps.safe(layer) if layer else folder
    place.mkdir(parents=True, exist_ok=True)
    return place


def _shape(given: Any) -> tuple[int, ...]:
    """() for "default", else whole numbers."""
    if isinstance(given, str) and given == "default":
        return ()
    try:
        shape = tuple(index(n) for n in given)
    except TypeError:
        shape = ()
    if not shape or min(shape) < 1:
        raise BadInput("'default' or the shape of a map as data_shape", repr(given), "For example data_shape=(64, 64).")
    return shape


def _layer(found: Maps, name: str) -> str:
    return str(getattr(found.methods[name], "layer", ""))


def inject(
    model: nn.Module,
    output_dir: str | Path | None = None,
    backend: str = "gcam",
    layer: str | Sequence[str] = "auto",
    label: Label = None,
    data_shape: str | Sequence[int] = "default",
    save_maps: bool = False,
    save_pickle: bool = False,
    save_scores: bool = False,
    evaluate: bool = False,
    metric: Any = "wioa",
    threshold: Any = "otsu",
    retain_graph: bool = False,
    return_score: bool = False,
    replace: bool = False,
    return_attention: bool = False,
    cudnn: bool = True,
    enabled: bool = True,
) -> Medcam:
    """M3d-CAM's `inject`: the model, which makes attention maps whenever it is called. Injecting again begins anew.

    Args:
        output_dir: where results go: LAYER/attention_map_CALL_ITEM_0.nii.gz (2D: .png), and what `dump()` writes.
        backend: "gbp", "gcam", "ggcam" or "gcampp".
        layer: a name, several, "auto" or "full".
        label: a class, or a function of the output that selects values; see Isolated.
        data_shape: shape of the maps; "default": that of the input.
        save_maps, save_pickle, save_scores, evaluate, metric, threshold, return_score, replace, return_attention,
            enabled: as in M3d-CAM. cudnn=False switches it off during the call only. retain_graph has no use here:
            the caller's graph is never touched.
    """
    if backend not in BACKENDS:
        raise BadInput(f"a backend among {', '.join(BACKENDS)}", repr(backend), "Choose one of them.")
    if output_dir is None and (save_scores or save_maps or save_pickle or evaluate):
        raise BadInput("an output_dir, since something is to be saved", "none", "Give one, or switch saving off.")
    if (replace or return_attention) and (layer == "full" or not isinstance(layer, str)):
        raise BadInput("one layer, whose map can be returned", repr(layer), "Name one layer, or take 'auto'.")
    folder = Path(output_dir) if output_dir is not None else None
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    names = [layer] if isinstance(layer, str) else list(layer)
    methods = list(dict.fromkeys(at_layer(BACKENDS[backend](), name) for name in names))
    model = guest_of(model)
    injected = Injected(model, Side(methods, Isolated(label).fix, 0, None, (), "absolute", enabled=enabled))
    settings = Settings(
        folder, label, _shape(data_shape), save_maps, save_pickle, save_scores, evaluate, return_score, return_attention, cudnn
    )
    return Medcam(model, injected, settings, Evaluator(folder, metric, threshold), replace)
