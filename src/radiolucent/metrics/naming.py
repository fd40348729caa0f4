"""Metrics of all kinds as text, as plain values for TOML, and in words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from inspect import cleandoc
from typing import Any

from radiolucent.errors import BadInput
from radiolucent.settings import made, read

Kinds = Mapping[str, type[Any]]
"""Metrics by name."""


def label_of(metric: Any) -> str:
    """The metric with its settings, as text that can be read back.

    Of one against a mask: "iou@otsu", "pointing-game". Of the others the settings that are not the usual ones:
    "deletion(over=voxels, points=50)".
    """
    values = {f.name: getattr(metric, f.name) for f in fields(metric)}
    if metric.category == "localisation":
        value = next(iter(values.values()), None)
        return metric.name if value in (None, 0) else f"{metric.name}@{format(value, 'g' if isinstance(value, float) else '')}"
    own = [f"{f.name}={_text(values[f.name])}" for f in fields(metric) if values[f.name] != f.default]
    return metric.name + (f"({', '.join(own)})" if own else "")


def read_label(text: str, known: Kinds) -> Any:
    """What `label_of` wrote; of settings that are not named, the usual ones."""
    found = re.fullmatch(r"\s*([^@(\s]*)\s*(?:@(.*)|\((.*)\))?\s*", text)
    name, alone, named = found.groups() if found else (text, None, None)
    kind = kind_of(name, known)
    settings: dict[str, Any] = {}
    if alone is not None:
        settings = {_only_setting(kind, text): alone.strip()}
    elif named:
        for part in re.split(r",\s*(?=\w+\s*=)", named):
            key, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals:
                raise BadInput(f"settings of {name} as {name}(name=value, name=value)", repr(text), "Correct it.")
            settings[key] = value.strip("()'\"")
    return made(kind, name, settings, read)


def as_dict(metric: Any) -> dict[str, Any]:
    """A metric as plain values for JSON or TOML: its name and its fields."""
    return {"metric": metric.name} | {f.name: getattr(metric, f.name) for f in fields(metric)}


def read_dict(values: Mapping[str, Any], known: Kinds) -> Any:
    """The metric that `as_dict` described; an unknown name or field is an error that lists the valid ones."""
    settings = dict(values)
    name = settings.pop("metric", None)
    return made(kind_of(name, known), str(name), settings, read)


def kind_of(name: Any, known: Kinds) -> type[Any]:
    """The metric of that name."""
    if isinstance(name, str) and name in known:
        return known[name]
    close = get_close_matches(str(name), known, n=3)
    do = f"Did you mean {' or '.join(close)}?" if close else "See `radiolucent metrics`."
    raise BadInput("a metric among " + ", ".join(known), repr(name), do)


def describe(metric: Any) -> dict[str, str]:
    """A metric's name, category, direction, one-line summary, equation and meaning, as its docstring gives them."""
    paragraphs = cleandoc(metric.__doc__ or "").split("\n\n")
    return {
        "name": metric.name,
        "category": metric.category,
        "direction": "higher is better" if metric.higher_is_better else "lower is better",
        "summary": " ".join(paragraphs[0].split()),
        "equation": "\n".join(p for p in paragraphs[1:] if p.startswith("    ")),
        "meaning": " ".join(" ".join(p.split()) for p in paragraphs[1:] if not p.startswith("    ")),
    }


def _text(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def _only_setting(kind: type[Any], text: str) -> str:
    """The name of the setting that stands behind an @."""
    settings = fields(kind)
    if not settings:
        raise BadInput(f"{kind.name} without a setting", repr(text), f"Write {kind.name}.")
    if len(settings) > 1:
        expected = f"{kind.name}(name=value) with a setting among {', '.join(f.name for f in settings)}"
        raise BadInput(expected, repr(text), "An @ is for metrics with one setting.")
    return settings[0].name
