"""One lesson: the pictures that were gathered for a product at a camera, and the offer made of them. See `line`."""

import contextlib
import logging
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from zsad_agent.learning.offer import Asked, Judged, Offer, make_offer
from zsad_agent.learning.pictures import BADS, GOODS, MAX_GIVEN, GatheredPictures, given_id
from zsad_agent.learning.recent import RecentPart
from zsad_agent.system import read_json, write_whole
from zsad_agent.teaching import KeptPicture, Picture, Taught, write_profile
from zsad_core.errors import ImageError, ProfileError, ZsadError

logger = logging.getLogger(__name__)

MOST_MARKED = 50  # parts marked as bad earlier that are copied into a lesson, the newest
LEAST_PICTURES = 3  # fewer are not learned
MAX_JSON_BYTES = 4_000_000
LINE, ASKED = "line", "asked"
GOOD, BAD = "good", "bad"
Named = tuple[str, Picture]


class Teach(Protocol):
    """Teaches a product from pictures of a camera."""

    def __call__(
        self,
        camera: str,
        pictures: Sequence[Named],
        *,
        product: str,
        rate: float,
        trusted: bool,
        kept: Sequence[Named],
        bad: Sequence[Named],
        progress: Callable[[str, int, int], None],
    ) -> Taught:
        """`trusted`: a person says that the parts are good. `progress` gets what is done, and may raise.

        `kept`: further pictures that are learned although they look different. `bad`: of bad parts.

        Raises:
            ZsadError: nothing can be learned from these pictures.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class LessonPicture:
    """A picture of a lesson, for people."""

    id: str
    kind: Literal["good", "bad"]
    state: Literal["gathered", "learned", "left_out"]
    reason: str | None  # why it was left out
    score: float | None  # in [0, 1), the threshold is at 0.5; of a picture that was left out: how different it is


@dataclass(slots=True)
class Lesson:
    """What is learned at one camera about one product. For one thread at a time.

    A change by people is on the disk when the method returns. The earlier offer is deleted before the change.
    """

    product: str
    folder: Path
    pictures: GatheredPictures
    bads: GatheredPictures
    asked: Asked | None  # None: learned from the line, without being asked
    needed: int  # pictures for the first attempt
    due: int  # new pictures until the next attempt
    pause: int  # the same after this attempt; doubles with each one
    offer: Offer | None
    wanted: bool = False  # the pictures are to be learned now, or are being learned
    changes: int = 0  # by people; a teach-in that began before a change is out of date
    text: str = ""  # what happened last, for people
    last_s: float = -math.inf  # time of the last picture

    @property
    def takes_parts(self) -> bool:
        """Whether the parts of the line are gathered."""
        return self.asked is None or not (self.asked.finished or self.offer is not None)

    def state(self, *, short: bool) -> dict[str, Any]:
        """For the command's topic if `short`; otherwise with all scores."""
        is_learning = self.wanted and self.offer is None
        actions = ["commit", "cancel"] if self.offer is not None else ["finish", "cancel"]
        return {
            "phase": "learning" if is_learning else "gathering" if self.offer is None else "offered",
            "product": self.product,
            "asked": self.asked is not None,
            "pictures": len(self.pictures),
            "bad": len(self.bads),
            "needed": self.needed,
            "text": self.text,
            "offer": None if self.offer is None else self.offer.shown(short=short),
            "next": ["cancel"] if is_learning else actions,
        }

    def listed(self) -> Iterator[LessonPicture]:
        """All pictures."""
        judged = {} if self.offer is None else self.offer.judged
        kinds: tuple[tuple[Literal["good", "bad"], GatheredPictures], ...] = (
            ("good", self.pictures),
            ("bad", self.bads),
        )
        for kind, pictures in kinds:
            for picture_id, _ in pictures.pictures():
                found = judged.get(picture_id)
                state: Literal["gathered", "learned", "left_out"] = "gathered"
                if found is not None:
                    state = "learned" if found.reason is None else "left_out"
                found = found or Judged()
                yield LessonPicture(id=picture_id, kind=kind, state=state, reason=found.reason, score=found.score)

    def path(self, picture_id: str) -> Path | None:
        """Where a picture lies; None if it is not of this lesson."""
        kinds = (self.pictures, self.bads)
        return next((pictures.path(picture_id) for pictures in kinds if picture_id in pictures), None)

    def named(self) -> tuple[list[Named], list[Named]]:
        """The pictures of good parts in two lists: those that may be left out, and those that a person keeps."""
        kept = self.asked.kept if self.asked is not None else ()
        found = self.pictures.pictures()
        return [one for one in found if one[0] not in kept], [one for one in found if one[0] in kept]

    def count_part(self) -> None:
        """One more picture was gathered."""
        self.due -= 1
        if self.due <= 0:
            self._want()
            self.due, self.pause = self.pause, 2 * self.pause

    def finish(self) -> None:
        """Learns what was gathered so far.

        Raises:
            ZsadError: it is learned already, or is too little.
        """
        if self.wanted:
            raise ZsadError("the pictures are being learned already")
        if self.offer is not None:
            raise ZsadError("there is an offer already: commit it or cancel it")
        if len(self.pictures) < LEAST_PICTURES:
            raise ZsadError(f"{len(self.pictures)} pictures are too few to learn: at least {LEAST_PICTURES} are needed")
        self._want()

    def remove(self, picture_id: str) -> bool:
        """Deletes a picture. False if it is not among those of the lesson."""
        if self.path(picture_id) is None:
            return False
        self._change()
        self.pictures.remove(picture_id)
        self.bads.remove(picture_id)
        return True

    def is_left_out(self, picture_id: str) -> bool:
        """Whether a good part was left out of the offer."""
        judged = None if self.offer is None else self.offer.judged.get(picture_id)
        return judged is not None and judged.reason is not None and picture_id in self.pictures

    def keep(self, picture_id: str) -> None:
        """Learns a picture that was left out of the offer because it looks different: a person says that it is good.

        Raises:
            ZsadError: it was left out for another reason, or nobody started this lesson.
        """
        assert self.offer is not None
        judged = self.offer.judged[picture_id]
        if self.asked is None:
            raise ZsadError("these pictures are of the line and nobody started the teach-in: start one with good parts")
        if judged.score is None:
            raise ZsadError(f"{picture_id} cannot be learned: {judged.reason}")
        kept = (*self.asked.kept, picture_id)
        self._change()
        self._note(self.asked.model_copy(update={"kept": kept}))

    def give(self, picture: KeptPicture, *, good: bool) -> str:
        """Takes a picture of a person, with its file's name. Returns its id.

        Raises:
            ZsadError: it is there already, there are too many, or nobody started this lesson.
            ImageError: it cannot be decoded.
        """
        if good and self.asked is None:
            raise ZsadError("good parts are given to a teach-in that a person started: start one first")
        pictures, name = self.pictures if good else self.bads, picture.name
        if len(pictures) >= MAX_GIVEN:
            raise ZsadError(f"there are {len(pictures)} pictures already, at most {MAX_GIVEN} are taken")
        image = picture.image()
        for known, kind in ((self.pictures, GOOD), (self.bads, BAD)):
            if (twin := known.twin(image)) is not None:
                raise ZsadError(f"{name}: the same part as {twin}, which is among the {kind} parts")
        picture = KeptPicture(name=given_id(picture), jpeg=picture.jpeg)
        self._change()
        pictures.put(picture)
        if good and self.takes_parts:
            self.count_part()
        return picture.name

    def take_marked(self, pictures: Sequence[KeptPicture]) -> None:
        """Takes parts that were marked as bad earlier. Call it before pictures are gathered."""
        for picture in pictures[-MOST_MARKED:]:
            with contextlib.suppress(ImageError):
                self.bads.put(picture)

    def take_mark(self, part: RecentPart, *, good: bool) -> None:
        """Takes a person's mark of a part of the line. A bad part is not learned, and counts for the recall."""
        if good:
            if part.id in self.bads:
                self.remove(part.id)
        elif part.facts.product == self.product or part.facts.taught is None:  # not a part of another taught product
            self._change()
            if len(self.bads) < MAX_GIVEN:
                self.bads.put(part.picture)
            self.pictures.remove(part.id)

    def refuse(self, reason: str) -> None:
        """Nothing was learned, so further parts are gathered."""
        self.wanted = False
        self.text = f"no offer yet: {reason}"
        if self.asked is not None and self.asked.finished:
            self.asked = self.asked.model_copy(update={"finished": False})  # also if the disk is full
            self._note(self.asked)

    def store_offer(self, taught: Taught, goods: Sequence[str]) -> None:
        """Writes the profile and its figures.

        Raises:
            OSError: the disk cannot store it.
            ProfileError: the same, of the profile.
        """
        (self.folder / "offer.json").unlink(missing_ok=True)  # no figures of another profile after a kill
        written = write_profile(taught.profile, self.folder / "offer.profile")
        offer = make_offer(taught, written.sha256, list(goods), trusted=self.asked is not None)
        write_whole(self.folder / "offer.json", offer.model_dump_json().encode())
        self.offer, self.wanted = offer, False
        self.text = (
            f"learned {offer.goods} of {offer.pictures} pictures, false rejects about {offer.false_reject_rate:.1%}, "
            f"with 90 % confidence at most {offer.false_reject_rate_90:.1%}"
        )

    def _change(self) -> None:
        """Call it before a change by people: it deletes the offer, and the pictures are learned again."""
        self.changes += 1
        if self.offer is not None or self.wanted:
            self._want()
            (self.folder / "offer.json").unlink(missing_ok=True)
            self.offer = None

    def _want(self) -> None:
        if self.asked is not None and not self.asked.finished:
            self._note(self.asked.model_copy(update={"finished": True}))
        if not self.wanted:
            self.wanted, self.text = True, "waits to be learned"

    def _note(self, asked: Asked) -> None:
        write_whole(self.folder / "asked.json", asked.model_dump_json().encode())
        self.asked = asked


def open_lesson(of_camera: Path, product: str, asked: Asked | None, needed: int, *, afresh: bool = False) -> Lesson:
    """The lesson in the folder of a camera, which is made if there is none.

    Args:
        of_camera: the folder.
        product: its name.
        asked: what a person asked for; None: it is learned from the line.
        needed: pictures for the first attempt.
        afresh: what an earlier lesson has left is deleted.

    Raises:
        OSError: it cannot be made or read.
    """
    folder = of_camera / product / (LINE if asked is None else ASKED)
    if afresh:
        shutil.rmtree(folder, ignore_errors=True)
    pictures = GatheredPictures(folder, 2 * needed, GOODS)
    offer = _read_offer(folder)
    wanted = asked is not None and asked.finished and offer is None
    if asked is not None:
        write_whole(folder / "asked.json", asked.model_dump_json().encode())
    return Lesson(
        product=product,
        folder=folder,
        pictures=pictures,
        bads=GatheredPictures(folder, MAX_GIVEN, BADS),
        asked=asked,
        needed=needed,
        due=max(1, needed - len(pictures)) if offer is None else needed,
        pause=needed,
        offer=offer,
        wanted=wanted,
    )


def find_lessons(folder: Path) -> dict[str, tuple[str, Asked | None]]:
    """Of each camera, the product and what a person asked for: a lesson that a person started, or one with an offer."""
    found: dict[str, tuple[str, Asked | None]] = {}
    for path in sorted(folder.glob(f"*/*/{ASKED}/asked.json")):
        try:
            found.setdefault(path.parts[-4], (path.parts[-3], read_json(path, Asked, MAX_JSON_BYTES)))
        except ValueError as error:
            logger.warning("%s: the teach-in does not continue: %s", path, error)
    for path in sorted(folder.glob(f"*/*/{LINE}/offer.json")):
        found.setdefault(path.parts[-4], (path.parts[-3], None))
    return found


@contextlib.contextmanager
def storing(folder: Path) -> Iterator[None]:
    """An error of the disk becomes a ProfileError. What is stored stays valid, and the next picture tries again."""
    try:
        yield
    except OSError as error:
        raise ProfileError(f"what is learned cannot be stored in {folder}: {error.strerror or error}") from error


def _read_offer(folder: Path) -> Offer | None:
    """The offer of an earlier run; None if there is none, or a part of it is missing."""
    try:
        offer = read_json(folder / "offer.json", Offer, MAX_JSON_BYTES)
    except ValueError as error:
        logger.warning("%s: the offer is not used: %s", folder, error)
        return None
    return offer if (folder / "offer.profile").is_file() else None
