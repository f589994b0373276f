"""The limits of the spool: number, age, bytes and free disk space."""

import contextlib
from pathlib import Path

import pytest
from spool_tools import HOUR_S, Clocks, bodies, pictures, put, put_with_pictures

from zsad_agent.spool import Spool


def test_oldest_results_are_given_up_above_the_limit_and_this_is_logged_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Spool(path, max_results=20) as spool:
        ids = [put(spool, str(number))[0] for number in range(25)]
        assert bodies(spool) == [str(number) for number in range(5, 25)]
        assert (spool.count, spool.losses.results) == (20, {"count": 5})
        assert caplog.text.count("spool.max_results = 20") == 1
        spool.delete([(ids[0], ids[14])])
        spool.upkeep()
        assert "room again; given up so far (count): 5 results" in caplog.text


def test_results_above_the_age_limit_are_given_up_oldest_first_and_this_is_logged_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clocks = Clocks()
    with Spool(path, max_results=10, max_age_h=24, clock=clocks.spool_clock()) as spool:
        for body in "abc":
            put_with_pictures(spool, (body, b"jpeg"))
            clocks.advance(10 * HOUR_S)
        spool.upkeep()
        assert (bodies(spool), spool.losses.results, spool.losses.pictures) == (["b", "c"], {"age": 1}, {"age": 1})
        clocks.advance(10 * HOUR_S)
        spool.upkeep()
        spool.upkeep()
        assert (bodies(spool), spool.picture_count, spool.losses.results) == (["c"], 1, {"age": 2})
    said = [record.message for record in caplog.records if "results are given up" in record.message]
    assert len(said) == 1
    assert "spool.max_age_h = 24" in said[0]


def test_old_pictures_are_deleted_even_if_their_results_have_arrived(path: Path) -> None:
    clocks = Clocks()
    with Spool(path, max_results=10, max_age_h=24, clock=clocks.spool_clock()) as spool:
        (entry_id,) = put_with_pictures(spool, ("a", b"jpeg"))
        spool.delete([(entry_id, entry_id)])
        clocks.advance(25 * HOUR_S)
        spool.upkeep()
        assert (spool.picture_count, spool.losses.results, spool.losses.pictures) == (0, {}, {"age": 1})


@pytest.mark.parametrize("jump_s", [30 * 365 * 24 * HOUR_S, -1.7e9, 48 * HOUR_S, -48 * HOUR_S])
@pytest.mark.parametrize("restart", ["none", "agent", "machine"])
def test_jump_of_the_system_clock_expires_no_result_and_the_age_limit_still_applies(
    path: Path, jump_s: float, restart: str
) -> None:
    clocks = Clocks()
    with contextlib.ExitStack() as stack:
        spool = stack.enter_context(Spool(path, max_results=10, max_age_h=72, clock=clocks.spool_clock()))
        put(spool, "a")
        clocks.wall_s += jump_s
        if restart != "none":
            stack.close()
            if restart == "machine":
                clocks.boot_s = 5.0
            boot_id = "boot 2" if restart == "machine" else "boot 1"
            spool = stack.enter_context(Spool(path, max_results=10, max_age_h=72, clock=clocks.spool_clock(boot_id)))
        spool.upkeep()
        put(spool, "b")
        clocks.advance(40 * HOUR_S)
        spool.upkeep()
        assert bodies(spool) == ["a", "b"]
        clocks.advance(33 * HOUR_S)
        spool.upkeep()
        assert bodies(spool) == []  # the age limit still applies


def test_result_above_the_count_is_deleted_with_its_picture(path: Path) -> None:
    with Spool(path, max_results=2) as spool:
        put_with_pictures(spool, ("a", b"A"), ("b", b"B"), ("c", b"C"))
        assert (bodies(spool), pictures(spool)) == (["b", "c"], [b"B", b"C"])
        assert (spool.losses.results, spool.losses.pictures) == ({"count": 1}, {"count": 1})


def on_disk(path: Path) -> int:
    return sum(file.stat().st_size for file in (path, Path(f"{path}-wal")) if file.exists())


@pytest.mark.parametrize(("max_bytes", "least_kept"), [(65_536, 1), (300_000, 100)])
def test_file_and_log_stay_below_the_limit_in_bytes_and_pictures_are_deleted_before_results(
    path: Path, max_bytes: int, least_kept: int, caplog: pytest.LogCaptureFixture
) -> None:
    with Spool(path, max_results=1_000_000, max_bytes=max_bytes, fsync="periodic") as spool:
        number, largest = 0, 0
        while not spool.losses.results and number < 5000:
            put_with_pictures(spool, (f"{number:0700}", b"%08d" % number * 1500))
            number += 1
            largest = max(largest, on_disk(path))
            if number % 50 == 0:
                spool.sync()
        assert spool.losses.pictures["bytes"] == number - spool.picture_count
        assert spool.picture_count == 0  # all pictures were deleted before the first result
        first = number - spool.count
        assert bodies(spool) == [f"{each:0700}" for each in range(first, number)]
        for each in range(number, number + 150):
            put(spool, f"{each:0700}")
            largest = max(largest, on_disk(path))
        assert bodies(spool)[-1] == f"{number + 149:0700}"
        assert largest <= max_bytes
        assert spool.count >= least_kept  # and the allowed size is used
    assert caplog.text.count(f"spool.max_bytes = {max_bytes}") == 2  # once for pictures, once for results


def test_older_pictures_but_no_results_are_deleted_for_a_new_picture(path: Path) -> None:
    with Spool(path, max_results=10_000, max_bytes=400_000, fsync="periodic") as spool:
        results = [f"{number:0700}" for number in range(150)]
        put(spool, *results)
        put_with_pictures(spool, ("a", b"A" * 60_000), ("b", b"B" * 60_000), ("c", b"C" * 60_000))
        assert pictures(spool)[-1:] == [b"C" * 60_000]
        put_with_pictures(spool, ("d", b"D" * 500_000))  # larger than the limit
        assert spool.picture_count == 0
        assert bodies(spool) == [*results, "a", "b", "c", "d"]
        assert spool.losses.pictures == {"bytes": 4}


def test_emptied_spool_returns_disk_space(path: Path) -> None:
    with Spool(path, max_results=100_000, fsync="periodic") as spool:
        ids = put(spool, *("x" * 1000 for _ in range(20_000)))
        spool.sync()
        full = path.stat().st_size
        spool.delete([(ids[0], ids[-2])])
        for _ in range(40):
            spool.upkeep()
            spool.sync()
        assert path.stat().st_size < full / 3
        assert bodies(spool) == ["x" * 1000]


def test_pictures_make_room_for_results_on_a_disk_that_is_nearly_full(path: Path) -> None:
    free = [10**9]
    with Spool(path, max_results=1_000_000, disk_free=lambda folder: free[0]) as spool:
        put_with_pictures(spool, *((f"{number:0500}", b"x" * 50_000) for number in range(6)))
        spool.sync()
        before = path.stat().st_size
        free[0] = 100_000
        put_with_pictures(spool, ("a", b"A"))  # the picture is not stored
        put(spool, *(f"{number:0500}" for number in range(6, 200)))
        spool.sync()
        assert path.stat().st_size == before  # no more disk space was used
        assert bodies(spool) == [
            *(f"{number:0500}" for number in range(6)),
            "a",
            *(f"{number:0500}" for number in range(6, 200)),
        ]
        assert spool.count == 201
        assert spool.losses.results == {}
        assert spool.losses.pictures == {"disk": 7 - spool.picture_count}
        assert 0 < spool.picture_count < 5  # only as many as needed were deleted, the oldest first
        assert spool.read_picture(0, spool.last_id).result_id.endswith(str(6 - spool.picture_count))
