"""Attention maps against masks, in M3d-CAM's words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from radiolucent.errors import BadInput
from radiolucent.geometry import upsample
from radiolucent.metrics import measure
from radiolucent.scores import Scores
from radiolucent.volume import Volume


class Evaluator:
    """Scores of attention maps against masks, as a table."""

    def __init__(
        self, save_path: str | Path | None, metric: Any = "wioa", threshold: Any = "otsu", layer_ordering: Any = None
    ) -> None:
        self.save_path, self.metric, self.threshold = save_path, metric, threshold
        self.scores = Scores(layer_ordering or ())
        self._name = metric if isinstance(metric, str) else getattr(metric, "__name__", "metric")

    def comp_score(
        self,
        attention_map: Any,
        mask: Any,
        layer: str | None = None,
        class_label: Any = None,
        name: Any = None,
        depth: int | None = None,
        method: str = "",
    ) -> float:
        """The score of one map (*cells) against one mask (*grid), which is also kept; `depth` is the layer's place."""
        value = compute_score(attention_map, mask, self.metric, self.threshold)
        case = str(len(self.scores.rows()) if name is None else name)
        row = {"label": class_label, "region": "mask", "metric": self._name, "value": value}
        self.scores.add([row], case=case, method=method, layer=layer or "", depth=depth)
        return value

    def dump(self, mean_only: bool = False, layer: str | None = None, class_label: Any = None) -> None:
        """Write scores.xlsx, .csv and .parquet (all scores and their means) and scores.png into save_path."""
        if self.save_path is None:
            raise BadInput("a save_path", "none", "Give one to Evaluator, or output_dir to inject.")
        chosen = Scores(self.scores.layers)
        for row in self.scores.rows():
            if layer in (None, row["layer"]) and class_label in (None, row["label"]):
                chosen.add([row], **{key: row[key] for key in ("case", "method", "settings", "layer", "target")})
        chosen.save(self.save_path)


def compute_score(attention_map: Any, mask: Any, metric: Any = "wioa", threshold: Any = "otsu") -> float:
    """ "ioa", "wioa" or "iou" (or any of radiolucent.metrics, or a function of map and mask) of one map against one mask.

    The map (*cells) is interpolated to the mask's grid; `threshold` is "otsu" or a number from 0 to 1, on the map
    from its smallest to its largest value. Signed maps count by their size. NaN where the score is undefined.
    """
    truth = np.asarray(mask.detach().cpu() if isinstance(mask, Tensor) else mask)
    while truth.ndim > 2 and len(truth) == 1:  # channel and batch axes; a thin volume keeps its own
        truth = truth[0]
    if not np.isin(truth, (0, 1)).all():
        raise BadInput(
            "a mask of 0 and 1", f"values such as {np.unique(truth)[:5].tolist()}", "Compare it with the class: mask == 1."
        )
    given = torch.as_tensor(attention_map).detach().float().cpu()
    given = given.reshape(given.shape[-truth.ndim :])
    attention = upsample(given[None, None, None], truth.shape)[0, 0].numpy()
    if callable(metric):
        return float(metric(attention[0], truth))
    name = metric if metric not in ("ioa", "wioa", "iou", "dice") else f"{metric}@{threshold}"
    rows = measure(
        Volume(attention, has_world=False), Volume(truth[None].astype(np.uint8), has_world=False), [name], part="absolute"
    )
    return float(rows[0]["value"])
