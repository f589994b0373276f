"""GPIO chips in memory in place of the kernel's. `gpiod` itself is real, apart from what opens a chip."""

import errno
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import gpiod
import pytest
from gpiod.line import Direction, Value


@dataclass
class FakeLine:
    offset: int
    name: str
    used: bool = False
    consumer: str = ""
    active_low: bool = False
    physical: list[tuple[bool, bool]] = field(default_factory=list)  # (high, requested) after each change

    @property
    def active(self) -> bool:
        return bool(self.physical) and self.physical[-1][0] != self.active_low


class FakeChip:
    """A chip with lines named `LINE0` and so on. `vanish` is the unplugging of a USB chip."""

    def __init__(self, lines: int = 16) -> None:
        self.lines = [FakeLine(number, f"LINE{number}") for number in range(lines)]
        self.gone = False
        self.changed = threading.Condition()

    def vanish(self) -> None:
        self.gone = True

    def find(self, line: int | str) -> FakeLine:
        found = next((one for one in self.lines if one.name == line), None)
        if found is None and isinstance(line, str) and not line.isdigit():
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        offset = int(line) if found is None else found.offset
        if offset >= len(self.lines):
            raise ValueError("line offset of out range")
        return self.lines[offset]


CHIPS: dict[str, FakeChip] = {}


def _chip(path: str) -> FakeChip:
    if path not in CHIPS or CHIPS[path].gone:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    return CHIPS[path]


class Chip:
    """As `gpiod.Chip`."""

    def __init__(self, path: str) -> None:
        self._chip = _chip(path)

    def __enter__(self) -> "Chip":
        return self

    def __exit__(self, exc_type: object, exc_value: object, traceback: object) -> None:
        pass

    def get_line_info(self, line: int | str) -> FakeLine:
        return self._chip.find(line)


class LineRequest:
    """As `gpiod.LineRequest`."""

    def __init__(self, chip: FakeChip, lines: dict[str, FakeLine]) -> None:
        self._chip, self._lines = chip, lines

    def set_values(self, values: dict[int | str, Value]) -> None:
        if self._chip.gone:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        with self._chip.changed:
            for name, value in values.items():
                line = self._lines[str(name)]
                high = (value is Value.ACTIVE) != line.active_low
                if line.physical[-1][0] != high:
                    line.physical.append((high, True))
            self._chip.changed.notify_all()

    def release(self) -> None:
        for line in self._lines.values():
            line.used, line.consumer = False, ""
            line.physical.append((line.physical[-1][0], False))


def request_lines(
    path: str,
    config: dict[Iterable[int | str] | int | str, gpiod.LineSettings | None],
    consumer: str | None = None,
    event_buffer_size: int | None = None,
    output_values: dict[int | str, Value] | None = None,
) -> LineRequest:
    """As `gpiod.request_lines`."""
    chip = _chip(path)
    lines: dict[str, Any] = {str(name): chip.find(name) for name in config}  # type: ignore[arg-type]
    if any(line.used for line in lines.values()):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
    for settings, line in zip(config.values(), lines.values(), strict=True):
        assert settings is not None and settings.direction is Direction.OUTPUT
        line.used, line.consumer, line.active_low = True, consumer or "", settings.active_low
        line.physical.append(((settings.output_value is Value.ACTIVE) != line.active_low, True))
    return LineRequest(chip, lines)


def install(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeChip]:
    """Replaces the chips of this machine. Returns those that there are, by path."""
    CHIPS.clear()
    monkeypatch.setattr(gpiod, "Chip", Chip)
    monkeypatch.setattr(gpiod, "request_lines", request_lines)
    return CHIPS
