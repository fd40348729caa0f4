"""Where an explanation came from: enough to repeat it, and nothing about the patient."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from radiolucent.tiling import Tiled, untiled
from radiolucent.version import VERSION
from radiolucent.volume import Volume


def describe(model: nn.Module, scan: Volume, preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    """Versions, hashes of weights and scan, device and dtype, preprocessing and the scan's notes."""
    parameter = next(model.parameters(), torch.empty(0))
    return {
        "radiolucent": VERSION,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": str(parameter.device),
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "model": type(untiled(model)).__name__,
        "weights_sha256": weights_hash(model),
        "input_sha256": scan_hash(scan),
        "preprocessing": json.loads(json.dumps(preprocessing)),
        "notes": list(scan.notes),
    } | ({"windows": dict(model.settings)} if isinstance(model, Tiled) else {})


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over names, shapes and values of the model's state dict."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, Tensor):
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def scan_hash(scan: Volume) -> str:
    """SHA-256 over shape, affine and values."""
    digest = hashlib.sha256(f"{scan.data.shape}{scan.data.dtype}".encode())
    digest.update(scan.affine.tobytes())
    digest.update(np.ascontiguousarray(scan.data).data)
    return digest.hexdigest()


def peak_memory(x: Tensor) -> int | None:
    """MiB: the process's peak on the CPU (None where the system does not tell), the allocator's on a GPU."""
    if x.device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(x.device) >> 20)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak >> (20 if sys.platform == "darwin" else 10))
