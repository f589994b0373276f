"""Learns products from the parts that pass by: gathers pictures in the background, and offers a profile.

The files of a camera lie in `<folder>/<camera>/<product>`: `train/good` with the pictures, `asked.json` for a teach-in
that a person started, `offer.profile` and `offer.json`. Each is written whole, so a kill at any moment loses at most
the picture in progress.
"""

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from zsad_agent.config import LearningConfig
from zsad_agent.learning.offer import Asked, Offer
from zsad_agent.learning.pictures import GatheredPictures
from zsad_agent.messages import Result
from zsad_agent.system import Service
from zsad_agent.teaching import Picture, ProfileStore, Taught

logger = logging.getLogger(__name__)

MAX_WAITING = 4  # pictures that wait for the thread; further ones are not learned
EVERY_S = 1.0  # between two pictures of a camera that runs free
MAX_JSON_BYTES = 1_000_000
RATE = 0.01  # of false rejects, where nobody asked for another
ASKED, OFFER, PROFILE = "asked.json", "offer.json", "offer.profile"


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
        progress: Callable[[float], None],
    ) -> Taught:
        """`trusted`: a person says that the parts are good. `progress` gets the share done, and may raise.

        Raises:
            ZsadError: nothing can be learned from these pictures.
        """


class Stopped(Exception):
    """The teach-in in progress is no longer wanted."""


@dataclass(slots=True)
class _Lesson:
    """What is learned at one camera about one product."""

    folder: Path
    pictures: GatheredPictures
    asked: Asked | None
    offer: Offer | None
    due: int  # number of new pictures until the next attempt
    text: str = ""  # what happened last, for people
    done: float | None = None  # share of the teach-in in progress
    last_s: float = -math.inf


@dataclass(frozen=True, slots=True)
class _Part:
    result: Result
    view_bgr: np.ndarray


class LineLearner(Service):
    """One thread for all cameras. `take` never waits; commands may come from another thread."""

    name = "learning"
    stop_s = 0.5

    def __init__(
        self,
        config: LearningConfig,
        folder: Path,
        store: ProfileStore,
        teach: Teach,
        *,
        free_running: Collection[str] = (),
    ) -> None:
        """Does not access the disk yet.

        Args:
            config: what is learned without being asked.
            folder: of this service.
            store: gets the profiles that are taken into use.
            teach: makes a profile.
            free_running: the cameras whose pictures are not one for each part.
        """
        self._config, self._folder, self._store, self._teach = config, folder, store, teach
        self._free_running = frozenset(free_running)
        self._changed = threading.Condition()  # guards what follows
        self._waiting: deque[_Part] = deque()
        self._lessons: dict[tuple[str, str], _Lesson] = {}
        self._of_camera: dict[str, str] = {}  # camera -> product of its last picture, or asked for
        self._closing = False
        self._fault: str | None = None
        self.dropped = 0  # pictures that came while the thread was busy
        self._thread = threading.Thread(target=self._run, name="zsad-learning", daemon=True)

    def stop(self, deadline_s: float) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._wait(deadline_s)

    @property
    def fault(self) -> str | None:
        return self._fault

    def take(self, result: Result, view_bgr: np.ndarray) -> None:
        """Queues an inspected part that has a score, if it may be learned from. For the publishing thread.

        Args:
            result: of the part.
            view_bgr: uint8 [H, W, 3], the inspected part of the frame; not changed afterwards.
        """
        with self._changed:
            if len(self._waiting) >= MAX_WAITING:
                self.dropped += 1
            elif not self._closing:
                self._waiting.append(_Part(result, view_bgr))
                self._changed.notify_all()
