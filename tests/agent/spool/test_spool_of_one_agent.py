"""Only one agent at a time uses a spool."""

import contextlib
import errno
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fast_clock import FastClock
from file_change_tools import AFTER, BEFORE, add, drain, write_spool

from zsad_agent.spool import Outbox, Spool
from zsad_core.errors import SpoolError

SECOND_AGENT = """
import sys
import zlib
from pathlib import Path
from zsad_agent.spool import Accepted, Outbox, Spool
from zsad_core.errors import SpoolError
try:
    with Spool(Path(sys.argv[1]), max_results=1000) as spool:
        Outbox(spool).add_all([Accepted("cam0", b"second")])
        print("let in", flush=True)
        sys.stdin.readline()
except SpoolError as error:
    print(error)
"""


@contextlib.contextmanager
def second_agent(path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", SECOND_AGENT, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.communicate("\n", timeout=180)


@pytest.mark.parametrize("suffix", ["-wal", "-shm", ".lock", "-journal"])
def test_a_second_agent_is_refused_after_a_file_beside_the_spool_was_removed(path: Path, suffix: str) -> None:
    with Spool(path, max_results=1000) as spool:
        outbox = Outbox(spool)
        add(outbox, BEFORE)
        Path(f"{path}{suffix}").unlink(missing_ok=True)
        with second_agent(path) as second:
            assert second.stdout is not None
            assert "another agent uses this spool" in second.stdout.readline()
        add(outbox, AFTER)
        with second_agent(path) as second:
            assert second.stdout is not None
            assert "another agent uses this spool" in second.stdout.readline()
        assert [body for body, _ in drain(outbox)] == BEFORE + AFTER
    with second_agent(path) as second:
        assert second.stdout is not None
        assert second.stdout.readline() == "let in\n"


def test_a_second_agent_in_place_of_a_removed_spool_is_a_fault_and_no_result_is_lost(path: Path) -> None:
    with Spool(path, max_results=1000) as spool:
        outbox = Outbox(spool, clock_s=FastClock())
        add(outbox, BEFORE)
        shutil.rmtree(path.parent)
        with second_agent(path) as second:
            assert second.stdout is not None
            assert second.stdout.readline() == "let in\n"
            add(outbox, AFTER)
            assert "another agent uses this spool" in (outbox.fault or "")
            assert outbox.store_or_count_lost() == len(BEFORE + AFTER)
        add(outbox, ["last"])
        assert outbox.store_or_count_lost() == 0
        assert {body for body, _ in drain(outbox)} == {*BEFORE, *AFTER, "last", "second"}


def test_only_one_agent_opens_a_spool_on_a_kernel_without_locks_of_open_files(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr("zsad_agent.spool.held_file.fcntl.fcntl", refuse)
    path.parent.mkdir()
    with Spool(path, max_results=1000) as spool:
        outbox = Outbox(spool, clock_s=FastClock())
        add(outbox, BEFORE)
        path.rename(path.with_name("moved"))
        add(outbox, AFTER)
        with pytest.raises(SpoolError, match="another agent uses this spool"), Spool(path, max_results=1):
            pass
        assert [body for body, _ in drain(outbox)] == BEFORE + AFTER


def test_another_program_that_has_the_spool_open_at_the_start_is_reported(path: Path) -> None:
    write_spool(path, BEFORE)
    reader = f"import sqlite3; db = sqlite3.connect({str(path)!r}); "
    reader += "print(*db.execute('SELECT 1 FROM state'), flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", reader], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None and program.stdout.readline()
        with Spool(path, max_results=1000) as spool:
            outbox = Outbox(spool, clock_s=FastClock())
            add(outbox, AFTER[:1])
            assert "cannot be opened: database is locked: another program has opened it" in (outbox.fault or "")
            program.communicate(b"\n")
            add(outbox, AFTER[1:])
            assert {body for body, _ in drain(outbox)} == {*BEFORE, *AFTER}
