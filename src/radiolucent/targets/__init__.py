"""Targets: which number of the model's output is explained.

Each gives scores (t, b) for t targets and b batch items. Several targets in one object share one
forward pass: `Logits(0, 3, 7)` costs one forward and three backward passes.
"""

from radiolucent.targets.deciding import Deciding
from radiolucent.targets.overlapping import Overlapping
from radiolucent.targets.parts import as_tensor, label_map, part_of
from radiolucent.targets.region import Region
from radiolucent.targets.select import Select, only, own_labels
from radiolucent.targets.single import Contrast, Logits, Outputs, Predicted

__all__ = [
    "Contrast",
    "Deciding",
    "Logits",
    "Outputs",
    "Overlapping",
    "Predicted",
    "Region",
    "Select",
    "as_tensor",
    "label_map",
    "only",
    "own_labels",
    "part_of",
]
