"""Fixtures of the spool's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from outbox_tools import Clock, FailingDisk

from zsad_agent.spool import Outbox


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FailingDisk]:
    with FailingDisk(tmp_path / "spool.sqlite3") as spool:
        yield spool


@pytest.fixture
def outbox(disk: FailingDisk, clock: Clock) -> Outbox:
    return Outbox(disk, max_in_memory=5, clock_s=clock)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "spool.sqlite3"
