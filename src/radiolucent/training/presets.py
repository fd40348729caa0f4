"""Presets: tables that stand below a recipe's own, whose keys win."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Tables = Mapping[str, Mapping[str, Any]]

PRESETS: Mapping[str, Tables] = {
    # Ziller et al. 2024, section 3.2: the last epoch is tested, on the official splits where there are any.
    "paper": {
        "optimiser": {"kind": "nadam", "rate": 2e-4, "batch": 64, "epochs": 50, "frozen_epochs": 2},
        "stopping": {"keep": "last"},
    },
    # The encoder stays as it is, so that its features are computed once: an epoch then costs the pooling and the head alone.
    # The last epoch's weights stay, since the best of a small validation set is a lucky one (docs/results.md).
    "fast": {
        "optimiser": {
            "kind": "adamw",
            "rate": 1e-3,
            "weight_decay": 1e-2,
            "batch": 64,
            "epochs": 20,
            "frozen_epochs": -1,
            "schedule": "cosine",
            "warmup": 0.1,
            "clip": 1.0,
        },
        "stopping": {"keep": "last"},
    },
    # Kumar et al. 2018, section 2: radiographs brought to one size (there 224 x 224, here what two cores train in 40 minutes).
    # The paper names no optimiser.
    "anatomy": {
        "preprocessing": {
            "size": [128, 128],
            "fit": "stretch",
            "intensity": {"kind": "percentile", "low": 0.5, "high": 99.5},
        },
        "model": {"network": "radiolucent:AnatomyNet", "layer": "blocks"},
        "optimiser": {
            "kind": "adamw",
            "rate": 2e-3,
            "weight_decay": 1e-2,
            "batch": 32,
            "epochs": 40,
            "schedule": "cosine",
            "warmup": 0.05,
            "clip": 1.0,
            "weighted": True,
        },
        "stopping": {"keep": "best", "watch": "balanced_accuracy"},
    },
}
"""Whole recipes: preset = "paper" at the top of one."""

PREPROCESSINGS: Mapping[str, Mapping[str, Any]] = {
    # The paper's pancreas CT: the whole field of view at 224 x 224 x 128, the abdominal window in HU.
    "abdomen-ct": {"size": [224, 224, 128], "fit": "stretch", "intensity": {"kind": "window", "low": -150.0, "high": 250.0}},
    # The paper's glioma MRI: 1 mm, 96 voxels around the tumour's centre of mass. It names no scaling; ours is a z-score.
    "tumour-mri": {
        "orientation": "RAS",
        "spacing": [1.0, 1.0, 1.0],
        "size": [96, 96, 96],
        "around": "mask",
        "intensity": {"kind": "zscore", "keep_zero": True},
    },
    # 8-bit pictures and MedMNIST.
    "eight-bit": {"intensity": {"kind": "window", "low": 0.0, "high": 255.0}},
}
"""Preprocessings: preset = "abdomen-ct" in [preprocessing]."""
