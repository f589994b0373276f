"""What a teach-in from the line offers, and what a person asked for: files of a lesson, and parts of the state."""

import json
from datetime import UTC, datetime
from typing import Annotated, Any

import numpy as np
from pydantic import AwareDatetime, Field

from zsad_agent.system import shortened
from zsad_agent.teaching import Recall, Taught
from zsad_core.bundle import Sha256
from zsad_core.config import RecordModel
from zsad_core.memory import recall_interval, to_unit

MAX_NAMED = 20  # pictures that were left out, by name
MAX_STATE_BYTES = 3500  # of a state without its envelope
MAX_STATE_TEXT = 500  # characters of a text in a short state
RATE = 0.01  # of false rejects, where nobody asked for another

UNLABELLED = (
    "nobody has checked the pictures, so the promised rates hold only if at most 20 % of the parts were defective, and "
    "those looked different"
)


class Asked(RecordModel):
    """A teach-in that a person started: the next parts are good."""

    count: Annotated[int, Field(ge=3, le=1000)]
    rate: Annotated[float, Field(gt=0, lt=1)] = RATE
    finished: bool = False  # no further parts are gathered
    kept: tuple[str, ...] = ()  # pictures that were left out, and that a person says are good


class NotLearned(RecordModel):
    id: str
    reason: str


class Judged(RecordModel):
    """What a teach-in made of a picture."""

    reason: str | None = None  # why it was left out; None: it was not
    score: float | None = None


class OfferedRecall(RecordModel):
    """Bad parts that the threshold finds, and the 90 % interval of their share."""

    found: int
    total: int
    low: float
    high: float


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
    recall: OfferedRecall | None = None  # None: there is no bad part
    goods_scores: tuple[float, ...] = ()  # those that set the threshold, 0.5, in [0, 1]
    apart: int = 0  # good parts among those left out: the promise counts them as rejected
    bad_scores: tuple[float, ...] = ()
    judged: dict[str, Judged] = Field(default={}, repr=False)  # by the id of the picture, good or bad

    def shown(self, *, short: bool) -> dict[str, Any]:
        """For a state. `short`: without the lists of scores."""
        return self.model_dump(mode="json", exclude={"judged", "goods_scores", "bad_scores"} if short else {"judged"})


def make_offer(taught: Taught, sha256: str, goods: list[str], *, trusted: bool) -> Offer:
    """The figures of a teach-in.

    Args:
        taught: its outcome.
        sha256: of the profile as written.
        goods: the ids of the pictures of good parts.
        trusted: a person said that the parts are good.
    """
    profile = taught.profile
    level = profile.levels[-1]
    ordered = sorted(taught.left_out, key=lambda entry: -(entry.score or 0.0))
    judged = {name: Judged(score=taught.good_scores.get(name)) for name in goods}
    judged |= {name: Judged(score=score) for name, score in taught.bad_scores.items()}
    judged |= {entry.name: Judged(reason=entry.reason, score=entry.score) for entry in ordered}
    return Offer(
        product=profile.product,
        sha256=sha256,
        at=datetime.now(UTC),
        pictures=len(goods),
        goods=len(taught.good_scores),
        false_reject_rate=level.false_reject_rate,
        false_reject_rate_90=level.false_reject_rate_90,
        needed=level.needed,
        left_out=len(ordered),
        named=tuple(NotLearned(id=entry.name, reason=entry.reason) for entry in ordered[:MAX_NAMED]),
        notes=(*taught.notes, *(() if trusted else (UNLABELLED,))),
        recall=_recall(level.recall),
        goods_scores=_rounded_down(to_unit(np.array(profile.goods_scores), level.scale)),
        apart=len(profile.apart),
        bad_scores=_rounded_down(np.array(list(taught.bad_scores.values()))),
        judged=judged,
    )


def _rounded_down(scores: np.ndarray) -> tuple[float, ...]:
    """Four digits; none crosses the threshold."""
    return tuple((np.floor(scores.astype(np.float64) * 10_000) / 10_000).tolist())


def _recall(found: Recall | None) -> OfferedRecall | None:
    if found is None:
        return None
    low, high = recall_interval(found.found, found.total)
    return OfferedRecall(found=found.found, total=found.total, low=low, high=high)


def shorten(state: dict[str, Any]) -> dict[str, Any]:
    """The state with at most `MAX_STATE_BYTES`: the least different of the pictures that were left out go first."""
    for key in ("text", "mark"):
        if state.get(key):
            state[key] = shortened(state[key], MAX_STATE_TEXT)
    if (offer := state.get("offer")) is not None:
        offer["notes"] = [shortened(note, MAX_STATE_TEXT) for note in offer["notes"]]
        while offer["named"] and len(json.dumps(state)) > MAX_STATE_BYTES:
            offer["named"].pop()
    return state
