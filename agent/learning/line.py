"""Learns products from the parts that pass by: gathers pictures in the background, and offers a profile.

The files lie in `<folder>/<camera>/<product>/line`, or `asked` for a teach-in that a person started: `train/good` and
`test/bad` with the pictures, `asked.json`, `offer.profile` and `offer.json`. Each file is written whole, so a kill at
any moment loses at most the picture in progress.
"""

import contextlib
import logging
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from zsad_agent.config import LearningConfig
from zsad_agent.learning.drift import Follower, LineWatch
from zsad_agent.learning.feedback import Feedback, keep_bad, marked
from zsad_agent.learning.lesson import Lesson, LessonPicture, Teach, find_lessons, open_lesson, storing
from zsad_agent.learning.offer import RATE, Asked, shorten
from zsad_agent.learning.provisional import ProvisionalThresholds
from zsad_agent.learning.recent import RecentParts
from zsad_agent.messages import DriftStats, Result
from zsad_agent.system import Service, lower_priority, one_line
from zsad_agent.teaching import KeptPicture, Profile, ProfileStore, can_be_taught
from zsad_core.bundle import Bundle
from zsad_core.errors import ConflictError, ProfileError, ZsadError
from zsad_core.judging import Provisional
from zsad_core.types import Verdict

logger = logging.getLogger(__name__)

MAX_WAITING = 4  # pictures that wait for the thread; further ones are not learned
EVERY_S = 1.0  # between two pictures of a camera that runs free
MAX_TEXT = 1000


class _Stopped(Exception):
    """The teach-in in progress is no longer wanted."""


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
        feedback: Feedback,
        *,
        follower: Follower | None = None,
        free_running: Collection[str] = (),
        on_drift: Callable[[str, str | None], None] = lambda camera, fault: None,
        cut: Callable[[str, np.ndarray], np.ndarray] = lambda camera, frame_bgr: frame_bgr,
        product_of: Callable[[str], str],
    ) -> None:
        """Does not access the disk yet.

        Args:
            config: what is learned without being asked.
            folder: of this service.
            store: gets the profiles that are taken into use.
            teach: makes a profile.
            prepare: called with a product whose profile in the store has changed: it is used from the next picture on.
            feedback: takes what people say about parts.
            follower: follows slow drift; None: nothing is followed.
            free_running: the cameras whose pictures are not one for each part.
            on_drift: called with a camera, and with what has changed there; None: nothing has.
            cut: gives the part of a camera's frame that is inspected.
            product_of: gives the product that a camera inspects.
        """
        self._config, self._folder, self._store, self._teach = config, folder, store, teach
        self._prepare, self._cut, self._product_of = prepare, cut, product_of
        self._feedback, self._follower = feedback, follower
        self._networks_lock = threading.Lock()  # guards the networks of the feedback and the follower
        self._free_running = frozenset(free_running)
        self._queue_changed = threading.Condition()
        self._waiting: deque[tuple[Result, np.ndarray, np.ndarray, float | None]] = deque()
        self._watch = LineWatch(store, on_drift)
        adapts = config.provisional_threshold and config.mode != "off"
        self._provisional = ProvisionalThresholds(folder) if adapts else None
        self._closing, self._busy = False, True
        self._lock = threading.RLock()  # guards what follows, and the files of the lessons
        self._lessons: dict[str, Lesson] = {}  # by camera
        self._resuming: set[str] = set()  # cameras whose lessons are being read after a start
        self._said: dict[str, str] = {}  # camera -> outcome of its last lesson
        self._marked: dict[str, str] = {}  # camera -> outcome of the last mark
        self._recent: dict[str, RecentParts] = {}  # by camera
        self._fault: str | None = None
        self._thread = threading.Thread(target=self._run, name="zsad-learning", daemon=True)

    def stop(self, deadline_s: float) -> None:
        self._closing = True
        self._wake()
        self._wait(deadline_s)

    @property
    def fault(self) -> str | None:
        return self._fault

    @property
    def busy(self) -> bool:
        """Whether a teach-in was still running at the stop: a step of it cannot be interrupted."""
        return self._closing and self.alive

    def take(
        self, result: Result, view_bgr: np.ndarray, anomaly_map: np.ndarray, *, score: float | None = None
    ) -> None:
        """Queues an inspected part. Never waits.

        Args:
            result: of the part.
            view_bgr: uint8 [H, W, 3], the inspected part of the frame; not changed afterwards.
            anomaly_map: float32 [h, w] in [0, 1].
            score: of the map, also if the result has none; None: that of the result.
        """
        with self._queue_changed:
            self._watch.add(result)
            if len(self._waiting) < MAX_WAITING and not self._closing:
                self._waiting.append((result, view_bgr, anomaly_map, result.anomaly_score if score is None else score))
                self._queue_changed.notify_all()

    # Commands. Each raises a ZsadError when it is refused. None waits for a teach-in.

    def begin(self, camera: str, product: str, count: int, rate: float | None) -> None:
        """Teaches the product from the next `count` different pictures, which a person says are good.

        Raises:
            ConflictError: a person has started another teach-in at this camera.
        """
        with self._lock, storing(self._folder):
            if not can_be_taught(product):
                raise ZsadError(f"{product!r} cannot be a product's name: no slash or '..', in Unicode's composed form")
            earlier = self._lesson_at(camera)
            if earlier is not None and earlier.asked is not None:
                raise ConflictError(
                    f"{earlier.product!r} is being taught at this camera, from {len(earlier.pictures)} pictures so "
                    "far: cancel this teach-in, or take its offer into use, before you start another one"
                )
            asked = Asked(count=count, rate=RATE if rate is None else rate)
            lesson = open_lesson(self._folder / camera, product, asked, count, afresh=True)
            lesson.take_marked(marked(self._store, product, good=False))
            self._lessons[camera] = lesson

    def finish(self, camera: str) -> None:
        """Learns the pictures that were gathered so far."""
        with self._changing(camera) as lesson:
            lesson.finish()

    def cancel(self, camera: str) -> None:
        """Forgets the pictures and the offer of this camera's lesson."""
        with self._changing(camera):
            self._said[camera] = f"{self._forget(camera)}: cancelled"

    def commit(self, camera: str, offer: str | None = None) -> Profile:
        """Takes the offer (of this hash) into use, from the next picture on. Its bad parts are stored as marked."""
        with self._lock, storing(self._folder):
            lesson = self._lesson_at(camera)
            if lesson is None or lesson.offer is None:
                raise ZsadError("there is no offer at this camera. Its state says what is missing")
            if offer not in (None, lesson.offer.sha256):
                raise ConflictError("the offer was made again meanwhile: look at it first")
            keep_bad(self._store, lesson.product, lesson.bads.kept())
            profile, changes = self._store.import_from(lesson.folder / "offer.profile"), lesson.changes
        self._prepare(lesson.product)  # a profile of an earlier bundle is made again, which takes minutes
        with self._lock, storing(self._folder):
            if self._lessons.get(camera) is lesson and lesson.changes == changes:
                self._forget(camera)
            self._said[camera] = f"{lesson.product}: profile {profile.sha256[:12]} is in use"
        return profile

    def mark(self, camera: str, part_id: str, *, good: bool) -> None:
        """A person marks the part of a result. Or a person says that a picture is good that the lesson left out."""
        with self._lock, storing(self._folder):
            lesson = self._lesson_at(camera)
            if good and lesson is not None and lesson.asked is not None and lesson.is_left_out(part_id):
                lesson.keep(part_id)
                self._marked[camera] = f"{part_id}: is learned as good"
                self._wake()
                return
            part = self._recent_of(camera).find(part_id)
            if good and part.facts.verdict is not Verdict.OK:
                self._watch.override(camera)
            if lesson is not None:
                lesson.take_mark(part, good=good)
                self._wake()
        with self._networks_lock, storing(self._folder):
            self._said[camera] = self._marked[camera] = ""  # what the mark before said, and which profile was in use
            self._marked[camera] = self._feedback.give(part, good=good)
        logger.info("%s: %s", camera, self._marked[camera])

    def roll_back(self, camera: str, product: str) -> Profile:
        """Takes the profile before the one in use into use."""
        with storing(self._folder):
            profile = self._store.roll_back(product)
        self._prepare(product)
        self._said[camera] = f"{product}: profile {profile.sha256[:12]} is in use again"
        return profile

    def give_picture(self, camera: str, name: str, frame_bgr: np.ndarray, *, good: bool) -> str:
        """Takes a picture of a person into the lesson.

        Args:
            camera: whose region applies.
            name: of its file.
            frame_bgr: uint8 [H, W, 3].
            good: False: it shows a bad part.

        Returns:
            Its id.
        """
        picture = KeptPicture.of(name, self._cut(camera, frame_bgr))
        with self._changing(camera) as lesson:
            return lesson.give(picture, good=good)

    def remove_picture(self, camera: str, picture_id: str) -> bool:
        """Removes a picture from the lesson, whose offer is made again. False: it has no such picture."""
        with self._changing(camera) as lesson:
            return lesson.remove(picture_id)

    def provisional(self, camera: str, product: str, bundle: Bundle) -> Provisional | None:
        """The threshold of a product that was not taught; None: that of the bundle. Never waits."""
        return None if self._provisional is None else self._provisional.threshold(camera, product, bundle)

    def drift(self, camera: str) -> DriftStats | None:
        """The scores of the parts beside those of the goods. Never waits."""
        return self._watch.stats(camera)

    def pictures(self, camera: str) -> list[LessonPicture]:
        """Those of the lesson, good ones first."""
        with self._lock:
            lesson = self._lessons.get(camera)
            return [] if lesson is None else list(lesson.listed())

    def picture(self, camera: str, picture_id: str) -> bytes | None:
        """The JPEG of a picture of the lesson; None: it has no such picture."""
        with self._lock, storing(self._folder):
            lesson = self._lessons.get(camera)
            return None if lesson is None or (path := lesson.path(picture_id)) is None else path.read_bytes()

    def state(self, camera: str) -> dict[str, Any]:
        """For the command's topic: progress, offer and what can be done next. It is small."""
        return shorten(self.lesson(camera, short=True))

    def lesson(self, camera: str, *, short: bool = False) -> dict[str, Any]:
        """The state with everything that is known. `short`: without the lists of scores."""
        back = ["roll_back"] if self._store.has_earlier(self._product_of(camera)) else []
        with self._lock:
            lesson = self._lessons.get(camera)
            idle = {"phase": "idle", "text": self._said.get(camera, ""), "next": ["start"]}
            state = idle if lesson is None else lesson.state(short=short)
            return {**state, "mark": self._marked.get(camera) or None, "next": [*state["next"], *back]}

    def _forget(self, camera: str) -> str:
        """Deletes the lesson of the camera, and returns its product."""
        lesson = self._lessons.pop(camera)
        shutil.rmtree(lesson.folder, ignore_errors=True)
        if self._provisional is not None:
            self._provisional.forget(camera, lesson.product)
        return lesson.product

    @contextlib.contextmanager
    def _changing(self, camera: str) -> Iterator[Lesson]:
        """The lesson of the camera, while a person changes it."""
        with self._lock, storing(self._folder):
            lesson = self._lesson_at(camera)
            if lesson is None:
                raise ZsadError("nothing is being taught at this camera")
            yield lesson
            self._wake()

    def _lesson_at(self, camera: str) -> Lesson | None:
        """The lesson of the camera, for a person who may change it."""
        if camera in self._resuming:
            raise ConflictError("the pictures that were gathered before the start are being read: retry in a moment")
        return self._lessons.get(camera)

    def _wake(self) -> None:
        with self._queue_changed:
            self._queue_changed.notify_all()

    # The thread

    def _run(self) -> None:
        lower_priority()
        try:
            with storing(self._folder):
                self._resume()
        except ZsadError as error:
            self._note_fault(str(error))
        self._rest()
        while (work := self._next()) is not None:
            try:
                with storing(self._folder):
                    work()
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
        """Waits until no picture is queued and no lesson is to be learned."""
        with self._queue_changed:
            return self._queue_changed.wait_for(lambda: not (self._busy or self._waiting or self._wanted()), timeout_s)

    def _rest(self) -> None:
        with self._queue_changed:
            self._busy = False
            self._queue_changed.notify_all()

    def _wanted(self) -> tuple[str, Lesson] | None:
        """A camera whose lesson is to be learned now."""
        return next(((camera, lesson) for camera, lesson in list(self._lessons.items()) if lesson.wanted), None)

    def _next(self) -> Callable[[], None] | None:
        """What to do next; None at the end."""
        with self._queue_changed:
            self._queue_changed.wait_for(lambda: self._closing or self._waiting or self._wanted())
            if self._closing:
                return None
            self._busy = True
            if (wanted := self._wanted()) is not None:  # first: a fast line always has pictures
                return partial(self._attempt, *wanted)
            return partial(self._look_at, *self._waiting.popleft())

    def _look_at(self, result: Result, view_bgr: np.ndarray, anomaly_map: np.ndarray, score: float | None) -> None:
        with self._lock:
            self._watch.compare()
            if self._config.mode != "off" and score is not None:  # for later feedback
                self._recent_of(result.camera).keep(result, view_bgr, anomaly_map, score)
        self._learn(result, view_bgr)
        if self._follower is not None:
            with self._networks_lock:
                self._follower.take(result, view_bgr)

    def _recent_of(self, camera: str) -> RecentParts:
        if camera not in self._recent:
            self._recent[camera] = RecentParts(self._folder / camera / "recent")
        return self._recent[camera]

    def _learn(self, result: Result, view_bgr: np.ndarray) -> None:
        with self._lock:
            lesson = self._lesson_of(result)
            if lesson is None:
                return
            is_early = result.camera in self._free_running and time.monotonic() - lesson.last_s < EVERY_S
            if not is_early and lesson.pictures.show(result.id, view_bgr):
                lesson.last_s = time.monotonic()
                lesson.count_part()
                if self._provisional is not None:
                    self._provisional.add(result)

    def _lesson_of(self, result: Result) -> Lesson | None:
        """The lesson that may learn from this part."""
        lesson = self._lessons.get(result.camera)
        if lesson is not None and lesson.asked is not None:
            return lesson if lesson.takes_parts else None
        if not result.provisional:
            if lesson is not None and lesson.product == result.product:  # it was taught in another way
                self._forget(result.camera)
            return None
        is_new = lesson is None or lesson.product != result.product
        is_taught = is_new and self._store.has(result.product)  # since this part was inspected
        if self._config.mode == "off" or is_taught or not can_be_taught(result.product):
            return None
        if lesson is None or lesson.product != result.product:
            at = self._folder / result.camera
            lesson = self._lessons[result.camera] = open_lesson(at, result.product, None, self._config.parts)
        return lesson

    def _attempt(self, camera: str, lesson: Lesson) -> None:
        """Teaches. The lock is free meanwhile, so that commands are answered."""
        with self._lock:
            changes, asked = lesson.changes, lesson.asked
            goods, kept = lesson.named()
            bads = lesson.bads.pictures()

        def is_stale() -> bool:
            return self._closing or self._lessons.get(camera) is not lesson or lesson.changes != changes

        def progress(what: str, done: int, total: int) -> None:
            if is_stale():
                raise _Stopped
            lesson.text = f"{what}: {done} of {total}"

        try:
            taught = self._teach(
                camera,
                goods,
                product=lesson.product,
                rate=RATE if asked is None else asked.rate,
                trusted=asked is not None,
                kept=kept,
                bad=bads,
                progress=progress,
            )
            with self._lock:
                if is_stale():
                    return
                lesson.store_offer(taught, [name for name, _ in (*goods, *kept)])
                logger.info("%s, %s: %s", camera, lesson.product, lesson.text)
            if asked is None and self._config.mode == "use":
                self.commit(camera)
        except _Stopped:
            raise
        except Exception as error:
            with self._lock:
                if is_stale():
                    return
                lesson.refuse(one_line(str(error), MAX_TEXT))
                logger.warning("%s, %s: %s", camera, lesson.product, lesson.text)
            if not isinstance(error, ZsadError) or isinstance(error, ProfileError):
                raise

    def _resume(self) -> None:
        """Loads the lessons that people started before a restart, and those with an offer."""
        if self._provisional is not None:
            self._provisional.load()
        with self._lock:  # a lesson that a person starts before this is not read
            found = {camera: one for camera, one in find_lessons(self._folder).items() if camera not in self._lessons}
            self._resuming = set(found)
        try:
            for camera, (product, asked) in found.items():
                parts = self._config.parts if asked is None else asked.count
                self._lessons[camera] = open_lesson(self._folder / camera, product, asked, parts)  # may be slow
                self._resuming.discard(camera)
        finally:
            self._resuming.clear()

    def _note_fault(self, fault: str | None) -> None:
        if fault != self._fault:
            logger.log(logging.ERROR if fault else logging.WARNING, "%s", fault or "learning works again")
            self._fault = fault
