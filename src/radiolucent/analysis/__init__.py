"""A cohort's region rows in, tidy tables out: pandas on the outside, SciPy and scikit-learn underneath. No files, no torch."""

from radiolucent.analysis.anomalies import anomaly
from radiolucent.analysis.clustering import classes, merges
from radiolucent.analysis.covariates import bias, quantities
from radiolucent.analysis.importances import edges, importance
from radiolucent.analysis.profiles import checked, patients_of, selected
from radiolucent.analysis.quality import anomaly_quality
from radiolucent.analysis.shift import drift
from radiolucent.analysis.sides import laterality, sides
from radiolucent.analysis.whole import Analysis, Settings, analyse, ranking

__all__ = [
    "Analysis",
    "Settings",
    "analyse",
    "anomaly",
    "anomaly_quality",
    "bias",
    "checked",
    "classes",
    "drift",
    "edges",
    "importance",
    "laterality",
    "merges",
    "patients_of",
    "quantities",
    "ranking",
    "selected",
    "sides",
]
