import os
from pathlib import Path

import pytest

from zsad_agent.system import write_whole


def test_file_is_replaced_atomically_and_synced_with_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "settings.json"
    path.write_bytes(b"before")
    at_sync: list[tuple[str, bytes]] = []
    sync = os.fsync

    def note(handle: int) -> None:
        at_sync.append((Path(f"/proc/self/fd/{handle}").readlink().name, path.read_bytes()))
        sync(handle)

    monkeypatch.setattr(os, "fsync", note)
    write_whole(path, b"after")
    assert at_sync == [(".settings.json.part", b"before"), (tmp_path.name, b"after")]
    assert list(tmp_path.iterdir()) == [path]


def test_failed_write_keeps_the_old_file_and_leaves_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "settings.json"
    path.write_bytes(b"before")

    def refuse(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"after")
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]
