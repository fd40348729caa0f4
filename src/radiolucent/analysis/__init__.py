"""A cohort's region rows in, tidy tables out: pandas on the outside, SciPy and scikit-learn underneath. No files, no torch."""

from radiolucent.analysis.anatomy import Anatomy, anatomy
from radiolucent.analysis.anomalies import anomaly
from radiolucent.analysis.asymmetry import asymmetries, asymmetry, output_pairs, truths
from radiolucent.analysis.clustering import classes, merges
from radiolucent.analysis.covariates import bias, quantities
from radiolucent.analysis.densities import density
from radiolucent.analysis.importances import edges, importance
from radiolucent.analysis.matching import Match, matches
from radiolucent.analysis.mirrors import mirror, own
from radiolucent.analysis.profiles import checked, patients_of, selected
from radiolucent.analysis.quality import anomaly_quality
from radiolucent.analysis.settings import Settings
from radiolucent.analysis.shift import drift
from radiolucent.analysis.sides import laterality, sides
from radiolucent.analysis.variability import coefficients, variability, variation
from radiolucent.analysis.whole import Analysis, analyse, ranking

__all__ = [
    "Analysis",
    "Anatomy",
    "Match",
    "Settings",
    "analyse",
    "anatomy",
    "anomaly",
    "anomaly_quality",
    "asymmetries",
    "asymmetry",
    "bias",
    "checked",
    "classes",
    "coefficients",
    "density",
    "drift",
    "edges",
    "importance",
    "laterality",
    "matches",
    "merges",
    "mirror",
    "output_pairs",
    "own",
    "patients_of",
    "quantities",
    "ranking",
    "selected",
    "sides",
    "truths",
    "variability",
    "variation",
]
