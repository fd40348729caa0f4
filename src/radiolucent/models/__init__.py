"""Models: loading what people have, and preparing images for it."""

from __future__ import annotations

from radiolucent.models.anatomy import AnatomyNet
from radiolucent.models.card import Card, read_card
from radiolucent.models.loading import load
from radiolucent.models.morphometry import Morphometry
from radiolucent.models.preprocessing import Percentile, Preprocessing, Window, ZScore
from radiolucent.models.slices import SliceModel, VolumeModel, load_encoder

__all__ = [
    "AnatomyNet",
    "Card",
    "Morphometry",
    "Percentile",
    "Preprocessing",
    "SliceModel",
    "VolumeModel",
    "Window",
    "ZScore",
    "load",
    "load_encoder",
    "read_card",
]
