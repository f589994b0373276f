"""Writes to a spool and reads from it, for several test files."""

from pathlib import Path

from zsad_agent.spool import AttachedImage, Entry, Spool, SpoolClock


def put(spool: Spool, *bodies: str) -> list[int]:
    entries = [Entry(spool.new_id(), "cam0", body.encode()) for body in bodies]
    spool.append(entries)
    return [entry.id for entry in entries]


def bodies(spool: Spool) -> list[str]:
    return [entry.body.decode() for entry in spool.read(0, spool.last_id, 1_000_000)]


def corrupt_files(path: Path) -> list[Path]:
    return [file for file in path.parent.iterdir() if file.name.startswith(f"{path.name}.corrupt-")]


def fill(path: Path, results: int) -> list[str]:
    """Appends that many results of 1 KB, each different, and returns their bodies."""
    written = [f"{number:04}" * 250 for number in range(results)]
    with Spool(path, max_results=10_000) as spool:
        put(spool, *written)
    return written


class Clocks:
    """The system clock, which can jump, and the clock since boot, which cannot."""

    def __init__(self) -> None:
        self.wall_s, self.boot_s = 1.8e9, 50.0

    def advance(self, seconds: float) -> None:
        self.wall_s += seconds
        self.boot_s += seconds

    def spool_clock(self, boot_id: str = "boot 1") -> SpoolClock:
        return SpoolClock(wall_s=lambda: self.wall_s, boot_s=lambda: self.boot_s, boot_id=boot_id)


HOUR_S = 3600.0


def put_with_pictures(spool: Spool, *results: tuple[str, bytes]) -> list[int]:
    ids = []
    for body, jpeg in results:
        entry = Entry(spool.new_id(), "cam0", body.encode())
        spool.append([entry], [AttachedImage(entry.id, "cam0", f"line3-{body[-8:]}", jpeg)])
        ids.append(entry.id)
    return ids


def pictures(spool: Spool) -> list[bytes]:
    found, after = [], 0
    while (picture := spool.read_picture(after, spool.last_id)) is not None:
        found.append(picture.jpeg)
        after = picture.id
    return found
