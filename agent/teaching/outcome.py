"""What a teach-in gives: the profile, and what a person should know about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zsad_agent.teaching.profile import Profile


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """A picture among the goods that was not learned."""

    name: str
    reason: str  # for people
    score: float | None = None  # of an outlier: times the median of the goods


@dataclass(frozen=True, kw_only=True, slots=True)
class Taught:
    """The outcome of `teach`. Scores are those of the highest level, in [0, 1) with the threshold at 0.5.

    The recall of the bad parts is in each level of the profile.
    """

    profile: Profile
    left_out: tuple[LeftOut, ...]  # unreadable, doubled, black, overlays, outliers
    good_scores: Mapping[str, float]  # those that set the threshold
    bad_scores: Mapping[str, float] = field(default_factory=dict)
    missed: tuple[str, ...] = ()  # the bad parts below the threshold, lowest score first
    likeness: Mapping[str, float] = field(default_factory=dict)  # part mode -> mean distance between goods
    notes: tuple[str, ...] = ()  # for people: too few goods, what the bad parts changed

    @property
    def outliers(self) -> tuple[LeftOut, ...]:
        """The pictures that look different from the other goods."""
        return tuple(entry for entry in self.left_out if entry.score is not None)
