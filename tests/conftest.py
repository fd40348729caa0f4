"""What all tests share: where the real data lies, one thread, and no clock in the property tests."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from browsing import browsing
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parents[1]

torch.set_num_threads(1)  # on nets this small, more threads cost up to ten times the time
settings.register_profile("radiolucent", deadline=None)
settings.load_profile("radiolucent")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The real data, or a skip that says how to get it."""
    default = REPOSITORY.parent / "shared" / "data"
    folder = Path(os.environ.get("RADIOLUCENT_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"real data not found at {folder}: set RADIOLUCENT_DATA")
    return folder


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    with browsing() as context:
        yield context
