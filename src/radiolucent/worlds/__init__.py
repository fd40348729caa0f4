"""Planted truth: worlds in which the cause of a network's output is known, and every method's maps against it."""

from __future__ import annotations

from typing import Any

from radiolucent.worlds.context import Context
from radiolucent.worlds.distractor import Distractor
from radiolucent.worlds.heads import Head, head_of, parted, read_heads, scans_folder
from radiolucent.worlds.interaction import Interaction
from radiolucent.worlds.learning import Training, drawn, fit
from radiolucent.worlds.lesion import Lesion
from radiolucent.worlds.locating import Located, locate, read_world, write
from radiolucent.worlds.making import make, world_of
from radiolucent.worlds.planting import Case, World
from radiolucent.worlds.testing import effects, performance
from radiolucent.worlds.volume import StructureVolume

WORLDS: dict[str, type[Any]] = {kind.name: kind for kind in (Lesion, Distractor, Interaction, StructureVolume, Context)}
"""By name, as `radiolucent worlds make` takes them."""

__all__ = [
    "WORLDS",
    "Case",
    "Context",
    "Distractor",
    "Head",
    "Interaction",
    "Lesion",
    "Located",
    "StructureVolume",
    "Training",
    "World",
    "drawn",
    "effects",
    "fit",
    "head_of",
    "locate",
    "make",
    "parted",
    "performance",
    "read_heads",
    "read_world",
    "scans_folder",
    "world_of",
    "write",
]
