"""The methods, and their one list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from inspect import cleandoc
from typing import Any

import torch
from torch import nn

from radiolucent.errors import BadInput
from radiolucent.methods.attentive import CLEAR, AttentiveResponse
from radiolucent.methods.cam import GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, RespondCAM, SaliencyTubes
from radiolucent.methods.channels import AblationCAM, ScoreCAM
from radiolucent.methods.composed import GuidedGradCAM, SmoothGrad, Times
from radiolucent.methods.controls import CONTROLS, EdgeMap, RandomMap
from radiolucent.methods.eigen import EigenCAM, EigenGradCAM
from radiolucent.methods.expected import ExpectedGradients
from radiolucent.methods.extremal import ExtremalPerturbation
from radiolucent.methods.gradient import (
    Gradient,
    InputXGradient,
    at_layer,
    at_layers,
    auto_layer,
    first_order,
    named_layers,
    shared_pass,
)
from radiolucent.methods.guided import DeconvNet, GuidedBackprop
from radiolucent.methods.integrated import IntegratedGradients
from radiolucent.methods.kernelshap import KernelSHAP
from radiolucent.methods.l2caf import L2CAF
from radiolucent.methods.lrp import LRP
from radiolucent.methods.meaningful import MeaningfulPerturbation
from radiolucent.methods.occlusion import Occlusion
from radiolucent.methods.quantile import GradientQuantile
from radiolucent.methods.rise import RISE
from radiolucent.methods.rollout import AttentionRollout, GradientRollout
from radiolucent.methods.slices import SliceAttention, SliceCAM
from radiolucent.methods.smocam import SmoCAM
from radiolucent.protocols import Method, Sliced
from radiolucent.settings import made, read

METHODS: dict[str, type[Any]] = {
    "gradient": Gradient,
    "input-x-gradient": InputXGradient,
    "gradient-quantile": GradientQuantile,
    "smooth-grad": SmoothGrad,
    "integrated-gradients": IntegratedGradients,
    "expected-gradients": ExpectedGradients,
    "guided-backprop": GuidedBackprop,
    "deconvnet": DeconvNet,
    "attentive-response": AttentiveResponse,
    "clear": CLEAR,
    "lrp": LRP,
    "grad-cam": GradCAM,
    "grad-cam++": GradCAMPlusPlus,
    "hires-cam": HiResCAM,
    "layer-cam": LayerCAM,
    "respond-cam": RespondCAM,
    "saliency-tubes": SaliencyTubes,
    "eigen-cam": EigenCAM,
    "eigen-grad-cam": EigenGradCAM,
    "attention-rollout": AttentionRollout,
    "gradient-rollout": GradientRollout,
    "slice-attention": SliceAttention,
    "slice-cam": SliceCAM,
    "guided-grad-cam": GuidedGradCAM,
    "times": Times,
    "occlusion": Occlusion,
    "rise": RISE,
    "kernel-shap": KernelSHAP,
    "score-cam": ScoreCAM,
    "ablation-cam": AblationCAM,
    "smo-cam": SmoCAM,
    "l2-caf": L2CAF,
    "extremal-perturbation": ExtremalPerturbation,
    "meaningful-perturbation": MeaningfulPerturbation,
}

_KNOWN = METHODS | CONTROLS
"""The controls are no methods to choose from, but a recipe may name them."""

_NAMES = {kind: name for name, kind in _KNOWN.items()}


def as_dict(method: Method) -> dict[str, Any]:
    """A method as plain values for JSON or TOML: its name and its fields, nested methods likewise."""
    if type(method) not in _NAMES:
        raise BadInput("a method from METHODS", repr(method), "Add it to METHODS to save it.")
    values = {f.name: getattr(method, f.name) for f in fields(method)}  # type: ignore[arg-type]
    return {"method": _NAMES[type(method)]} | {
        name: as_dict(value) if type(value) in _NAMES else value for name, value in values.items()
    }


def from_dict(values: Mapping[str, Any]) -> Method:
    """The method that `as_dict` described; an unknown name or field is an error that lists the valid ones."""
    name = values.get("method")
    if not isinstance(name, str) or name not in _KNOWN:
        close = get_close_matches(str(name), _KNOWN, n=3)
        raise BadInput(
            "a method among " + ", ".join(METHODS),
            repr(name),
            f"Did you mean {' or '.join(close)}?" if close else "See `radiolucent methods`.",
        )
    return made(_KNOWN[name], name, {key: value for key, value in values.items() if key != "method"}, _typed)


def from_settings(names: Sequence[str], settings: Sequence[str], layers: Sequence[str]) -> tuple[Method, ...]:
    """Methods by name, with settings such as "samples=10" (for each that has it) or "smooth-grad.samples=10".

    Each of `layers` takes the place of layer="auto"; a setting that fits none of the methods is an error.
    """
    if len(set(names)) < len(names):
        raise BadInput("each method once", ", ".join(names), "Run twice for two settings of one method.")
    values: dict[str, dict[str, Any]] = {name: {"method": name} for name in names}
    for setting in settings:
        key, equals, value = setting.partition("=")
        owner, _, name = key.rpartition(".")
        if not equals or not name:
            raise BadInput("a setting as name=value or method.name=value", setting, "For example samples=10.")
        takers = [owner] if owner else [m for m in values if m in _KNOWN and name in {f.name for f in fields(_KNOWN[m])}]
        if not takers or any(taker not in values for taker in takers):
            raise BadInput(f"a setting of {', '.join(values)}", setting, "See `radiolucent methods` for their settings.")
        for taker in takers:
            values[taker][name] = value
    return tuple(dict.fromkeys(at_layer(from_dict(v), layer) for v in values.values() for layer in layers))


def default_method(model: nn.Module) -> str:
    """Grad-CAM, or, where TorchScript hides the layers, a method on the input; of pooled slices their weights, if they have any."""
    pooled = next((m.pooling for m in model.modules() if isinstance(m, Sliced)), None)
    if pooled is not None:
        return "slice-attention" if hasattr(pooled, "weights") else "slice-cam"
    return "input-x-gradient" if isinstance(model, torch.jit.ScriptModule) else "grad-cam"


def titles(method: Any) -> tuple[str, str, str]:
    """A method's name, settings and layer: "smooth-grad(grad-cam)", "samples=10, noise=0.15, seed=0", "layer4"."""
    values = {f.name: getattr(method, f.name) for f in fields(method)} if is_dataclass(method) else {}
    inner = [titles(v) for v in values.values() if is_dataclass(v)]
    own = [f"{k}={v}" for k, v in values.items() if k != "layer" and not is_dataclass(v)]
    name = _NAMES.get(type(method), type(method).__name__) + (f"({', '.join(n for n, _, _ in inner)})" if inner else "")
    layers = [*([getattr(method, "layer", "")] if "layer" in values else []), *(layer for _, _, layer in inner if layer)]
    return name, ", ".join([*own, *(s for _, s, _ in inner if s)]), " and ".join(dict.fromkeys(layers))


def title(method: Method) -> str:
    """A method's name and where it looks, for tables and legends: "grad-cam at layer4"."""
    name, _, layer = titles(method)
    return f"{name} at {layer}" if layer else name


def unique_titles(methods: Sequence[Method]) -> list[str]:
    """The title of each; those that would be the same get their settings, or a number."""
    names = [title(m) for m in methods]
    names = [f"{n} ({titles(m)[1]})" if names.count(n) > 1 and titles(m)[1] else n for n, m in zip(names, methods, strict=True)]
    return [f"{name} #{names[:i].count(name) + 1}" if name in names[:i] else name for i, name in enumerate(names)]


def describe(method: Method | type[Any]) -> dict[str, str]:
    """A method's name, one-line summary, equation and meaning, as its docstring gives them."""
    kind = method if isinstance(method, type) else type(method)
    paragraphs = cleandoc(kind.__doc__ or "").split("\n\n")
    equation = [p for p in paragraphs[1:] if p.startswith("    ")]
    prose = [" ".join(p.split()) for p in paragraphs[1:] if not p.startswith("    ")]
    return {
        "name": _NAMES.get(kind, kind.__name__),
        "summary": " ".join(paragraphs[0].split()),
        "equation": "\n".join(equation),
        "meaning": " ".join(prose),
    }


def _typed(kind: str, value: Any) -> Any:
    """`value` as a field's type; a method within another is its name or its own settings."""
    if kind == "Method":
        return from_dict(value if isinstance(value, Mapping) else {"method": value})
    return read(kind, value)


__all__ = [
    "CLEAR",
    "CONTROLS",
    "L2CAF",
    "LRP",
    "METHODS",
    "RISE",
    "AblationCAM",
    "AttentionRollout",
    "AttentiveResponse",
    "DeconvNet",
    "EdgeMap",
    "EigenCAM",
    "EigenGradCAM",
    "ExpectedGradients",
    "ExtremalPerturbation",
    "GradCAM",
    "GradCAMPlusPlus",
    "Gradient",
    "GradientQuantile",
    "GradientRollout",
    "GuidedBackprop",
    "GuidedGradCAM",
    "HiResCAM",
    "InputXGradient",
    "IntegratedGradients",
    "KernelSHAP",
    "LayerCAM",
    "MeaningfulPerturbation",
    "Occlusion",
    "RandomMap",
    "RespondCAM",
    "SaliencyTubes",
    "ScoreCAM",
    "SliceAttention",
    "SliceCAM",
    "SmoCAM",
    "SmoothGrad",
    "Times",
    "as_dict",
    "at_layer",
    "at_layers",
    "auto_layer",
    "default_method",
    "describe",
    "first_order",
    "from_dict",
    "from_settings",
    "named_layers",
    "shared_pass",
    "title",
    "titles",
    "unique_titles",
]
