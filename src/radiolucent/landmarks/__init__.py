"""Landmarks: does a network use the places that an expert uses? Correspondence in numbers, unit dissection, bias hunt."""

from radiolucent.landmarks.correspondence import correspondence, landmark_table
from radiolucent.landmarks.dissection import activations, dissect
from radiolucent.landmarks.hunting import Hunt, hunt
from radiolucent.landmarks.places import from_box, from_points, from_polygons, from_volume
from radiolucent.landmarks.radiographs import border, radiograph_parts

__all__ = [
    "Hunt",
    "activations",
    "border",
    "correspondence",
    "dissect",
    "from_box",
    "from_points",
    "from_polygons",
    "from_volume",
    "hunt",
    "landmark_table",
    "radiograph_parts",
]
