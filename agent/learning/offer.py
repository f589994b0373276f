"""What a teach-in from the line offers, and what a person asked for: files of a lesson, and parts of the state."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AwareDatetime, Field

from zsad_agent.teaching import Taught
from zsad_core.bundle import Sha256
from zsad_core.config import RecordModel

MAX_NAMED = 20  # pictures that were left out, by name
RATE = 0.01  # of false rejects, where nobody asked for another

UNLABELLED = (
    "nobody has checked the pictures, so the promised rates hold only if at most 20 % of the parts were defective, and "
    "those looked different"
)


class Asked(RecordModel):
    """A teach-in that a person started: the next parts are good."""

    count: Annotated[int, Field(ge=3, le=1000)]
    rate: Annotated[float, Field(gt=0, lt=1)] = RATE


class NotLearned(RecordModel):
    id: str
    reason: str


class Offer(RecordModel):
    """A profile that can be taken into use, in figures."""

    product: str
    sha256: Sha256
    at: AwareDatetime
    pictures: int  # gathered
    goods: int  # pictures that set the threshold
    false_reject_rate: float
    false_reject_rate_90: float
    needed: int  # pictures for the requested rate
    left_out: int
    named: tuple[NotLearned, ...]  # those left out, the most different first
    notes: tuple[str, ...]


def make_offer(taught: Taught, sha256: str, pictures: int, *, trusted: bool) -> Offer:
    """The figures of a teach-in.

    Args:
        taught: its outcome.
        sha256: of the profile as written.
        pictures: number of pictures gathered.
        trusted: a person said that the parts are good.
    """
    level = taught.profile.levels[-1]
    ordered = sorted(taught.left_out, key=lambda entry: -(entry.score or 0.0))
    return Offer(
        product=taught.profile.product,
        sha256=sha256,
        at=datetime.now(UTC),
        pictures=pictures,
        goods=len(taught.good_scores),
        false_reject_rate=level.false_reject_rate,
        false_reject_rate_90=level.false_reject_rate_90,
        needed=level.needed,
        left_out=len(ordered),
        named=tuple(NotLearned(id=entry.name, reason=entry.reason) for entry in ordered[:MAX_NAMED]),
        notes=(*taught.notes, *(() if trusted else (UNLABELLED,))),
    )
