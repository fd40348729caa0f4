"""What one method says about one scan: kept with all that is needed to read and repeat it, saved and read back."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from radiolucent import io
from radiolucent.errors import BadInput, InputWarning
from radiolucent.methods import as_dict, from_dict, title
from radiolucent.protocols import Method
from radiolucent.volume import Volume


@dataclass(frozen=True, eq=False)
class Explanation:
    """What one method says about one scan, with everything needed to read and repeat it.

    Args:
        relevance: for each target a Volume (c, *grid) on the scan's own grid; signed, un-normalised.
        targets: a name for each target.
        scores: each target's score for the unperturbed scan.
        method: the method with its hyper-parameters ("auto" layers resolved).
        provenance: hashes of weights and input, versions, device, notes; seconds, peak memory and images that went through
            the model forwards and backwards, for all methods that shared them; of a segmentation, each target's label and the
            labels' names; as "details" what a method has to say besides its map, for each target.
    """

    relevance: tuple[Volume, ...]
    targets: tuple[str, ...]
    scores: tuple[float, ...]
    method: Method
    provenance: Mapping[str, Any]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Explanation) and all(
            getattr(self, name) == getattr(other, name) for name in self.__dataclass_fields__
        )

    @property
    def remarks(self) -> list[str]:
        """What whoever sees the maps must be told: masks that have not converged."""
        details = self.provenance.get("details") or [{}] * len(self.targets)
        open_ended = [name for name, row in zip(self.targets, details, strict=False) if row.get("converged") is False]
        if not open_ended:
            return []
        names = ", ".join(open_ended[:5]) + (", ..." if len(open_ended) > 5 else "")
        return [f"{title(self.method)}: {len(open_ended)} of {len(self.targets)} masks have not converged ({names})"]

    __hash__ = None  # type: ignore[assignment]  # arrays are not hashable

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write `explanation.json` and one map per target (NIfTI; for 2D a float TIFF beside it), all or nothing."""
        folder = Path(folder)
        first = self.relevance[0]
        with io.new_folder(folder, replace=overwrite) as new:
            for number, relevance in enumerate(self.relevance):
                io.write(new / f"target_{number}.nii.gz", relevance)
                if relevance.data.ndim == 3 and len(relevance.data) == 1:
                    io.write(new / f"target_{number}.tiff", relevance)
            values = {
                "targets": self.targets,
                "scores": self.scores,
                "method": as_dict(self.method),
                "grid": {"shape": first.grid.shape, "affine": first.affine.tolist(), "has_world": first.has_world},
                "provenance": dict(self.provenance),
            }
            io.put(new / "explanation.json", json.dumps(values, indent=1).encode())
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Explanation:
        """What `save` wrote, equal to what was saved."""
        folder = Path(folder)
        try:
            return cls._loaded(folder, json.loads((folder / "explanation.json").read_bytes()))
        except BadInput:
            raise
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            got = f"{type(error).__name__}: {str(error)[:300]}"
            raise BadInput(f"explanation.json in {folder}", got, "Is it a folder that Explanation.save wrote?") from None

    @classmethod
    def _loaded(cls, folder: Path, values: Mapping[str, Any]) -> Explanation:
        grid, targets, scores = values["grid"], values["targets"], values["scores"]
        if not (isinstance(targets, list) and isinstance(scores, list) and len(targets) == len(scores) > 0):
            raise BadInput("as many scores as targets in explanation.json", f"{scores!r:.80} and {targets!r:.80}", "Save it again.")
        relevance = []
        for number in range(len(targets)):
            with warnings.catch_warnings():  # the affine comes from the JSON, where a NIfTI without a world has none
                warnings.simplefilter("ignore", InputWarning)
                data = io.read(folder / f"target_{number}.nii.gz", frame="channels").data
            relevance.append(Volume(data.reshape(len(data), *grid["shape"]), np.array(grid["affine"]), grid["has_world"]))
        method = from_dict(values["method"])
        return cls(tuple(relevance), tuple(targets), tuple(scores), method, values["provenance"])
