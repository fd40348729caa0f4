"""Values of a recipe: what TOML holds, as the fields of a dataclass are annotated; words for what does not fit."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from radiolucent.errors import BadInput
from radiolucent.methods import from_dict


def toml(path: Path, page: str) -> dict[str, Any]:
    """What a recipe's TOML file holds; `page` of the documentation shows one."""
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"a recipe in TOML at {path}", str(error), f"{page} shows one.") from None


def known(given: Mapping[str, Any], valid: Mapping[str, Any], what: str) -> None:
    """Refuse a key that is not valid, with those that are and the closest."""
    for key in given:
        if key not in valid:
            close = get_close_matches(key, valid, n=3)
            hint = f"Did you mean {' or '.join(close)}?" if close else "Correct the recipe."
            raise BadInput(f"{what} among: {', '.join(valid)}", repr(key), hint)


def absolute(base: Path, text: str) -> Path:
    """A path as a recipe has it, from the recipe's folder on."""
    return (base / Path(text).expanduser()).absolute()


def read(key: str, kind: str, value: Any, base: Path) -> Any:
    """`value` as a field annotated with `kind`."""
    try:
        return _typed(kind, value, base)
    except (TypeError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        wanted = kind.replace("Path | None", "a path").replace("tuple", "list").replace(", ...", "")
        raise BadInput(f"{wanted} for {key}", repr(value), "Correct the recipe.") from None


def _typed(kind: str, value: Any, base: Path) -> Any:
    if kind == "tuple[Method, ...]":
        return tuple(from_dict(_table(v)) for v in _list(value))
    if kind == "Mapping[str, tuple[str, ...]]":
        return {name: _typed("tuple[str, ...]", v, base) for name, v in _table(value).items()}
    if kind == "tuple[tuple[str, str], ...]":
        pairs = tuple(_typed("tuple[str, ...]", v, base) for v in _list(value))
        if any(len(pair) != 2 for pair in pairs):
            raise TypeError
        return pairs
    if kind == "Mapping[str, Any]":
        return _table(value)
    if kind.startswith("tuple["):
        return tuple(_typed(kind.removeprefix("tuple[").removesuffix(", ...]"), v, base) for v in _list(value))
    if kind == "Path | None":
        return absolute(base, _typed("str", value, base))
    if kind == "float" and type(value) is int:
        return float(value)
    wanted = {"int": int, "float": float, "bool": bool}.get(kind, str)
    if type(value) is not wanted:
        raise TypeError
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError
    return value


def _table(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError
    return value
