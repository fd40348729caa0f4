"""Methods as text, as metrics have it: "smooth-grad(of=grad-cam(layer=layer4), samples=20)"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any

from radiolucent.errors import BadInput
from radiolucent.methods import as_dict, from_dict
from radiolucent.protocols import Method


def method_of(value: Any) -> Method:
    """A method from its text, or from a table of its settings; of those that are not named, the usual ones."""
    return from_dict(_call(value.strip()) if isinstance(value, str) else value if isinstance(value, Mapping) else {"method": value})


def label_of(method: Method) -> str:
    """The method with the settings that are not its usual ones, as text that `method_of` reads."""
    own = settings_of(method)
    return str(as_dict(method)["method"]) + (f"({own})" if own else "")


def settings_of(method: Method) -> str:
    """The settings that are not the method's usual ones: "samples=20, noise=0.2"."""
    own = [(f.name, getattr(method, f.name)) for f in fields(method) if getattr(method, f.name) != _usual(f)]  # type: ignore[arg-type]
    return ", ".join(f"{key}={_text(value)}" for key, value in own)


def _usual(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _text(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return "x".join(map(str, value))
    return label_of(value) if hasattr(value, "__dataclass_fields__") else str(value)


def _call(text: str) -> dict[str, Any]:
    """ "name(key=value, key=name(key=value))" as a table."""
    found = re.fullmatch(r"([^()\s]+)\s*(?:\((.*)\))?", text, re.S)
    if not found:
        raise BadInput("a method as name or name(setting=value, ...)", repr(text), "For example smooth-grad(samples=20).")
    values: dict[str, Any] = {"method": found[1]}
    for part in _parts(found[2] or ""):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not key:
            raise BadInput(f"settings of {found[1]} as {found[1]}(name=value, name=value)", repr(text), "Correct it.")
        nested = re.match(r"[^()\s]+\s*\(", value)
        values[key] = _call(value) if nested else value.strip("()[]'\"")
    return values


def _parts(text: str) -> list[str]:
    """What commas part, but for those inside brackets."""
    parts, depth = [""], 0
    for mark in text:
        depth += (mark in "([") - (mark in ")]")
        if mark == "," and not depth:
            parts.append("")
        else:
            parts[-1] += mark
    if depth:
        raise BadInput("as many brackets closed as opened", repr(text), "Correct it.")
    return [part for part in parts if part.strip()]
