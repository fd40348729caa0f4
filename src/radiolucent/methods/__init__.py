"""The methods, and their one list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from inspect import cleandoc
from typing import Any

from radiolucent.errors import BadInput
from radiolucent.methods.cam import GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, RespondCAM, SaliencyTubes
from radiolucent.methods.composed import GuidedGradCAM, SmoothGrad, Times
from radiolucent.methods.eigen import EigenCAM, EigenGradCAM
from radiolucent.methods.expected import ExpectedGradients
from radiolucent.methods.gradient import Gradient, InputXGradient, at_layer, first_order
from radiolucent.methods.guided import GuidedBackprop
from radiolucent.methods.integrated import IntegratedGradients
from radiolucent.methods.rollout import AttentionRollout, GradientRollout
from radiolucent.protocols import Method

METHODS: dict[str, type[Any]] = {
    "gradient": Gradient,
    "input-x-gradient": InputXGradient,
    "smooth-grad": SmoothGrad,
    "integrated-gradients": IntegratedGradients,
    "expected-gradients": ExpectedGradients,
    "guided-backprop": GuidedBackprop,
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
    "guided-grad-cam": GuidedGradCAM,
    "times": Times,
}

_NAMES = {kind: name for name, kind in METHODS.items()}


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
    if not isinstance(name, str) or name not in METHODS:
        close = get_close_matches(str(name), METHODS, n=3)
        raise BadInput(
            "a method among " + ", ".join(METHODS),
            repr(name),
            f"Did you mean {' or '.join(close)}?" if close else "See `radiolucent methods`.",
        )
    kind = METHODS[name]
    known = {f.name: f for f in fields(kind)}
    settings: dict[str, Any] = {}
    for key, value in values.items():
        if key == "method":
            continue
        if key not in known:
            valid = ", ".join(known) or "none: it has no settings"
            raise BadInput(f"fields of {name} among: {valid}", repr(key), "Correct the field's name.")
        settings[key] = _typed(name, known[key], value)
    try:
        return kind(**settings)
    except TypeError as error:
        raise BadInput(f"all fields of {name}: {', '.join(known)}", str(error), "Give the missing ones.") from None


def from_settings(names: Sequence[str], settings: Sequence[str], layer: str) -> tuple[Method, ...]:
    """Methods by name, with settings such as "samples=10" (for each that has it) or "smooth-grad.samples=10".

    `layer` replaces layer="auto"; a setting that fits none of the methods is an error.
    """
    if len(set(names)) < len(names):
        raise BadInput("each method once", ", ".join(names), "Run twice for two settings of one method.")
    values: dict[str, dict[str, Any]] = {name: {"method": name} for name in names}
    for setting in settings:
        key, equals, value = setting.partition("=")
        owner, _, name = key.rpartition(".")
        if not equals or not name:
            raise BadInput("a setting as name=value or method.name=value", setting, "For example samples=10.")
        takers = [owner] if owner else [m for m in values if m in METHODS and name in {f.name for f in fields(METHODS[m])}]
        if not takers or any(taker not in values for taker in takers):
            raise BadInput(f"a setting of {', '.join(values)}", setting, "See `radiolucent methods` for their settings.")
        for taker in takers:
            values[taker][name] = value
    return tuple(at_layer(from_dict(v), layer) for v in values.values())


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


def _typed(name: str, field: Any, value: Any) -> Any:
    """`value` as the field's type; a text (from the command line) is read as a number where one is meant."""
    if field.type == "Method":
        return from_dict(value if isinstance(value, Mapping) else {"method": value})
    wanted: type | None = {"int": int, "float": float, "str": str}.get(field.type)
    if wanted is None or type(value) is wanted:
        return value
    try:
        if not isinstance(value, (bool, Mapping)) and not (wanted is int and isinstance(value, float)):
            return wanted(value)
    except (TypeError, ValueError):
        pass
    raise BadInput(f"{field.type} for the field {field.name} of {name}", repr(value), "Correct the value.")


__all__ = [
    "METHODS",
    "AttentionRollout",
    "EigenCAM",
    "EigenGradCAM",
    "ExpectedGradients",
    "GradCAM",
    "GradCAMPlusPlus",
    "Gradient",
    "GradientRollout",
    "GuidedBackprop",
    "GuidedGradCAM",
    "HiResCAM",
    "InputXGradient",
    "IntegratedGradients",
    "LayerCAM",
    "RespondCAM",
    "SaliencyTubes",
    "SmoothGrad",
    "Times",
    "as_dict",
    "at_layer",
    "describe",
    "first_order",
    "from_dict",
    "from_settings",
]
