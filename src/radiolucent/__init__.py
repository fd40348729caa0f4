"""Radiolucent: see through 2D and 3D medical-imaging models."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from radiolucent.version import VERSION

__version__ = VERSION

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
    "Volume": "volume",
    "by_region": "regions",
    "explain": "explanation",
    "inject": "injection",
    "layers": "hooks",
    "load": "models",
    "predict": "explanation",
    "read": "io",
    "write": "io",
    "write_report": "report",
}

__all__ = sorted(_PUBLIC)

if TYPE_CHECKING:
    from radiolucent.errors import BadInput as BadInput
    from radiolucent.errors import InputWarning as InputWarning
    from radiolucent.explanation import Explanation as Explanation
    from radiolucent.explanation import explain as explain
    from radiolucent.explanation import predict as predict
    from radiolucent.hooks import layers as layers
    from radiolucent.injection import inject as inject
    from radiolucent.io import read as read
    from radiolucent.io import write as write
    from radiolucent.methods import METHODS as METHODS
    from radiolucent.models import Preprocessing as Preprocessing
    from radiolucent.models import load as load
    from radiolucent.parcellation import Parcellation as Parcellation
    from radiolucent.regions import by_region as by_region
    from radiolucent.report import write_report as write_report
    from radiolucent.targets import Contrast as Contrast
    from radiolucent.targets import Logits as Logits
    from radiolucent.targets import Outputs as Outputs
    from radiolucent.targets import Region as Region
    from radiolucent.volume import Volume as Volume


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'radiolucent' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(import_module(f"radiolucent.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
