"""What a trust card says: verdicts in words, with their numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from radiolucent.metrics.finding import Finding

Word = Literal["passes", "fails", "not tested", "told"]
QUESTIONS = ("sanity", "faithfulness", "stability", "agreement")


@dataclass(frozen=True)
class Verdict:
    """One question's answer: `said` is a sentence in plain words, `numbers` what it rests on.

    "told" is for what is no reason to fail. Each number has a name, value, low, high (95 %) and p; NaN where there is none.
    """

    question: str
    word: Word
    said: str
    numbers: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class TrustCard:
    """The evidence on one map of one target.

    Args:
        method, target: whose map it is. settings: the method as it is written in Python.
        verdicts: one for each of QUESTIONS.
        further: rows of `examine`, without a verdict.
        cost: evaluations and seconds of all cards of the case together, those of its maps, and a sentence.
    """

    method: str
    target: str
    settings: str
    verdicts: tuple[Verdict, ...]
    further: tuple[Mapping[str, Any], ...] = ()
    cost: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, question: str) -> Verdict:
        return next(v for v in self.verdicts if v.question == question)

    @property
    def failed(self) -> list[str]:
        """The questions that the map fails."""
        return [v.question for v in self.verdicts if v.word == "fails"]

    @property
    def word(self) -> Word:
        """Of the whole: "passes" only where all that can fail was tested."""
        words = {v.word for v in self.verdicts}
        return "fails" if "fails" in words else "not tested" if "not tested" in {self[q].word for q in QUESTIONS[:3]} else "passes"

    @property
    def stamp(self) -> str:
        """What a picture of the map must carry, or ""."""
        return f"FAILS: {', '.join(self.failed)}" if self.failed else ""


def number(name: str, found: Finding | float, p: float = math.nan) -> dict[str, Any]:
    """One of a verdict's numbers."""
    found = found if isinstance(found, Finding) else Finding(found)
    return {"name": name, "value": found.value, "low": found.low, "high": found.high, "p": p}


def not_tested(question: str, reason: str, numbers: Sequence[Mapping[str, Any]] = ()) -> Verdict:
    """A verdict that there is none, and why."""
    return Verdict(question, "not tested", f"Not tested: {reason}", tuple(numbers))


def two(value: float) -> str:
    """A number with two digits, and never -0.00."""
    return f"{round(value, 2) + 0.0:.2f}"


def interval(found: Finding) -> str:
    """ " (0.70 to 0.92)", or nothing."""
    return f" ({two(found.low)} to {two(found.high)})" if math.isfinite(found.low) and math.isfinite(found.high) else ""


def chance(p: float) -> str:
    """A p as people write it."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def as_json(cards: Sequence[TrustCard], **about: Any) -> bytes:
    """All cards of a case as a JSON file; numbers that there are not are null."""
    values = [{"method": c.method, "target": c.target, "verdict": c.word, "stamp": c.stamp} | asdict(c) for c in cards]
    return json.dumps(_plain(about | {"cards": values}), indent=1, allow_nan=False).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
