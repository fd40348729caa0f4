"""The methods, and their one list."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from radiolucent.errors import BadInput
from radiolucent.methods.cam import GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM
from radiolucent.methods.composed import GuidedGradCAM, SmoothGrad, Times
from radiolucent.methods.gradient import Gradient, InputXGradient, at_layer, first_order
from radiolucent.methods.guided import GuidedBackprop
from radiolucent.methods.integrated import IntegratedGradients
from radiolucent.protocols import Method

METHODS: dict[str, type[Any]] = {
    "gradient": Gradient,
    "input-x-gradient": InputXGradient,
    "smooth-grad": SmoothGrad,
    "integrated-gradients": IntegratedGradients,
    "guided-backprop": GuidedBackprop,
    "grad-cam": GradCAM,
    "grad-cam++": GradCAMPlusPlus,
    "hires-cam": HiResCAM,
    "layer-cam": LayerCAM,
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
    if name not in METHODS:
        close = get_close_matches(str(name), METHODS, n=3)
        raise BadInput(
            "a method among " + ", ".join(METHODS), repr(name), f"Did you mean {' or '.join(close)}?" if close else "See `radiolucent methods`."
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
        settings[key] = from_dict(value) if isinstance(value, Mapping) else _typed(name, known[key], value)
    try:
        return kind(**settings)
    except TypeError as error:
        raise BadInput(f"all fields of {name}: {', '.join(known)}", str(error), "Give the missing ones.") from None


def _typed(name: str, field: Any, value: Any) -> Any:
    """`value` as the field's type; a text (from the command line) is read as a number where one is meant."""
    kinds = {"int": int, "float": float, "str": str}
    if field.type == "Method" and isinstance(value, str):
        return from_dict({"method": value})
    wanted = kinds.get(field.type)
    if wanted is None or (isinstance(value, wanted) and not isinstance(value, bool)):
        return value
    try:
        if not (wanted is int and isinstance(value, float)):
            return wanted(value)
    except (TypeError, ValueError):
        pass
    raise BadInput(f"{field.type} for the field {field.name} of {name}", repr(value), "Correct the value.")


__all__ = [
    "METHODS",
    "GradCAM",
    "GradCAMPlusPlus",
    "Gradient",
    "GuidedBackprop",
    "GuidedGradCAM",
    "HiResCAM",
    "InputXGradient",
    "IntegratedGradients",
    "LayerCAM",
    "SmoothGrad",
    "Times",
    "as_dict",
    "at_layer",
    "first_order",
    "from_dict",
]
