"""Learns products from the parts that pass by: gathers pictures in the background, and offers a profile.

The files lie in `<folder>/<camera>/<product>/line`, or `asked` for a teach-in that a person started: `train/good` with
the pictures, `asked.json`, `offer.profile`, `offer.json`, and `left_out` with what was not learned. Each file is
written whole, so a kill at any moment loses at most the picture in progress.
"""

import contextlib
import logging
import math
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from zsad_agent.config import LearningConfig
from zsad_agent.learning.offer import RATE, Asked, Offer, make_offer
from zsad_agent.learning.pictures import GatheredPictures
from zsad_agent.messages import Result
from zsad_agent.system import Service, one_line, read_json, write_whole
from zsad_agent.teaching import KeptPicture, Picture, Profile, ProfileStore, Taught, read, write_profile
from zsad_core.bundle import product_name
from zsad_core.errors import ImageError, ProfileError, ZsadError

logger = logging.getLogger(__name__)

MAX_WAITING = 4  # pictures that wait for the thread; further ones are not learned
EVERY_S = 1.0  # between two pictures of a camera that runs free
MAX_JSON_BYTES = 1_000_000
MAX_TEXT = 1000
NICE = 10  # the inspection goes first
THUMBNAIL_SIDE = 160  # of a picture that was left out, pixels
LINE, ASKED = "line", "asked"


class Teach(Protocol):
    """Teaches a product from pictures of a camera."""

    def __call__(
        self,
        camera: str,
        pictures: Sequence[tuple[str, Picture]],
        *,
        product: str,
        rate: float,
        trusted: bool,
        progress: Callable[[str, int, int], None],
    ) -> Taught:
        """`trusted`: a person says that the parts are good. `progress` gets what is done, and may raise.

        Raises:
            ZsadError: nothing can be learned from these pictures.
        """


class _Stopped(Exception):
    """The teach-in in progress is no longer wanted."""


@dataclass(slots=True)
class _Lesson:
    """What is learned at one camera about one product."""

    product: str
    folder: Path
    pictures: GatheredPictures
    asked: Asked | None  # None: learned from the line, without being asked
    needed: int  # pictures for the first attempt
    due: int  # new pictures until the next attempt
    pause: int  # the same after this attempt; doubles with each one
    offer: Offer | None
    text: str = ""  # what happened last, for people
    last_s: float = -math.inf  # time of the last picture


class LineLearner(Service):
    """One thread for all cameras. `take` never waits; the commands may come from another thread."""

    name = "learning"
    stop_s = 0.5

    def __init__(
        self,
        config: LearningConfig,
        folder: Path,
        store: ProfileStore,
        teach: Teach,
        prepare: Callable[[str], None],
        *,
        free_running: Collection[str] = (),
    ) -> None:
        """Does not access the disk yet.

        Args:
            config: what is learned without being asked.
            folder: of this service.
            store: gets the profiles that are taken into use.
            teach: makes a profile.
            prepare: called with a product whose profile in the store has changed: it is used from the next picture on.
            free_running: the cameras whose pictures are not one for each part.
        """
        self._config, self._folder, self._store, self._teach = config, folder, store, teach
        self._prepare = prepare
        self._free_running = frozenset(free_running)
        self._queue_changed = threading.Condition()
        self._waiting: deque[tuple[Result, np.ndarray]] = deque()
        self._closing, self._busy = False, True
        self._lock = threading.RLock()  # guards what follows, and the files of the lessons
        self._lessons: dict[str, _Lesson] = {}  # by camera
        self._said: dict[str, str] = {}  # camera -> what became of its last lesson
        self._fault: str | None = None
        self.dropped = 0  # pictures that came while the thread was busy
        self._thread = threading.Thread(target=self._run, name="zsad-learning", daemon=True)

    def stop(self, deadline_s: float) -> None:
        with self._queue_changed:
            self._closing = True
            self._queue_changed.notify_all()
        self._wait(deadline_s)

    @property
    def fault(self) -> str | None:
        return self._fault

    def take(self, result: Result, view_bgr: np.ndarray, anomaly_map: np.ndarray) -> None:
        """Queues an inspected part that has a score. Never waits.

        Args:
            result: of the part.
            view_bgr: uint8 [H, W, 3], the inspected part of the frame; not changed afterwards.
            anomaly_map: float32 [h, w] in [0, 1].
        """
        with self._queue_changed:
            if len(self._waiting) >= MAX_WAITING:
                self.dropped += 1
            elif not self._closing:
                self._waiting.append((result, view_bgr))
                self._queue_changed.notify_all()

    # Commands. Each raises a ZsadError when it is refused.

    def begin(self, camera: str, product: str, count: int, rate: float | None) -> None:
        """Teaches the product from the next `count` different pictures, which a person says are good."""
        with self._lock, self._storing():
            if product_name(product) != product:
                raise ZsadError(f"product {product!r}: write it in Unicode's composed form")
            folder = self._folder / camera / product / ASKED
            shutil.rmtree(folder, ignore_errors=True)
            lesson = self._open(folder, product, Asked(count=count, rate=RATE if rate is None else rate))
            self._lessons[camera] = lesson

    def cancel(self, camera: str) -> None:
        """Forgets the pictures and the offer of this camera's lesson."""
        with self._lock:
            if camera not in self._lessons:
                raise ZsadError("nothing is being taught at this camera")
            self._said[camera] = f"{self._forget(camera)}: cancelled"

    def commit(self, camera: str) -> Profile:
        """Takes the offer into use, from the next picture on."""
        with self._lock, self._storing():
            lesson = self._lessons.get(camera)
            if lesson is None or lesson.offer is None:
                raise ZsadError("there is no offer at this camera. Its state says what is missing")
            profile = self._store.import_from(lesson.folder / "offer.profile")
            self._prepare(lesson.product)
            self._said[camera] = f"{self._forget(camera)}: profile {profile.sha256[:12]} is in use"
            return profile

    def _forget(self, camera: str) -> str:
        """Deletes the lesson of the camera, and returns its product."""
        lesson = self._lessons.pop(camera)
        shutil.rmtree(lesson.folder, ignore_errors=True)
        return lesson.product

    def roll_back(self, camera: str, product: str) -> Profile:
        """Takes the profile before the one in use into use."""
        with self._lock, self._storing():
            profile = self._store.roll_back(product)
            self._prepare(product)
            self._said[camera] = f"{product}: profile {profile.sha256[:12]} is in use again"
        return profile

    def state(self, camera: str) -> dict[str, Any]:
        """For the command's topic: progress, offer and what can be done next."""
        with self._lock:
            lesson = self._lessons.get(camera)
            if lesson is None:
                return {"phase": "idle", "text": self._said.get(camera, ""), "next": ["start", "roll_back"]}
            offer = lesson.offer
            return {
                "phase": "gathering" if offer is None else "offered",
                "product": lesson.product,
                "asked": lesson.asked is not None,
                "pictures": len(lesson.pictures),
                "needed": lesson.needed,
                "text": lesson.text,
                "offer": None if offer is None else offer.model_dump(mode="json"),
                "next": ["cancel"] if offer is None else ["commit", "cancel"],
            }

    # The thread

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # a unit may forbid it
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        try:
            with self._storing():
                self._resume()
        except ZsadError as error:
            self._note_fault(str(error))
        self._rest()
        while (taken := self._next()) is not None:
            try:
                with self._storing():
                    self._learn(*taken)
                    self._note_fault(None)
            except _Stopped:
                continue
            except ZsadError as error:
                self._note_fault(str(error))
            except Exception as error:  # the inspection continues, and so does learning with the next picture
                logger.exception("learning failed")
                self._note_fault(f"internal error {type(error).__name__}: {error}")
            finally:
                self._rest()

    def wait_idle(self, timeout_s: float) -> bool:
        """Waits until every queued picture is learned or not."""
        with self._queue_changed:
            return self._queue_changed.wait_for(lambda: not (self._busy or self._waiting), timeout_s)

    def _rest(self) -> None:
        with self._queue_changed:
            self._busy = False
            self._queue_changed.notify_all()

    def _next(self) -> tuple[Result, np.ndarray] | None:
        """The next picture; None at the end."""
        with self._queue_changed:
            self._queue_changed.wait_for(lambda: self._closing or self._waiting)
            if self._closing:
                return None
            self._busy = True
            return self._waiting.popleft()

    def _learn(self, result: Result, view_bgr: np.ndarray) -> None:
        with self._lock:
            lesson = self._lesson_of(result)
            if lesson is None or not self._is_in_time(lesson, result.camera):
                return
            if not lesson.pictures.show(result.id, view_bgr):
                return
            lesson.last_s = time.monotonic()
            lesson.due -= 1
            if lesson.due > 0:
                return
        self._attempt(result.camera, lesson)

    def _lesson_of(self, result: Result) -> _Lesson | None:
        """The lesson that may learn from this part."""
        lesson = self._lessons.get(result.camera)
        if lesson is not None and lesson.asked is not None:
            return lesson if lesson.offer is None else None
        if not result.provisional:
            if lesson is not None and lesson.product == result.product:  # it was taught in another way
                self._forget(result.camera)
            return None
        if self._config.mode == "off" or not _can_be_taught(result.product):
            return None
        if lesson is None or lesson.product != result.product:
            folder = self._folder / result.camera / result.product / LINE
            lesson = self._lessons[result.camera] = self._open(folder, result.product, None)
        return lesson

    def _is_in_time(self, lesson: _Lesson, camera: str) -> bool:
        return camera not in self._free_running or time.monotonic() - lesson.last_s >= EVERY_S

    def _attempt(self, camera: str, lesson: _Lesson) -> None:
        """Teaches. The lock is free meanwhile, so that commands are answered."""

        def progress(what: str, done: int, total: int) -> None:
            lesson.text = f"{what}: {done} of {total}"
            if self._closing or self._lessons.get(camera) is not lesson:
                raise _Stopped

        asked, pictures = lesson.asked, lesson.pictures.pictures()
        rate = RATE if asked is None else asked.rate
        lesson.due, lesson.pause = lesson.pause, 2 * lesson.pause
        try:
            taught = self._teach(
                camera, pictures, product=lesson.product, rate=rate, trusted=asked is not None, progress=progress
            )
        except ZsadError as error:
            lesson.text = f"no offer yet: {one_line(str(error), MAX_TEXT)}"
            logger.warning("%s, %s: %s", camera, lesson.product, lesson.text)
            return
        with self._lock:
            if self._lessons.get(camera) is not lesson:
                return
            self._offer(lesson, taught, dict(pictures))
            logger.info("%s, %s: %s", camera, lesson.product, lesson.text)
            if asked is None and self._config.mode == "use":
                self.commit(camera)

    def _offer(self, lesson: _Lesson, taught: Taught, pictures: dict[str, Picture]) -> None:
        written = write_profile(taught.profile, lesson.folder / "offer.profile")
        offer = make_offer(taught, written.sha256, len(pictures), trusted=lesson.asked is not None)
        write_whole(lesson.folder / "offer.json", offer.model_dump_json().encode())
        thumbnails = lesson.folder / "left_out"
        shutil.rmtree(thumbnails, ignore_errors=True)
        thumbnails.mkdir()
        for entry in offer.named:
            with contextlib.suppress(ImageError):
                picture = KeptPicture.of(entry.id, read(pictures[entry.id]), max_side=THUMBNAIL_SIDE)
                (thumbnails / f"{entry.id}.jpg").write_bytes(picture.jpeg)
        lesson.offer = offer
        lesson.text = (
            f"learned {offer.goods} of {offer.pictures} pictures, false rejects about {offer.false_reject_rate:.1%}, "
            f"with 90 % confidence at most {offer.false_reject_rate_90:.1%}"
        )

    def _open(self, folder: Path, product: str, asked: Asked | None) -> _Lesson:
        """The lesson in a folder, which is made if there is none."""
        needed = self._config.parts if asked is None else asked.count
        pictures = GatheredPictures(folder, 2 * needed)
        if asked is not None:
            write_whole(folder / "asked.json", asked.model_dump_json().encode())
        offer = _read_offer(folder)
        due = max(1, needed - len(pictures)) if offer is None else needed
        return _Lesson(
            product=product,
            folder=folder,
            pictures=pictures,
            asked=asked,
            needed=needed,
            due=due,
            pause=needed,
            offer=offer,
        )

    def _resume(self) -> None:
        """What a person started continues after a restart, and offers are still there."""
        started = sorted(self._folder.glob(f"*/*/{ASKED}/asked.json"))
        for path in (*started, *sorted(self._folder.glob(f"*/*/{LINE}/offer.json"))):
            camera, product, kind = path.parts[-4:-1]
            try:
                asked = read_json(path, Asked, MAX_JSON_BYTES) if kind == ASKED else None
            except ValueError as error:
                logger.warning("%s: the teach-in does not continue: %s", path, error)
                continue
            with self._lock:
                if camera not in self._lessons:
                    self._lessons[camera] = self._open(path.parent, product, asked)

    @contextlib.contextmanager
    def _storing(self) -> Iterator[None]:
        """An error of the disk becomes a ZsadError. What is stored stays valid, and the next picture tries again."""
        try:
            yield
        except OSError as error:
            raise ProfileError(
                f"what is learned cannot be stored in {self._folder}: {error.strerror or error}"
            ) from error

    def _note_fault(self, fault: str | None) -> None:
        if fault != self._fault:
            if fault is not None:
                logger.error("%s", fault)
            else:
                logger.warning("learning works again")
            self._fault = fault


def _read_offer(folder: Path) -> Offer | None:
    """The offer of an earlier run; None if there is none, or a part of it is missing."""
    try:
        offer = read_json(folder / "offer.json", Offer, MAX_JSON_BYTES)
    except ValueError as error:
        logger.warning("%s: the offer is not used: %s", folder, error)
        return None
    return offer if (folder / "offer.profile").is_file() else None


def _can_be_taught(product: str) -> bool:
    try:
        return product_name(product) == product
    except ValueError:
        return False
