"""The files of kept evidence: their names, and how they are written, found and deleted.

`<folder>/<camera>/<UTC date>/<HHMMSS.mmm>-<result id>.{jpg,overlay.jpg,json}`, with the time of capture. Only files
that match this are counted or deleted, and no symbolic link below `folder` is followed.
"""

import contextlib
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Protocol

from zsad_agent.system import opened

PICTURE, OVERLAY, RESULT = "jpg", "overlay.jpg", "json"
MOST_BYTES = 200_000_000  # that are read of one file

_CAMERA = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")
_FILE = re.compile(
    r"(?P<dot>\.)?(?P<stem>(?:[01][0-9]|2[0-3])[0-5][0-9][0-5][0-9]\.[0-9]{3}-[A-Za-z0-9_.-]{1,200}?)"
    r"\.(?:json|overlay\.jpg|jpg)(?(dot)\.tmp)"  # a file whose writing was interrupted belongs to its set
)


class Captured(Protocol):
    """What names a result's files; a `Result` has it."""

    @property
    def id(self) -> str: ...
    @property
    def camera(self) -> str: ...
    @property
    def captured_at(self) -> datetime: ...


@dataclass(frozen=True, slots=True)
class Place:
    """The place of one result's set of files."""

    camera: str
    date: str
    stem: str

    @property
    def captured_s(self) -> float:
        """Unix time of the capture, from the name."""
        time_of_day = f"{self.stem[:2]}:{self.stem[2:4]}:{self.stem[4:10]}"
        return datetime.fromisoformat(f"{self.date}T{time_of_day}+00:00").timestamp()


@dataclass(frozen=True, slots=True)
class EvidenceSet:
    """The files of one result on disk."""

    place: Place
    names: tuple[str, ...]
    size: int  # bytes


def place_of(result: Captured) -> Place:
    """Where a result's evidence is written. The names are always plain and inside the folder."""
    captured = result.captured_at.astimezone(UTC)
    camera = re.sub(r"^\.", "_", result.camera)
    result_id = re.sub(r"[^A-Za-z0-9_.-]", "_", result.id[:200])
    result_id = re.sub(r"\.overlay$", "_overlay", result_id)  # else its picture would have the name of an overlay
    stem = f"{captured:%H%M%S}.{captured.microsecond // 1000:03}-{result_id}"
    return Place(camera, captured.date().isoformat(), stem)


def write_set(folder: Path, place: Place, files: Mapping[str, bytes]) -> None:
    """Writes suffix -> content in the given order, each file completely or not at all.

    Nothing is synced: a power cut can leave the files of the last seconds empty. Every result is safe in the spool.

    Raises:
        OSError: no file of the set is left.
    """
    folder.mkdir(0o750, parents=True, exist_ok=True)
    with opened(folder, place.camera, place.date, make=True) as fd:
        written: list[str] = []
        try:
            for suffix, content in files.items():
                name = f"{place.stem}.{suffix}"
                written += [f".{name}.tmp", name]
                with contextlib.suppress(FileNotFoundError):  # left by an earlier process
                    os.unlink(f".{name}.tmp", dir_fd=fd)
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                with os.fdopen(os.open(f".{name}.tmp", flags, 0o640, dir_fd=fd), "wb") as file:
                    file.write(content)
                os.replace(f".{name}.tmp", name, src_dir_fd=fd, dst_dir_fd=fd)
        except BaseException:
            for name in written:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=fd)
            raise


def try_writing(folder: Path, place: Place, size: int) -> None:
    """Writes `size` bytes beside the set of `place`, and deletes them again.

    Raises:
        OSError: no set can be stored there.
    """
    trial = replace(place, stem=f"{place.stem.partition('-')[0]}-trial")
    write_set(folder, trial, {PICTURE: bytes(size)})
    delete_set(folder, EvidenceSet(trial, (f"{trial.stem}.{PICTURE}",), size))


def read_kept(folder: Path, result: Captured, suffix: str) -> bytes | None:
    """One file of a result's set; None if it is not there. The names come from `place_of`; no link is followed."""
    place = place_of(result)
    with contextlib.suppress(OSError), opened(folder, place.camera, place.date) as fd:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with os.fdopen(os.open(f"{place.stem}.{suffix}", flags, dir_fd=fd), "rb") as file:
            return file.read(MOST_BYTES)
    return None


def is_kept(folder: Path, result: Captured) -> bool:
    """Whether `read_kept` finds the picture of a result."""
    place = place_of(result)
    with contextlib.suppress(OSError), opened(folder, place.camera, place.date) as fd:
        found = os.stat(f"{place.stem}.{PICTURE}", dir_fd=fd, follow_symlinks=False)
        return stat.S_ISREG(found.st_mode)
    return False


def delete_set(folder: Path, found: EvidenceSet) -> None:
    """Deletes its files, the JSON first, because it marks a complete set. A missing file is not an error."""
    with contextlib.suppress(FileNotFoundError), opened(folder, found.place.camera, found.place.date) as fd:
        for name in sorted(found.names, key=lambda name: not name.endswith(RESULT)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=fd)


def delete_empty_day(folder: Path, day: str) -> None:
    """Removes the empty folders of a date."""
    for camera in cameras_in(folder):
        with contextlib.suppress(OSError), opened(folder, camera) as fd:
            os.rmdir(day, dir_fd=fd)


def cameras_in(folder: Path) -> list[str]:
    """The cameras that have evidence in `folder`; none if it does not exist."""
    with contextlib.suppress(FileNotFoundError), opened(folder) as fd:
        return _folders(fd, _CAMERA.fullmatch)
    return []


def days_in(folder: Path, camera: str) -> list[str]:
    """The dates for which a camera has evidence."""
    with opened(folder, camera) as fd:
        return _folders(fd, _is_date)


def sets_of(folder: Path, camera: str, day: str) -> list[EvidenceSet]:
    """All sets of one camera and date, in the order of capture; none if the folder does not exist."""
    names: dict[str, list[str]] = {}
    sizes: dict[str, int] = {}
    with contextlib.suppress(FileNotFoundError), opened(folder, camera, day) as fd, os.scandir(fd) as entries:
        for entry in entries:
            match = _FILE.fullmatch(entry.name)
            if match is None or not entry.is_file(follow_symlinks=False):
                continue
            with contextlib.suppress(FileNotFoundError):  # a person may have deleted it
                size = entry.stat(follow_symlinks=False).st_size
                names.setdefault(match["stem"], []).append(entry.name)
                sizes[match["stem"]] = sizes.get(match["stem"], 0) + size
    return [EvidenceSet(Place(camera, day, stem), tuple(names[stem]), sizes[stem]) for stem in sorted(names)]


def _folders(fd: int, is_ours: Callable[[str], object]) -> list[str]:
    with os.scandir(fd) as entries:
        return sorted(entry.name for entry in entries if is_ours(entry.name) and entry.is_dir(follow_symlinks=False))


def _is_date(text: str) -> bool:
    with contextlib.suppress(ValueError):
        return date.fromisoformat(text).isoformat() == text  # not another spelling, as 20261125
    return False
