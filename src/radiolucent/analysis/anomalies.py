"""Anomalies: which cases does the model look at in another way than at the others?"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
from pandas import DataFrame
from scipy.linalg import helmert

from radiolucent.analysis.profiles import GROUP, Patients, Profile, profiles
from radiolucent.errors import BadInput
from radiolucent.geometry import Array

FEWEST_TO_FIT = 10
"""Cases that a forest or a covariance must at least have seen. With fewer, one odd case is a tenth of what is normal."""
COLUMNS = ["case", *GROUP, "forest", "mahalanobis", "strangest", "strangest_z", "fold", "n_fit", "covariance", "reason"]


def anomaly(
    regions: DataFrame,
    *,
    reference: Collection[str] | None = None,
    patients: Patients = None,
    folds: int = 5,
    trees: int = 100,
    seed: int = 0,
) -> DataFrame:
    """Two scores per case and class; in both, higher is more anomalous, and no case is scored by a fit that saw it.

        forest      = 2^( -E[h(m)] / c(n) )                       (Liu, Ting & Zhou 2008, eq. 2)
        mahalanobis = sqrt( (z - mu)' Sigma^-1 (z - mu) ),  z = V' log m    (Aitchison 1986; Rousseeuw & Van Driessen 1999)

    m are the masses of the regions, h is the depth at which a tree isolates m. The forest sees the masses. They sum
    to 1, so that their covariance is singular; Mahalanobis therefore sees log-ratios: the columns of V are an
    orthonormal basis of what is orthogonal to (1, ..., 1), so the distance is that of the centred log-ratios (clr)
    and does not depend on which region would be dropped. A mass of 0 is first replaced by half of the smallest mass
    seen in that region. mu and Sigma are the minimum covariance determinant's where more than five cases per dimension
    were seen, not most of them alike ("mcd"); else the median and a Ledoit-Wolf shrinkage, each dimension scaled by its
    median absolute deviation ("ledoit-wolf"), which needs no such number but is less robust.

    `strangest` is the region with the largest |strangest_z|, a robust z-value: where to look first.

    Args:
        reference: cases that are normal by definition: the others are scored by what is fit on all of these (fold -1).
            Within the reference, and without one within all cases, `folds` parts take turns (cross-fitting); of few
            patients more parts, so that each forest sees at least 10.
        patients: cases of one patient stay in one part, and none is scored by a fit that saw another.
        trees, seed: of the forest; the seed also makes the parts, over the sorted names.

    Known failure: a score is relative to the cohort: what half of it has is normal. A forest gives what lies beyond
    everything that it saw the depth of the most extreme that it saw; the distance goes on growing.
    """
    if folds < 2 or trees < 1:
        raise BadInput("at least 2 folds and a tree", f"folds={folds}, trees={trees}", "Correct it.")
    cases = sorted(set(regions["case"].astype(str)))
    known = set(cases) if reference is None else {str(case) for case in reference} & set(cases)
    parts = _parts(known, patients, folds, seed)
    rows = [row for profile in profiles(regions) for row in _scored(profile, parts, patients or {}, trees, seed)]
    return DataFrame(rows, columns=COLUMNS)


def _parts(known: Collection[str], patients: Patients, folds: int, seed: int) -> dict[str, int]:
    """Case -> part, for the cases that may be seen; all cases of a patient in one."""
    owner = {case: (patients or {}).get(case, case) for case in known}
    names = sorted(set(owner.values()))
    folds = _enough(len(names), folds)
    shuffled = np.random.default_rng(seed).permutation(len(names))
    part = {names[i]: place % folds for place, i in enumerate(shuffled)}
    return {case: part[owner[case]] for case in known}


def _enough(patients: int, folds: int) -> int:
    """More parts than asked for where few patients would else leave too few to fit on; at most one for each."""
    large = (k for k in range(folds, patients + 1) if patients - -(-patients // k) >= FEWEST_TO_FIT)
    return next(large, folds)


def _scored(profile: Profile, parts: Mapping[str, int], patients: Mapping[str, str], trees: int, seed: int) -> list[dict[str, Any]]:
    """All rows of one class: fit without each part, score that part."""
    fold = np.array([parts.get(case, -1) for case in profile.units])
    owner = np.array([patients.get(case, case) for case in profile.units])
    rows: dict[str, dict[str, Any]] = {}
    for number in sorted(set(fold.tolist())):
        scored = fold == number
        # By patient, since one of the reference may have other cases outside it.
        seen = (fold >= 0) & ~np.isin(owner, owner[scored])
        results = _fit_and_score(profile, seen, scored, trees, seed)
        for case, result in zip(np.array(profile.units)[scored], results, strict=True):
            rows[case] = {"case": case} | profile.key | {"fold": number, "n_fit": int(seen.sum())} | result
    return [rows[case] for case in profile.units]


def _fit_and_score(profile: Profile, seen: Array, scored: Array, trees: int, seed: int) -> list[dict[str, Any]]:
    from sklearn.ensemble import IsolationForest

    fit, new = profile.values[seen], profile.values[scored]
    if len(fit) < FEWEST_TO_FIT or fit.shape[1] < 2:
        reason = f"not enough cases: {len(fit)} to fit on, {FEWEST_TO_FIT} are needed" if fit.shape[1] > 1 else "a single region"
        nothing = {"forest": np.nan, "mahalanobis": np.nan, "strangest": "", "strangest_z": np.nan, "covariance": ""}
        return [nothing | {"reason": reason}] * len(new)
    forest = IsolationForest(n_estimators=trees, random_state=seed).fit(fit)
    distance = Distance.fit(fit, seed)
    z = (new - np.median(fit, 0)) / _spread(fit)
    strangest, names = np.abs(z).argmax(1), profile.names
    return [
        {
            "forest": float(-score),  # scikit-learn's is Liu's with a minus
            "mahalanobis": float(d),
            "strangest": names[b],
            "strangest_z": float(z[i, b]),
            "covariance": distance.covariance,
            "reason": "",
        }
        for i, (score, d, b) in enumerate(zip(forest.score_samples(new), distance(new), strangest, strict=True))
    ]


def _spread(values: Array) -> Array:
    """1.4826 x median absolute deviation, by which a normal distribution has its standard deviation.

    Where more than half of the values are equal it is 0: then the standard deviation, or, where all are equal, one
    per mille of the whole mass.
    """
    mad = 1.4826 * np.median(np.abs(values - np.median(values, 0)), 0)
    std = values.std(0)
    return np.where(mad > 0, mad, np.where(std > 0, std, 1e-3))


class Distance(NamedTuple):
    """Robust Mahalanobis distance of log-ratios; `fit` on masses (n, d + 1), then call with others."""

    least: Array
    scale: Array
    location: Array
    precision: Array
    covariance: str

    @classmethod
    def fit(cls, masses: Array, seed: int) -> Distance:
        from sklearn.covariance import LedoitWolf

        least = np.array([column[column > 0].min() / 2 if (column > 0).any() else 1e-6 for column in masses.T])
        z = log_ratios(masses, least)
        n, d = z.shape
        if n > 5 * d and (found := _robust(z, seed)):
            return cls(least, np.ones(d), *found, "mcd")
        scale, location = _spread(z), np.median(z, 0)
        shrunk = LedoitWolf(assume_centered=True).fit((z - location) / scale)
        return cls(least, scale, location, shrunk.precision_, "ledoit-wolf")

    def __call__(self, masses: Array) -> Array:
        z = (log_ratios(masses, self.least) - self.location) / self.scale
        return np.sqrt(np.einsum("nd,de,ne->n", z, self.precision, z))


def _robust(z: Array, seed: int) -> tuple[Array, Array] | None:
    """Location and precision by the minimum covariance determinant; None where more than half of the cases are in a plane."""
    from sklearn.covariance import MinCovDet

    with warnings.catch_warnings():  # that a step increased the determinant, by rounding, or that there is none
        warnings.simplefilter("ignore")
        try:
            found = MinCovDet(random_state=seed).fit(z)
        except ValueError:
            return None
    if not np.linalg.cond(found.covariance_) < 1e12:
        return None
    return found.location_, np.linalg.inv(found.covariance_)


def log_ratios(masses: Array, least: Array) -> Array:
    """Coordinates of the centred log-ratios, (n, d + 1) -> (n, d); masses of 0 become `least` (one for each region)."""
    return np.log(np.where(masses > 0, masses, least)) @ helmert(masses.shape[1]).T
