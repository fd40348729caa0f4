"""Can a map be believed? Its evidence on one card: four questions, each with a verdict, numbers and a sentence."""

from radiolucent.trust.card import TrustCard, Verdict, as_json
from radiolucent.trust.judging import trust
from radiolucent.trust.standards import LEVELS, Standards

__all__ = ["LEVELS", "Standards", "TrustCard", "Verdict", "as_json", "trust"]
