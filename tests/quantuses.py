"""Quantus, the reference for metrics: for the tests and the benchmark."""

from __future__ import annotations

import importlib
import sys
import warnings
from types import ModuleType
from typing import Any


def quantus() -> Any:
    """Quantus, which loads zennit where it is there, whose torchvision part does not import beside the CPU build of torch."""
    sys.modules.setdefault("zennit.torchvision", ModuleType("zennit.torchvision"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("quantus")
