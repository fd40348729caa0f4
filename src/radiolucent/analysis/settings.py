"""How a study is analysed: a recipe's [analysis]."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from radiolucent.analysis.asymmetry import VOLUMES
from radiolucent.analysis.matching import WITHIN
from radiolucent.analysis.sides import MARGIN
from radiolucent.errors import BadInput


@dataclass(frozen=True)
class Settings:
    """How a study is analysed.

    Args:
        reference: which cases are normal, as comparisons of covariates (`scanner == "A" and age < 60`); the others are
            scored by what is fit on these, and compared with them (drift). Empty: all cases, cross-fitted.
        covariates: columns of the manifest to test for bias; none: all but case, image, label, patient, session and split.
        pairs: names of (left, right) regions; none: found by hemisphere or name.
        level, alpha: of the intervals; of the false discovery rate below which a verdict names a difference.
        folds, trees, anomalous: parts of the cross-fitting; of a forest; share of the cases that are called anomalous.
        within: what densities and shares of structures are relative to: all "regions", or the whole "scan".
        structures: (target, region) pairs, for outputs whose structure has another name; several for one target add up.
        margin: an index of laterality within +-margin counts as equal.
        training: table of the outputs' training data, for their variability: a row per target with mean and spread, or a
            column per target with a row per scan. None: as the model card says, else this cohort's volumes.
        truth: where true values are: "volumes" of the regions, or columns of the manifest by a pattern like
            "true {target}"; "": columns called like both outputs of a pair, else volumes, where the card's unit is mm3,
            cm3 or ml.
        edges: how many of the strongest context edges are kept per method and layer.
        seed: of folds, forests, bootstraps and permutations.
    """

    reference: str = ""
    covariates: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    within: Literal["regions", "scan"] = "regions"
    structures: tuple[tuple[str, str], ...] = ()
    margin: float = MARGIN
    training: Path | None = None
    truth: str = ""
    level: float = 0.95
    alpha: float = 0.05
    folds: int = 5
    trees: int = 100
    anomalous: float = 0.1
    edges: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        shares = {"level": self.level, "alpha": self.alpha, "anomalous": self.anomalous, "margin": self.margin}
        wrong = [f"{name}={value}" for name, value in shares.items() if not 0 < value < 1]
        wrong += [
            f"{name}={getattr(self, name)}" for name in ("folds", "trees", "edges") if getattr(self, name) < 1 + (name == "folds")
        ]
        if wrong:
            do = "Correct it."
            raise BadInput("shares between 0 and 1, at least 2 folds, a tree and an edge", ", ".join(wrong), do)
        if self.within not in WITHIN:
            raise BadInput(f"within as one of {', '.join(WITHIN)}", repr(self.within), "Correct [analysis].")
        if self.truth not in ("", VOLUMES) and "{target}" not in self.truth:
            raise BadInput('truth as "volumes" or a column\'s name with {target}', repr(self.truth), 'For example "true {target}".')

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self) | {"training": str(self.training) if self.training else ""}
