"""A compact set of ids that arrive nearly in order."""

from bisect import bisect_right


class IdRanges:
    """Stores the first and last id of each run of consecutive ids."""

    def __init__(self) -> None:
        self._first: list[int] = []  # of each run, ascending
        self._last: list[int] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, entry_id: int) -> bool:
        return self.skip(entry_id - 1) >= entry_id

    @property
    def runs(self) -> list[tuple[int, int]]:
        """First and last id of each run, ascending."""
        return list(zip(self._first, self._last, strict=True))

    def add(self, entry_id: int) -> None:
        if entry_id in self:
            return
        self._count += 1
        run = bisect_right(self._first, entry_id)  # the run after it
        joins_before = run > 0 and self._last[run - 1] == entry_id - 1
        joins_after = run < len(self._first) and self._first[run] == entry_id + 1
        joined = slice(run - joins_before, run + joins_after)
        self._first[joined] = [self._first[run - 1] if joins_before else entry_id]
        self._last[joined] = [self._last[run] if joins_after else entry_id]

    def skip(self, entry_id: int) -> int:
        """The last id of the run that contains `entry_id` or starts right after it; `entry_id` if there is none."""
        run = bisect_right(self._first, entry_id + 1) - 1
        return max(entry_id, self._last[run]) if run >= 0 else entry_id
