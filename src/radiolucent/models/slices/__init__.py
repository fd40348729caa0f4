"""3D classifiers and regressors from 2D networks: pooled slices, and the same weights as 3D convolutions."""

from __future__ import annotations

from radiolucent.models.slices.converted import KINDS, VolumeModel, convert
from radiolucent.models.slices.encoders import SOURCES, build_encoder
from radiolucent.models.slices.model import SliceModel, slice_mask
from radiolucent.models.slices.poolings import POOLINGS
from radiolucent.models.slices.pretrained import load_encoder

__all__ = ["KINDS", "POOLINGS", "SOURCES", "SliceModel", "VolumeModel", "build_encoder", "convert", "load_encoder", "slice_mask"]
