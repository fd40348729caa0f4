"""What the settings of a method or metric may be, and such a one from text or TOML: said before any scan is read."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

from radiolucent.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor

ANY_SEED = -(2**63)
_END = 2**63  # torch counts in 64 bits


def at_least(method: Any, **lowest: float) -> None:
    """Refuse a setting that is no finite number of its field's kind, or below `lowest`; of one per axis, each counts."""
    known = {field.name: field for field in fields(method)}
    for name, low in lowest.items():
        field, value = known[name], getattr(method, name)
        whole, per_axis = "int" in str(field.type), "tuple" in str(field.type)
        numbers = value if per_axis and isinstance(value, (tuple, list)) else (value,)
        if not numbers or not all(_is_number(n, whole) and n >= low for n in numbers):
            above = "from -2^63 to 2^63 - 1" if low == ANY_SEED else f">= {low:g}"
            raise BadInput(
                f"{name} as a {'whole ' if whole else ''}number {above}{', or one for each axis' if per_axis else ''}",
                repr(value),
                f"{field.default} is the default." if field.default is not MISSING else "Correct it.",
            )


def among(method: Any, **known: Collection[str]) -> None:
    """Refuse a setting that is none of the names which are `known` for it."""
    for name, names in known.items():
        value = getattr(method, name)
        if not isinstance(value, str) or value not in names:
            raise BadInput(f"{name} among {', '.join(names)}", repr(value), "Choose one of them.")


def yes_or_no(method: Any, *names: str) -> None:
    """Refuse a setting that is neither True nor False."""
    for name in names:
        if not isinstance(getattr(method, name), bool):
            raise BadInput(f"{name} as True or False", repr(getattr(method, name)), "Correct it.")


def _is_number(value: Any, whole: bool) -> bool:
    if isinstance(value, bool) or not (hasattr(value, "__index__") if whole else hasattr(value, "__float__")):
        return False
    return -_END <= value < _END if whole else math.isfinite(value)


def per_axis(value: int | tuple[int, ...], x: Tensor, name: str) -> tuple[int, ...]:
    """A setting that is one number for all axes of x's grid, or one for each, as one for each."""
    grid = tuple(x.shape[2:])
    values = (value,) * len(grid) if isinstance(value, int) else tuple(value)
    if len(values) != len(grid):
        raise BadInput(f"{name} as one number, or one for each of the {len(grid)} axes", str(value), f"The grid is {grid}.")
    return values


def made(kind: type[Any], name: str, settings: Mapping[str, Any], read: Callable[[str, Any], Any]) -> Any:
    """The method or metric `kind` with these settings; an unknown field is an error that lists the valid ones."""
    known = {f.name: f for f in fields(kind)}
    values: dict[str, Any] = {}
    for key, value in settings.items():
        if key not in known:
            valid = ", ".join(known) or "none: it has no settings"
            raise BadInput(f"fields of {name} among: {valid}", repr(key), "Correct the field's name.")
        try:
            values[key] = read(str(known[key].type), value)
        except (TypeError, ValueError, KeyError) as error:
            if isinstance(error, BadInput):
                raise
            raise BadInput(f"{known[key].type} for the field {key} of {name}", repr(value), "Correct the value.") from None
    try:
        return kind(**values)
    except TypeError as error:
        raise BadInput(f"all fields of {name}: {', '.join(known)}", str(error), "Give the missing ones.") from None


def read(kind: str, value: Any) -> Any:
    """`value` as a field annotated with `kind`; several numbers are a list, or a text such as "12,12,6" or "12x12x6"."""
    if kind == "int | tuple[int, ...]":
        parts = re.split("[,x]", value) if isinstance(value, str) and re.search("[,x]", value) else value
        return tuple(read("int", part) for part in parts) if isinstance(parts, (list, tuple)) else read("int", parts)
    if kind == "bool":
        return value if isinstance(value, bool) else {"true": True, "false": False}[str(value).lower()]
    if kind == "str | float" and isinstance(value, str):
        return float(value) if re.fullmatch(r"[0-9.]+(e-?[0-9]+)?", value) else value
    wanted: type | None = {"int": int, "float": float, "str": str}.get(kind)
    if wanted is None or type(value) is wanted:
        return value
    if isinstance(value, (bool, Mapping)) or (wanted is int and isinstance(value, float)):
        raise TypeError
    return wanted(value)
