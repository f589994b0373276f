"""Learns products from the parts that pass by: gathers pictures in the background, and offers a profile.

The files lie in `<folder>/<camera>/<product>/line`, or `asked` for a teach-in that a person started: `train/good` with
the pictures, `asked.json`, `offer.profile`, `offer.json`, and `left_out` with what was not learned. Each file is
written whole, so a kill at any moment loses at most the picture in progress.

What learns is imported when the first picture or command needs it, so that the first verdict comes earlier.
"""

from __future__ import annotations

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
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from zsad_agent import learning
from zsad_agent.config import LearningConfig
from zsad_agent.messages import DriftStats, Result
from zsad_agent.system import Service, one_line, read_json
from zsad_core.bundle import product_name
from zsad_core.errors import ProfileError, ZsadError
from zsad_core.memory import to_unit
from zsad_core.types import Verdict

if TYPE_CHECKING:
    from zsad_agent.learning.drift import DriftWatch, Follower
    from zsad_agent.learning.feedback import Feedback
    from zsad_agent.learning.lesson import Lesson
    from zsad_agent.learning.offer import Asked
    from zsad_agent.learning.recent import RecentParts
    from zsad_agent.teaching import Picture, Profile, ProfileStore, Taught

logger = logging.getLogger(__name__)

MAX_WAITING = 4  # pictures that wait for the thread; further ones are not learned
EVERY_S = 1.0  # between two pictures of a camera that runs free
FOLLOW_EVERY_S = 5.0  # between two parts of a camera that are followed
MAX_SCORED = 10_000  # results that wait for the comparison with the goods
MAX_TEXT = 1000
NICE = 10  # the inspection goes first
LINE, ASKED = "line", "asked"


@dataclass(frozen=True, kw_only=True)
class TeachIn:
    """A product that is to be taught from pictures of a camera."""

    camera: str
    product: str
    pictures: Sequence[tuple[str, Picture]]
    rate: float  # of false rejects
    trusted: bool  # a person says that the parts are good
    progress: Callable[[str, int, int], None]  # gets what is done; may raise


Teach: TypeAlias = "Callable[[TeachIn], Taught]"  # raises a ZsadError if nothing can be learned from the pictures


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
        feedback: Callable[[], Feedback],
        *,
        follower: Follower | None = None,
        free_running: Collection[str] = (),
        on_drift: Callable[[str, str | None], None] = lambda camera, fault: None,
    ) -> None:
        """Does not access the disk yet.

        Args:
            config: what is learned without being asked.
            folder: of this service.
            store: gets the profiles that are taken into use.
            teach: makes a profile.
            prepare: called with a product whose profile in the store has changed: it is used from the next picture on.
            feedback: gives what takes what people say about parts.
            follower: follows slow drift; None: nothing is followed.
            free_running: the cameras whose pictures are not one for each part.
            on_drift: called with a camera, and with what has changed there; None: nothing has.
        """
        self._config, self._folder, self._store, self._teach = config, folder, store, teach
        self._prepare = prepare
        self._feedback, self._follower, self._on_drift = feedback, follower, on_drift
        self._followed_s: dict[str, float] = {}  # camera -> time of the last part that was to be followed
        self._free_running = frozenset(free_running)
        self._queue_changed = threading.Condition()
        self._waiting: deque[tuple[Result, np.ndarray, np.ndarray]] = deque()
        self._scored: deque[Result] = deque(maxlen=MAX_SCORED)
        self._closing, self._busy = False, True
        self._lock = threading.RLock()  # guards what follows, and the files of the lessons
        self._lessons: dict[str, Lesson] = {}  # by camera
        self._said: dict[str, str] = {}  # camera -> what became of its last lesson
        self._marked: dict[str, str] = {}  # camera -> what became of the last mark
        self._recent: dict[str, RecentParts] = {}  # by camera
        self._profile: Profile | None = None  # that was followed last
        self._watches: dict[str, tuple[str, DriftWatch]] = {}  # camera -> profile, scores since it came into use
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

    @property
    def busy(self) -> bool:
        """Whether a teach-in was still running at the stop: a step of it cannot be interrupted."""
        return self._closing and self.alive

    def take(self, result: Result, view_bgr: np.ndarray, anomaly_map: np.ndarray) -> None:
        """Queues an inspected part that has a score. Never waits.

        Args:
            result: of the part.
            view_bgr: uint8 [H, W, 3], the inspected part of the frame; not changed afterwards.
            anomaly_map: float32 [h, w] in [0, 1].
        """
        with self._queue_changed:
            self._scored.append(result)
            if len(self._waiting) >= MAX_WAITING:
                self.dropped += 1
            elif not self._closing:
                self._waiting.append((result, view_bgr, anomaly_map))
                self._queue_changed.notify_all()

    # Commands. Each raises a ZsadError when it is refused.

    def begin(self, camera: str, product: str, count: int, rate: float | None) -> None:
        """Teaches the product from the next `count` different pictures, which a person says are good."""
        with self._lock, self._storing():
            if product_name(product) != product:
                raise ZsadError(f"product {product!r}: write it in Unicode's composed form")
            folder = self._folder / camera / product / ASKED
            shutil.rmtree(folder, ignore_errors=True)
            asked = learning.Asked(count=count, rate=learning.RATE if rate is None else rate)
            lesson = self._open_lesson(folder, product, asked)
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

    def mark(self, camera: str, part_id: str, *, good: bool) -> None:
        """A person says what the part of a result was."""
        with self._lock, self._storing():
            part = self._recent_of(camera).find(part_id)
            if good and part.facts.verdict is not Verdict.OK and camera in self._watches:
                self._watches[camera][1].override()
            lesson = self._lessons.get(camera)
            if lesson is not None and not good:
                lesson.pictures.remove(part_id)
            self._marked[camera] = self._feedback().give(part, good=good)
            logger.info("%s: %s", camera, self._marked[camera])

    def drift(self, camera: str) -> DriftStats | None:
        """The scores of the parts beside those of the goods. Never waits."""
        known = self._watches.get(camera)
        return None if known is None else known[1].stats

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
            lesson, marked = self._lessons.get(camera), self._marked.get(camera)
            if lesson is None:
                text = self._said.get(camera, "")
                return {"phase": "idle", "text": text, "mark": marked, "next": ["start", "roll_back"]}
            offer = lesson.offer
            return {
                "phase": "gathering" if offer is None else "offered",
                "product": lesson.product,
                "asked": lesson.asked is not None,
                "pictures": len(lesson.pictures),
                "needed": lesson.needed,
                "text": lesson.text,
                "mark": marked,
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
                self._follow_scores()
                with self._storing():
                    self._keep(*taken)
                    self._learn(*taken[:2])
                    self._follow(*taken[:2])
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

    def _next(self) -> tuple[Result, np.ndarray, np.ndarray] | None:
        """The next picture; None at the end."""
        with self._queue_changed:
            self._queue_changed.wait_for(lambda: self._closing or self._waiting)
            if self._closing:
                return None
            self._busy = True
            return self._waiting.popleft()

    def _keep(self, result: Result, view_bgr: np.ndarray, anomaly_map: np.ndarray) -> None:
        """For later feedback."""
        if self._config.mode != "off":
            with self._lock:
                self._recent_of(result.camera).keep(result, view_bgr, anomaly_map)

    def _recent_of(self, camera: str) -> RecentParts:
        if camera not in self._recent:
            self._recent[camera] = learning.RecentParts(self._folder / camera / "recent")
        return self._recent[camera]

    def _follow_scores(self) -> None:
        """Compares the scores since the last call with those of the goods."""
        with self._lock:
            changed = set()
            while self._scored:
                result = self._scored.popleft()
                watch = self._watch_of(result)
                if watch is not None and result.anomaly_score is not None:
                    watch.add(result.anomaly_score, accepted=result.verdict is Verdict.OK)
                    changed.add(result.camera)
            for camera in changed:
                self._on_drift(camera, self._watches[camera][1].fault)

    def _watch_of(self, result: Result) -> DriftWatch | None:
        """Of the profile that gave the result; None if it is not known."""
        if result.profile is None:
            return None
        known = self._watches.get(result.camera)
        if known is None or known[0] != result.profile.sha256:
            try:
                profile = self._store.current(result.product)
            except ProfileError:
                return None
            if profile is None or profile.sha256 != result.profile.sha256:
                return None
            goods = to_unit(np.array(profile.goods_scores), profile.levels[-1].scale).tolist()
            known = self._watches[result.camera] = profile.sha256, learning.DriftWatch(goods)
        return known[1]

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

    def _follow(self, result: Result, view_bgr: np.ndarray) -> None:
        """Remembers an accepted part of a taught product, one in `FOLLOW_EVERY_S`."""
        now_s, camera = time.monotonic(), result.camera
        if self._follower is None or result.profile is None or result.verdict is not Verdict.OK:
            return
        if now_s - self._followed_s.get(camera, -math.inf) < FOLLOW_EVERY_S:
            return
        self._followed_s[camera] = now_s
        with self._lock:
            if self._profile is None or self._profile.sha256 != result.profile.sha256:
                self._profile = self._store.current(result.product)
            if self._profile is not None and self._profile.sha256 == result.profile.sha256:
                self._follower.add(self._profile, view_bgr)

    def _lesson_of(self, result: Result) -> Lesson | None:
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
            lesson = self._lessons[result.camera] = self._open_lesson(folder, result.product, None)
        return lesson

    def _is_in_time(self, lesson: Lesson, camera: str) -> bool:
        return camera not in self._free_running or time.monotonic() - lesson.last_s >= EVERY_S

    def _attempt(self, camera: str, lesson: Lesson) -> None:
        """Teaches. The lock is free meanwhile, so that commands are answered."""

        def progress(what: str, done: int, total: int) -> None:
            lesson.text = f"{what}: {done} of {total}"
            if self._closing or self._lessons.get(camera) is not lesson:
                raise _Stopped

        asked, pictures = lesson.asked, lesson.pictures.pictures()
        rate = learning.RATE if asked is None else asked.rate
        lesson.due, lesson.pause = lesson.pause, 2 * lesson.pause
        try:
            taught = self._teach(
                TeachIn(
                    camera=camera,
                    product=lesson.product,
                    pictures=pictures,
                    rate=rate,
                    trusted=asked is not None,
                    progress=progress,
                )
            )
        except ZsadError as error:
            lesson.text = f"no offer yet: {one_line(str(error), MAX_TEXT)}"
            logger.warning("%s, %s: %s", camera, lesson.product, lesson.text)
            return
        with self._lock:
            if self._lessons.get(camera) is not lesson:
                return
            lesson.store_offer(taught, dict(pictures))
            logger.info("%s, %s: %s", camera, lesson.product, lesson.text)
            if asked is None and self._config.mode == "use":
                self.commit(camera)

    def _open_lesson(self, folder: Path, product: str, asked: Asked | None) -> Lesson:
        return learning.open_lesson(folder, product, asked, self._config.parts if asked is None else asked.count)

    def _resume(self) -> None:
        """What a person started continues after a restart, and offers are still there."""
        started = sorted(self._folder.glob(f"*/*/{ASKED}/asked.json"))
        for path in (*started, *sorted(self._folder.glob(f"*/*/{LINE}/offer.json"))):
            camera, product, kind = path.parts[-4:-1]
            try:
                asked = read_json(path, learning.Asked, learning.MAX_JSON_BYTES) if kind == ASKED else None
            except ValueError as error:
                logger.warning("%s: the teach-in does not continue: %s", path, error)
                continue
            with self._lock:
                if camera not in self._lessons:
                    self._lessons[camera] = self._open_lesson(path.parent, product, asked)

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


def _can_be_taught(product: str) -> bool:
    try:
        return product_name(product) == product
    except ValueError:
        return False
