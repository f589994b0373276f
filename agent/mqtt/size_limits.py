"""The largest message that the broker accepts: stated by it (MQTT 5), or learned from ended connections (MQTT 3.1.1).

A broker ends the connection when a message exceeds its limit; sending the message again would end it again, in a loop.
So a live picture is left out. A result or evidence picture may delay the others for a while, but not for ever.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping

logger = logging.getLogger(__name__)

SUSPECT_BYTES = 4096  # a smaller message is not the reason for the end of a connection
RIGHT_AFTER_S = 5.0  # a picture sent earlier than this before the end is not the reason
PICTURE_CUTS = 2  # connections in a row that end right after a picture larger than all accepted messages
RESULT_CUTS = 5  # connections in a row that end with the same result as the only one in flight
FORGET_S = 3600.0  # then larger pictures are tried again: the network may have been the reason
BACK_AFTER_S = 60.0  # time without a too large picture before `back` is logged, so that mixed sizes do not fill the log


class SizeLimits:
    """Keeps its knowledge over connections. Used by the sending thread."""

    def __init__(self, *, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._stated = math.inf  # bytes, by the broker
        self._learned = math.inf  # bytes, for pictures
        self._learned_at_s = 0.0
        self._smallest_left_out = math.inf  # bytes, since the log said that pictures are left out
        self._left_out_at_s = 0.0  # time of the latest one
        self._passed = 0  # size of the largest message that the broker accepted over this connection
        self._count = 0  # messages sent over this connection
        # (number, size, sent at) of pictures that are not known to be accepted
        self._pictures: deque[tuple[int, int, float]] = deque(maxlen=100)
        self._picture_cuts = 0
        self._smallest_suspect = 0  # bytes, of `_picture_cuts`
        self._careful = False
        self._careful_at_s = 0.0
        self._alone: int | None = None  # the only result that was in flight when the connection ended
        self._alone_cuts = 0

    @property
    def careful(self) -> bool:
        """Whether to send results one at a time and no pictures, to find the one that ends the connection.

        At most for an hour: the spool may have given up the suspected result.
        """
        return self._careful and self._clock_s() - self._careful_at_s <= FORGET_S

    def connected(self, max_packet_bytes: int | None) -> None:
        """Notes a new connection and the limit that the broker stated, or None."""
        self._stated = max_packet_bytes or math.inf
        self._passed = self._count = 0
        self._pictures.clear()

    def too_large(self, size: int) -> bool:
        """Whether `size` bytes exceed the limit that the broker stated."""
        return size > self._stated

    def picture_fits(self, size: int) -> bool:
        """Whether to send a picture. Logs once when pictures are left out, and once when they fit again."""
        if self.careful:
            return False
        now_s = self._clock_s()
        if now_s - self._learned_at_s > FORGET_S:
            self._learned = math.inf
        limit = min(self._stated, self._learned)
        none_left_out = self._smallest_left_out == math.inf
        if size > limit:
            if none_left_out:
                logger.warning(
                    "live pictures above %d bytes are left out, because the broker refuses them (this one: %d). Lower "
                    "heatmap.max_bytes or max_width.",
                    limit,
                    size,
                )
            self._note_left_out(size)
            return False
        if not none_left_out and (size >= self._smallest_left_out or now_s - self._left_out_at_s > BACK_AFTER_S):
            self._smallest_left_out = math.inf
            logger.info("back: live pictures fit again (this one: %d bytes)", size)
        return True

    def _note_left_out(self, size: int) -> None:
        self._smallest_left_out = min(size, self._smallest_left_out)
        self._left_out_at_s = self._clock_s()

    def sent(self, size: int, *, picture: bool = False) -> int:
        """Notes a message and returns its number."""
        self._count += 1
        if picture:
            self._pictures.append((self._count, size, self._clock_s()))
        return self._count

    def passed(self, number: int, size: int, *, is_result: bool) -> None:
        """The broker has answered message `number`, so it has also read all earlier messages."""
        self._passed = max(self._passed, size)
        while self._pictures and self._pictures[0][0] < number:
            _, picture_size, _ = self._pictures.popleft()
            self._passed = max(self._passed, picture_size)
        if self._picture_cuts and self._passed >= self._smallest_suspect:
            self._picture_cuts = 0
        if is_result and size >= SUSPECT_BYTES:
            self._careful, self._alone = False, None

    def cut(self, results: Mapping[int, int], *, answered: bool, said_too_large: bool) -> int | None:
        """The broker has ended the connection. Returns the result to give up because it is too large, or None.

        Args:
            results: size in bytes of each result in flight, by its id.
            answered: the broker has accepted a message over this connection, so it does not refuse all messages.
            said_too_large: the broker gave a message's size as the reason.
        """
        if answered and not self.careful:
            self._learn_from_pictures()
        suspects = {entry_id for entry_id, size in results.items() if size >= SUSPECT_BYTES and size > self._passed}
        if not suspects:
            return None
        self._careful, self._careful_at_s = True, self._clock_s()
        if len(results) > 1 or not answered:
            return None
        (alone,) = suspects
        self._alone_cuts = self._alone_cuts + 1 if alone == self._alone else 1
        self._alone = alone
        if self._alone_cuts < RESULT_CUTS and not said_too_large:
            return None
        self._careful, self._alone = False, None
        return alone

    def _learn_from_pictures(self) -> None:
        """The largest picture that was sent right before the end is most likely the reason."""
        since_s = self._clock_s() - RIGHT_AFTER_S
        sizes = (size for _, size, at_s in self._pictures if at_s >= since_s)
        suspect = max((size for size in sizes if size >= SUSPECT_BYTES and size > self._passed), default=None)
        if suspect is None:
            self._picture_cuts = 0
            return
        self._smallest_suspect = min(suspect, self._smallest_suspect) if self._picture_cuts else suspect
        self._picture_cuts += 1
        if self._picture_cuts >= PICTURE_CUTS:
            self._picture_cuts = 0
            # the limit is rarely just below the suspect
            self._learned = max(self._passed, self._smallest_suspect * 3 // 4)
            self._learned_at_s = self._clock_s()
            self._note_left_out(self._learned + 1)
            logger.warning(
                "the broker ended the connection right after a picture, twice in a row: pictures above %d bytes are "
                "left out. Lower heatmap.max_bytes or max_width.",
                self._learned,
            )
