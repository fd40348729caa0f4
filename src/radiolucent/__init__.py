"""Radiolucent: see through 2D and 3D medical-imaging models."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> where it lives. Loaded on first use, so that `import radiolucent` costs nothing.
_PUBLIC = {
    "BadInput": "errors",
    "Contrast": "targets",
    "Explanation": "explanation",
    "InputWarning": "errors",
    "Logits": "targets",
    "METHODS": "methods",
    "Outputs": "targets",
    "Parcellation": "parcellation",
    "Preprocessing": "models",
    "Region": "targets",
    "Select": "targets",
    "Volume": "volume",
    "by_region": "parcellation",
    "explain": "explanation",
    "layers": "hooks",
    "load": "models",
    "predict": "explanation",
    "read": "io",
    "write": "io",
    "write_report": "report",
}

__all__ = sorted(_PUBLIC)  # noqa: PLE0605

if TYPE_CHECKING:
    from radiolucent.errors import BadInput, InputWarning
    from radiolucent.explanation import Explanation, explain, predict
    from radiolucent.hooks import layers
    from radiolucent.io import read, write
    from radiolucent.methods import METHODS
    from radiolucent.models import Preprocessing, load
    from radiolucent.parcellation import Parcellation, by_region
    from radiolucent.report import write_report
    from radiolucent.targets import Contrast, Logits, Outputs, Region, Select
    from radiolucent.volume import Volume


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'radiolucent' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(import_module(f"radiolucent.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
