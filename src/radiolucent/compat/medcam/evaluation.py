"""Attention maps against masks, in M3d-CAM's words."""

from __future__ import annotations
