import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from zsad_agent.spool import Spool
from zsad_agent.spool_rows import Entry
from zsad_core.errors import SpoolError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "spool.sqlite3"


def put(spool: Spool, *bodies: str) -> list[int]:
    entries = [Entry(spool.new_id(), "cam0", body.encode()) for body in bodies]
    spool.append(entries)
    return [entry.id for entry in entries]


def bodies(spool: Spool) -> list[str]:
    return [entry.body.decode() for entry in spool.read_after(0, 1_000_000)]


def test_empty_spool_reads_nothing_and_deletes_nothing(path: Path) -> None:
    with Spool(path, max_results=10) as spool:
        assert spool.read_after(0, 10) == []
        spool.delete([1, 2])
        assert (spool.count, spool.last_id) == (0, 0)


def test_entries_come_back_in_order_after_reopening(path: Path) -> None:
    with Spool(path, max_results=10) as spool:
        put(spool, "a", "b")
        put(spool, "c")
    with Spool(path, max_results=10) as spool:
        assert bodies(spool) == ["a", "b", "c"]
        assert spool.count == 3
        assert put(spool, "d") == [4]  # ids are not given out twice while entries wait


def test_deleted_entries_are_gone_and_reading_goes_on_behind_an_id(path: Path) -> None:
    with Spool(path, max_results=10) as spool:
        ids = put(spool, "a", "b", "c", "d")
        spool.delete([ids[0], ids[2]])
        assert bodies(spool) == ["b", "d"]
        assert spool.count == 2
        assert [entry.id for entry in spool.read_after(ids[1], 10)] == [ids[3]]
        assert len(spool.read_after(0, 1)) == 1


def test_oldest_are_given_up_above_the_limit_and_said_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Spool(path, max_results=20) as spool:
        ids = [put(spool, str(number))[0] for number in range(25)]
        assert bodies(spool) == [str(number) for number in range(5, 25)]
        assert (spool.count, spool.dropped) == (20, 5)
        assert caplog.text.count("spool.max_results = 20") == 1
        spool.delete(ids[:15])
        assert "room again; given up so far: 5" in caplog.text


def test_appends_of_many_threads_are_all_kept_and_counted(path: Path) -> None:
    with Spool(path, max_results=1000) as spool:
        threads = [threading.Thread(target=lambda: [put(spool, "x") for _ in range(50)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert spool.count == len(bodies(spool)) == 200


def test_second_agent_on_the_same_spool_is_refused_and_told_why(path: Path) -> None:
    with Spool(path, max_results=10) as spool:
        put(spool, "a")
        with pytest.raises(SpoolError, match="another agent uses this spool"), Spool(path, max_results=10):
            pass
        assert bodies(spool) == ["a"]
    with Spool(path, max_results=10):
        pass


def test_use_before_opening_or_after_closing_is_a_spool_error(path: Path) -> None:
    spool = Spool(path, max_results=10)
    with pytest.raises(SpoolError, match="closed"):
        put(spool, "a")
    with spool:
        pass
    with pytest.raises(SpoolError, match="closed"):
        spool.read_after(0, 1)


def test_folder_that_cannot_be_made_is_a_spool_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError, match="cannot be opened"), Spool(tmp_path / "file" / "spool", max_results=1):
        pass


def test_another_programs_database_is_refused_and_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE theirs (x)")
    with pytest.raises(SpoolError, match="no spool of this agent"), Spool(path, max_results=1):
        pass
    assert [file.name for file in path.parent.iterdir() if ".corrupt" in file.name] == []


def test_spool_of_a_newer_agent_is_refused(path: Path) -> None:
    with Spool(path, max_results=1):
        pass
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version=9")
    with pytest.raises(SpoolError, match="spool format 9, this agent reads 1"), Spool(path, max_results=1):
        pass


def corrupt_files(path: Path) -> list[Path]:
    return [file for file in path.parent.iterdir() if file.name.startswith(f"{path.name}.corrupt-")]


def fill(path: Path, results: int) -> list[str]:
    """Appends that many results of 1 KB, of text that compares unequal, and returns their bodies."""
    written = [f"{number:04}" * 250 for number in range(results)]
    with Spool(path, max_results=10_000) as spool:
        put(spool, *written)
    return written


def cut_off_a_third(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def cut_into_the_last_page(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


def overwrite_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"not a database at all, nor ever one")


def overwrite_middle(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(os.urandom(20_000))


def flip_one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(b"0050" * 20)] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "least_rescued"),
    [
        (cut_off_a_third, 0),  # SQLite opens no file that is shorter than its header says
        (cut_into_the_last_page, 90),
        (overwrite_header, 0),
        (overwrite_middle, 60),
        (flip_one_bit, 99),
    ],
)
def test_damaged_file_is_set_aside_and_what_can_be_read_is_kept(
    path: Path, damage: Callable[[Path], None], least_rescued: int, caplog: pytest.LogCaptureFixture
) -> None:
    written = fill(path, 100)
    damage(path)
    damaged = path.read_bytes()
    with Spool(path, max_results=1000) as spool:
        rescued = bodies(spool)
        assert least_rescued <= len(rescued) < 100
        assert rescued == [body for body in written if body in rescued]  # in order, none of them altered
        put(spool, "after")
        assert bodies(spool) == [*rescued, "after"]
        assert spool.count == len(rescued) + 1
    aside = [file for file in path.parent.iterdir() if ".corrupt-" in file.name and file.name[-1].isdigit()]
    assert [file.read_bytes() for file in aside] == [damaged]
    assert aside[0].name in caplog.text
    assert f"{len(rescued)} results were read out of the damaged file" in caplog.text


def test_damage_that_shows_while_running_does_not_stop_the_queue(path: Path) -> None:
    fill(path, 5000)  # more than SQLite keeps in memory
    with Spool(path, max_results=10_000) as spool:
        last_id = spool.last_id
        overwrite_middle(path)
        assert 4900 < len(bodies(spool)) < 5000
        assert put(spool, "after") == [last_id + 1]  # an acknowledgement of old deletes nothing new
        assert bodies(spool)[-1] == "after"


WRITER = """
import sys
from pathlib import Path
from zsad_agent.spool import Spool
from zsad_agent.spool_rows import Entry
with Spool(Path(sys.argv[1]), max_results=1_000_000) as spool:
    while True:
        entry = Entry(spool.new_id(), "cam0", b"x" * 700)
        spool.append([entry])
        print(entry.id, flush=True)
"""


def test_nothing_appended_is_lost_when_the_process_is_killed(path: Path) -> None:
    said: set[int] = set()
    for round_number in range(1, 4):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        for _ in range(100 * round_number):
            said.add(int(writer.stdout.readline()))
        writer.send_signal(signal.SIGKILL)
        said.update(int(line) for line in writer.stdout.read().split("\n")[:-1])  # whole lines only
        writer.wait()
        writer.stdout.close()
    with Spool(path, max_results=1_000_000) as spool:
        kept = [entry.id for entry in spool.read_after(0, 1_000_000)]
    assert said <= set(kept)
    assert kept == list(range(1, len(kept) + 1))


def test_full_disk_is_an_error_that_loses_nothing_and_ends_when_there_is_room(tiny_disk: Path) -> None:
    ballast = tiny_disk / "ballast"
    ballast.write_bytes(b"\0" * 500_000)
    with Spool(tiny_disk / "spool.sqlite3", max_results=1_000_000) as spool:
        written = []
        with pytest.raises(SpoolError, match="full"):
            for number in range(5000):
                put(spool, f"{number:1000}")
                written.append(f"{number:1000}")
        assert len(written) > 50
        assert bodies(spool) == written
        assert spool.count == len(written)
        ballast.unlink()
        put(spool, "again")
        assert bodies(spool) == [*written, "again"]


def test_sync_empties_the_log_into_the_file(path: Path) -> None:
    with Spool(path, max_results=1000) as spool:
        put(spool, *("x" * 1000 for _ in range(200)))
        assert path.stat().st_size < 100_000
        spool.sync()
        assert path.stat().st_size > 200_000
