"""The folder of the results: Parquet files that are written whole, and the settings that all of them were made with."""

import contextlib
import fcntl
import hashlib
import io
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zsad_agent.system import write_whole
from zsad_core.errors import ConfigError

SETTINGS = "_zsad-score.json"  # readers of Parquet folders leave out names that begin with _
LOCK = ".lock"
KEY = b"zsad-score settings"
Settings = dict[str, Any]
Part = list[Path]  # the pictures of one file


def digest_of(settings: Settings) -> str:
    """The same for the same settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def text_of(path: Path) -> str:
    """A path as the results hold it: bytes of a name that are not UTF-8 become `\\udcXX`."""
    return os.fspath(path).encode("utf-8", "backslashreplace").decode()


def schema() -> Any:
    """Of every file. Null where there is no score."""
    import pyarrow as pa

    region = pa.struct([("bbox_xywh", pa.list_(pa.int32(), 4)), ("peak", pa.float64())])
    return pa.schema(
        [
            ("path", pa.string()),
            ("verdict", pa.string()),
            ("anomaly_score", pa.float64()),
            ("threshold", pa.float64()),
            ("reason", pa.string()),
            ("regions", pa.list_(region)),
            ("provisional", pa.bool_()),
            ("profile_sha256", pa.string()),
            ("latency_ms", pa.float64()),
        ]
    )


def write_part(folder: Path, digest: str, rows: Sequence[dict[str, Any]]) -> None:
    """Writes one file. Its name follows from its first path, so the same part is never there twice."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema().with_metadata({KEY: digest})), content)
    name = hashlib.sha256(rows[0]["path"].encode()).hexdigest()[:24]
    write_whole(folder / f"part-{name}.parquet", content.getvalue())


@dataclass
class Done:
    """What the folder holds."""

    paths: set[bytes]  # a digest of each, to hold millions in memory
    verdicts: Counter[str]

    def add(self, path: str) -> bool:
        """Whether the path is new."""
        key = hashlib.blake2b(path.encode(), digest_size=16).digest()
        if key in self.paths:
            return False
        self.paths.add(key)
        return True


def split(pictures: Iterable[Path], done: Done, size: int) -> Iterator[Part]:
    """The pictures that are not done, `size` at a time. A picture that is named twice is scored once."""
    left = (path for path in pictures if done.add(text_of(path)))
    while part := list(itertools.islice(left, size)):
        yield part


def _read_settings(path: Path) -> Settings:
    try:
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError("no object")
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"--out: {path} is damaged: {error}. Name another folder") from error
    return found


class PartsFolder:
    """Belongs to one command at a time."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        """Touches nothing yet."""
        self.folder = folder
        self.digest = digest_of(settings)
        self.settings = settings

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Makes the folder or takes it up again.

        Raises:
            ConfigError: it was made with other settings, holds other files, or another command writes to it.
            OSError: it cannot be written to.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / SETTINGS
        if not path.exists() and any(found.name != LOCK for found in self.folder.iterdir()):
            raise ConfigError(f"--out: {self.folder} is not empty and was not made by zsad-score")
        with (self.folder / LOCK).open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConfigError(f"--out: another zsad-score writes to {self.folder}") from error
            for partial in self.folder.glob(".part-*"):  # of a killed run
                partial.unlink()
            if next(self.folder.glob("part-*"), None) is None:
                write_whole(path, json.dumps(self.settings, indent=1, sort_keys=True).encode())
            else:
                self._compare(_read_settings(path))
            yield

    def read_done(self) -> Done:
        """The results that are there.

        Raises:
            ConfigError: a file is damaged, or was made with other settings.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        done = Done(set(), Counter())
        for path in sorted(self.folder.glob("part-*.parquet")):
            try:
                table = pq.read_table(path, columns=["path", "verdict"])
            except (OSError, pa.ArrowException) as error:
                raise ConfigError(f"{path}: damaged. Delete it, and its pictures are scored again") from error
            if (table.schema.metadata or {}).get(KEY) != self.digest.encode():
                raise ConfigError(f"{path}: made with other settings than those in {SETTINGS}")
            done.verdicts.update(table["verdict"].to_pylist())
            for text in table["path"].to_pylist():
                done.add(text)
        return done

    def _compare(self, found: Settings) -> None:
        names: Iterable[str] = sorted(self.settings.keys() | found.keys())
        changes = [
            f"{name} is {json.dumps(found.get(name))} there and {json.dumps(self.settings.get(name))} here"
            for name in names
            if found.get(name) != self.settings.get(name)
        ]
        if changes:
            raise ConfigError(
                f"--out: {self.folder} was made with other settings: {'; '.join(changes)}. Name another folder"
            )
