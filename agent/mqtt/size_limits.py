"""How large a message the broker takes: what it says (MQTT 5), and what cut connections teach (MQTT 3.1.1).

A broker that gets a message over its limit ends the connection, and a sender that sends it again is in a loop. A live
picture is then left out. A result or evidence picture may hold up the others for a while, but not for ever.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping

logger = logging.getLogger(__name__)

SUSPECT_BYTES = 4096  # a smaller message is not what a connection broke on
RIGHT_AFTER_S = 5.0  # a connection that ends later than this after a picture did not end because of it
PICTURE_CUTS = 2  # connections in a row that end right after a picture that is larger than what passed before
RESULT_CUTS = 5  # likewise, with one and the same result as the only one on its way
FORGET_S = 3600.0  # then larger pictures are tried again: the network may have been to blame
BACK_AFTER_S = 60.0  # without a picture too large: pictures of both sizes in turn make no line each


class SizeLimits:
    """Outlives connections. Used by the sending thread."""

    def __init__(self, *, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._stated: int | None = None  # by the broker
        self._learnt: int | None = None  # for pictures
        self._learnt_at_s = 0.0
        self._smallest_left_out: int | None = None  # bytes, since it was said that pictures are left out; None: none
        self._left_out_at_s = 0.0  # the latest
        self._passed = 0  # size of the largest message that has passed over this connection
        self._count = 0  # messages sent over this connection
        self._pictures: deque[tuple[int, int, float]] = deque(maxlen=100)  # (number, size, sent at), not known to pass
        self._picture_cuts = 0
        self._smallest_suspect = 0  # bytes, of `_picture_cuts`
        self._careful = False
        self._careful_at_s = 0.0
        self._alone: int | None = None  # the result that was the only one on its way when the connection was cut
        self._alone_cuts = 0

    @property
    def careful(self) -> bool:
        """Whether to send results one at a time and no pictures, to see which one the broker cuts us off for.

        For an hour at most: the one that is suspected may have gone for a limit of the spool.
        """
        return self._careful and self._clock_s() - self._careful_at_s <= FORGET_S

    def connected(self, max_packet_bytes: int | None) -> None:
        """A new connection, with the limit that the broker has stated."""
        self._stated = max_packet_bytes
        self._passed = self._count = 0
        self._pictures.clear()

    def too_large(self, size: int) -> bool:
        """Whether the broker has said that it takes no packet of `size` bytes."""
        return self._stated is not None and size > self._stated

    def picture_fits(self, size: int) -> bool:
        """Whether to send a picture; says once when pictures are left out, and when no longer."""
        if self.careful:
            return False
        if self._learnt is not None and self._clock_s() - self._learnt_at_s > FORGET_S:
            self._learnt = None
        limit = min((limit for limit in (self._stated, self._learnt) if limit is not None), default=None)
        fits = limit is None or size <= limit
        if fits:
            self._note_fitting(size)
            return True
        if self._smallest_left_out is None:
            logger.warning(
                "live pictures above %d bytes are left out, which the broker does not take (this one: %d). Lower "
                "heatmap.max_bytes or max_width.",
                limit,
                size,
            )
        self._note_left_out(size)
        return False

    def _note_left_out(self, size: int) -> None:
        smallest = self._smallest_left_out
        self._smallest_left_out = size if smallest is None else min(size, smallest)
        self._left_out_at_s = self._clock_s()

    def _note_fitting(self, size: int) -> None:
        """Says that no picture is left out any more, if one of that size was, or none has been for a while."""
        smallest = self._smallest_left_out
        if smallest is not None and (size >= smallest or self._clock_s() - self._left_out_at_s > BACK_AFTER_S):
            self._smallest_left_out = None
            logger.info("back: live pictures fit again (this one: %d bytes)", size)

    def sent(self, size: int, *, picture: bool = False) -> int:
        """Notes a message and returns its number."""
        self._count += 1
        if picture:
            self._pictures.append((self._count, size, self._clock_s()))
        return self._count

    def passed(self, number: int, size: int, *, is_result: bool) -> None:
        """The broker has answered message `number`, so it has read all that was sent before it too."""
        self._passed = max(self._passed, size)
        while self._pictures and self._pictures[0][0] < number:
            _, picture_size, _ = self._pictures.popleft()
            self._passed = max(self._passed, picture_size)
        if self._picture_cuts and self._passed >= self._smallest_suspect:
            self._picture_cuts = 0
        if is_result and size >= SUSPECT_BYTES:
            self._careful, self._alone = False, None

    def cut(self, results: Mapping[int, int], *, answered: bool, said_too_large: bool) -> int | None:
        """The other side has ended the connection; which result to give up because the broker will never take it.

        Args:
            results: size in bytes of each result on its way, by its id.
            answered: it has taken a message over this connection, so that it does not mind all of them.
            said_too_large: the broker gave a message's size as the reason.
        """
        if answered and not self.careful:
            self._note_picture(self._suspect_picture())
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

    def _suspect_picture(self) -> int | None:
        """Size of the picture that was most likely the reason, if any was."""
        since_s = self._clock_s() - RIGHT_AFTER_S
        sizes = (size for _, size, at_s in self._pictures if at_s >= since_s)
        return max((size for size in sizes if size >= SUSPECT_BYTES and size > self._passed), default=None)

    def _note_picture(self, suspect: int | None) -> None:
        if suspect is None:
            self._picture_cuts = 0
            return
        self._smallest_suspect = min(suspect, self._smallest_suspect) if self._picture_cuts else suspect
        self._picture_cuts += 1
        if self._picture_cuts >= PICTURE_CUTS:
            self._picture_cuts = 0
            self._learnt = max(self._passed, self._smallest_suspect * 3 // 4)  # a limit is seldom just below it
            self._learnt_at_s = self._clock_s()
            self._note_left_out(self._learnt + 1)
            logger.warning(
                "the broker ended the connection right after a picture, twice in a row: those above %d bytes are left "
                "out. Lower heatmap.max_bytes or max_width.",
                self._learnt,
            )
