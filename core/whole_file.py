"""Files that are written completely or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_file(path: Path, *, in_cache: bool = False) -> Iterator[Path]:
    """A context with the path of an unfinished file, which becomes `path` when the context ends without an error.

    Args:
        path: its folder exists.
        in_cache: several processes may write this file at once. A power cut may damage it; without `in_cache` the
            content is on the disk before the file gets its name.

    Raises:
        OSError: the file cannot be written; an older file at `path` is unchanged.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial" if in_cache else f"{path.name}.partial")
    try:
        yield partial
        if not in_cache:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
