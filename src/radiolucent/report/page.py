"""What the page of one case shows, as one value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from radiolucent.errors import BadInput
from radiolucent.explanation import Explanation, likeness
from radiolucent.geometry import Array
from radiolucent.parcellation import Parcellation
from radiolucent.regions import region_rows
from radiolucent.report.beside import Map, drawn
from radiolucent.report.picture import MOST_VOXELS, background, for_display
from radiolucent.trust import TrustCard
from radiolucent.volume import Volume

Row = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Anatomy:
    """The regions that a page shows and adds up over.

    Args:
        parcellation: on any grid.
        called: what it is.
        rows: of `radiolucent.regions.region_rows`, where they are known already.
        outlines: target name -> label whose outline is drawn in that target's pictures.
    """

    parcellation: Parcellation
    called: str = "parcellation"
    rows: Sequence[Row] | None = None
    outlines: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Page:
    """What the page of one case shows.

    Args:
        scan: the scan on the grid of the explanations.
        explanations: one or more, of this scan.
        title: the case's name; `subtitle` goes below it.
        notes: remarks to put on top; those of the scan are added.
        facts: further name -> value lines below the scores.
        measured_in: the unit of the scores, where they have one.
        anatomy: regions of the scan.
        model: what the model is called where there are others beside it.
        beside: other models' explanations of the same scan and targets, by the models' names.
        alike: rows of `radiolucent.explanation.likeness` of all models, where they are known already.
        cards: trust cards (radiolucent.trust) by the models' names, those of this model under "".
        units: for each explanation, target -> images with captions to put below its map (see `report.units`).
    """

    scan: Volume
    explanations: Sequence[Explanation]
    title: str
    subtitle: str = ""
    notes: Sequence[str] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    measured_in: str = ""
    anatomy: Anatomy | None = None
    model: str = "this model"
    beside: Mapping[str, Sequence[Explanation]] = field(default_factory=dict)
    alike: Sequence[Row] | None = None
    cards: Mapping[str, Sequence[TrustCard]] = field(default_factory=dict)
    units: Sequence[Mapping[str, Sequence[tuple[str, str]]]] = ()

    def __post_init__(self) -> None:
        if not self.explanations:
            raise BadInput("at least one explanation", "none", "There is nothing to report.")
        if self.model in self.beside:
            raise BadInput("models beside this one that have other names", repr(self.model), "Name them apart.")
        for explanation in self.every:
            self.scan.like(explanation.relevance[0].data[:1])

    @property
    def every(self) -> list[Explanation]:
        """The explanations of all models."""
        return [*self.explanations, *(e for own in self.beside.values() for e in own)]

    @cached_property
    def most(self) -> int:
        """Voxels of one map at most: a page of many maps holds less of each."""
        return min(MOST_VOXELS, 4 * MOST_VOXELS // sum(len(e.targets) for e in self.every))

    @cached_property
    def background(self) -> Volume:
        """The scan as it is drawn."""
        return background(self.scan, self.most)

    @cached_property
    def maps(self) -> list[Map]:
        """All maps of all models, ready to draw."""
        return drawn({"": self.explanations, **self.beside}, self.most, self.cards)

    @cached_property
    def likeness(self) -> Sequence[Row]:
        return likeness({self.model: self.explanations, **self.beside}) if self.alike is None else self.alike

    @cached_property
    def parcellation(self) -> Parcellation | None:
        """That of the anatomy on the scan's grid."""
        return self.anatomy.parcellation.on(self.scan.grid) if self.anatomy else None

    @cached_property
    def labels(self) -> Array | None:
        """The parcellation's, as they are drawn."""
        return for_display(self.parcellation.labels, self.most, nearest=True).data[0] if self.parcellation else None

    @property
    def rows(self) -> Sequence[Row]:
        """What each region has of each map."""
        if self.anatomy is None or self.parcellation is None:
            return []
        return region_rows(self.explanations, self.parcellation) if self.anatomy.rows is None else self.anatomy.rows

    def outline(self, target: str) -> Array | None:
        """Where the target's own label is."""
        outlines = self.anatomy.outlines if self.anatomy else {}
        return self.labels == outlines[target] if self.labels is not None and target in outlines else None
