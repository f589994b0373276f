"""Files that are written whole or not at all, and folders in which no link leads outside.

Every function raises OSError if the disk does not store the content.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

ModelT = TypeVar("ModelT", bound=BaseModel)
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def read_json(path: Path, model: type[ModelT], max_bytes: int) -> ModelT | None:
    """The content of a JSON file; None if there is no file.

    Raises:
        ValueError: the file cannot be read or is damaged; the text says why.
    """
    try:
        with path.open("rb") as file:
            encoded = file.read(max_bytes + 1)
        if len(encoded) > max_bytes:
            raise ValueError(f"damaged: more than {max_bytes} bytes")
        return model.model_validate_json(encoded)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part)[:64] for part in fault["loc"])
        raise ValueError(f"damaged: {place}: {fault['msg']}".replace(": : ", ": ")) from error


def file_stamp(path: Path) -> tuple[int, int, int] | None:
    """Differs after the file was replaced or written to; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def write_whole(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Replaces the content of `path`, whose folder must exist. After an error the earlier content is unchanged.

    `mode`: permissions of the file, less what the umask takes away.
    """
    partial = path.with_name(f".{path.name}.part")
    try:
        write_synced(partial, content, mode=mode)
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    sync_folder(path.parent)


def write_synced(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Writes a file that nothing reads yet, such as in a folder that is renamed when it is complete."""
    with open(path, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Makes what was created or renamed in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def opened(folder: Path, *nested: str, make: bool = False) -> Iterator[int]:
    """The file descriptor of `folder/nested…`. Only `folder` may be a symbolic link. `make`: makes missing `nested`."""
    with contextlib.ExitStack() as stack:
        fd = os.open(folder, _FOLDER)
        stack.callback(os.close, fd)
        for name in nested:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o750, dir_fd=fd)
            fd = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=fd)
            stack.callback(os.close, fd)
        yield fd
