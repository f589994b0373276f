"""The store of profiles: nothing that was taught is lost by a kill, a full disk or another process."""

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from profile_maker import make_profile

from zsad_agent.teaching import ProfileStore, encode_profile
from zsad_core.errors import ProfileError

ADD_FOR_EVER = """
import sys
from pathlib import Path
from profile_maker import make_profile
from zsad_agent.teaching import ProfileStore
store = ProfileStore(Path(sys.argv[1]))
print("ready", flush=True)
first, count = map(int, sys.argv[2:])
for seed in range(first, first + count):
    store.add(make_profile(seed=seed % 60, side=200))
"""


def adding(folder: Path, count: int, first: int = 1) -> subprocess.Popen[str]:
    """A process that adds profiles of one product; `first`: seed of the first one."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", ADD_FOR_EVER, str(folder), str(first), str(count)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


@pytest.fixture
def store(tmp_path: Path) -> ProfileStore:
    return ProfileStore(tmp_path / "profiles")


def test_nothing_is_taught_at_first(store: ProfileStore) -> None:
    assert store.products() == store.entries() == []
    assert store.current("nut") is None
    assert not store.has("nut")
    assert store.current("../nut") is None


def test_the_last_added_profile_is_in_use_and_three_are_kept(store: ProfileStore) -> None:
    added = [store.add(make_profile(seed=seed)) for seed in range(5)]
    store.add(make_profile("bolt"))
    current = store.current("nut")
    assert current is not None and current.sha256 == added[-1].sha256
    assert store.products() == ["bolt", "nut"]
    entry = store.entry("nut")
    assert (entry.number, entry.numbers, entry.fault) == (5, (3, 4, 5), None)


def test_roll_back_goes_one_version_back_each_time(store: ProfileStore) -> None:
    added = [store.add(make_profile(seed=seed)) for seed in range(3)]
    assert store.roll_back("nut").sha256 == added[1].sha256
    assert store.roll_back("nut").sha256 == added[0].sha256
    with pytest.raises(ProfileError, match="nut: cannot return to an earlier profile: there is no earlier one"):
        store.roll_back("nut")
    assert store.entry("nut").number == 1
    assert store.add(make_profile(seed=9)).sha256 not in {profile.sha256 for profile in added}
    assert store.entry("nut").number == 4


def test_roll_back_passes_over_a_damaged_profile(store: ProfileStore) -> None:
    added = [store.add(make_profile(seed=seed)) for seed in range(3)]
    (store.folder / "nut/2.profile").write_bytes(b"PK")
    assert store.roll_back("nut").sha256 == added[0].sha256


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [("2.profile", b"PK", "2.profile: the profile was cut"), ("current", b"\0\0", "current: is damaged")],
)
def test_a_damaged_profile_is_a_fault_until_rolled_back(
    name: str, content: bytes, told: str, store: ProfileStore
) -> None:
    store.add(make_profile(seed=1))
    store.add(make_profile(seed=2))
    (store.folder / "nut" / name).write_bytes(content)
    with pytest.raises(ProfileError, match=told):
        store.current("nut")
    assert store.has("nut")
    assert told in (store.entry("nut").fault or "")
    store.roll_back("nut")
    assert store.current("nut") is not None


def test_a_profile_that_was_copied_to_another_product_is_a_fault(store: ProfileStore) -> None:
    store.add(make_profile("nut"))
    (store.folder / "nut").rename(store.folder / "bolt")
    with pytest.raises(ProfileError, match=r"is the profile of 'nut'. Import it"):
        store.current("bolt")


def test_a_file_in_place_of_the_folder_is_a_fault_and_not_an_empty_store(tmp_path: Path) -> None:
    (tmp_path / "profiles").touch()
    with pytest.raises(ProfileError, match="profiles: cannot be read: Not a directory"):
        ProfileStore(tmp_path / "profiles").products()


def test_a_product_is_removed_with_all_its_profiles(store: ProfileStore) -> None:
    store.add(make_profile())
    store.remove("nut")
    assert store.products() == []
    with pytest.raises(ProfileError, match="product 'nut' is not taught; taught are: nothing"):
        store.remove("nut")


def test_export_and_import_give_the_same_profile(store: ProfileStore, tmp_path: Path) -> None:
    added = store.add(make_profile())
    store.export_to("nut", tmp_path / "nut.profile")
    other = ProfileStore(tmp_path / "other")
    assert other.import_from(tmp_path / "nut.profile").sha256 == added.sha256
    current = other.current("nut")
    assert current is not None and current.sha256 == added.sha256


def test_a_damaged_file_is_not_imported(store: ProfileStore, tmp_path: Path) -> None:
    added = store.add(make_profile())
    (tmp_path / "cut.profile").write_bytes(encode_profile(make_profile(seed=2))[:-1])
    with pytest.raises(ProfileError, match=r"cut\.profile: the profile was cut"):
        store.import_from(tmp_path / "cut.profile")
    current = store.current("nut")
    assert current is not None and current.sha256 == added.sha256
    assert store.entry("nut").numbers == (1,)


@pytest.mark.parametrize("product", ["../nut", ".nut", "-nut", "n/t", "nu\0t", "x" * 81, "é" * 80 + "\n"])
def test_a_name_that_is_no_product_is_refused(product: str, store: ProfileStore) -> None:
    with pytest.raises(ProfileError, match="product "):
        store.remove(product)


def test_a_full_disk_leaves_the_earlier_profile_in_use(tiny_disk: Path) -> None:
    store = ProfileStore(tiny_disk / "profiles")
    added = store.add(make_profile(goods=1, side=300))
    with pytest.raises(ProfileError, match="No space left on device"):
        for seed in itertools.count(1):
            added = store.add(make_profile(seed=seed % 60, goods=3, side=400))
    assert not list(store.folder.rglob("*.part"))
    current = store.current("nut")
    assert current is not None and current.sha256 == added.sha256


@pytest.mark.parametrize("after_s", [0.0, 0.01, 0.03, 0.05, 0.1])
def test_a_killed_writer_leaves_a_whole_profile_in_use(after_s: float, store: ProfileStore) -> None:
    first = store.add(make_profile(seed=59))
    process = adding(store.folder, 10_000)
    time.sleep(after_s)
    process.send_signal(signal.SIGKILL)
    process.wait()
    current = store.current("nut")
    assert current is not None
    last = store.add(make_profile(seed=58))
    now = store.current("nut")
    assert now is not None and now.sha256 == last.sha256 != first.sha256
    assert not list(store.folder.rglob("*.part"))
    assert len(store.entry("nut").numbers) <= 3


def test_two_processes_add_without_losing_each_others_profiles(store: ProfileStore) -> None:
    processes = [adding(store.folder, 11, first) for first in (1, 31)]  # equal ones would be kept once
    while any(process.poll() is None for process in processes):
        if store.has("nut"):
            assert store.current("nut") is not None  # whole at every moment
    assert [process.returncode for process in processes] == [0, 0]
    assert store.entry("nut").numbers == (20, 21, 22)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ProfileError, match=r"file.*cannot be changed, so what was in use stays in use"):
        ProfileStore(tmp_path / "file").add(make_profile())


def test_roll_back_passes_over_the_profile_of_another_product(store: ProfileStore) -> None:
    added = [store.add(make_profile(seed=seed)) for seed in range(3)]
    (store.folder / "nut/2.profile").write_bytes(encode_profile(make_profile("bolt")))
    assert store.roll_back("nut").sha256 == added[0].sha256


def test_what_was_rolled_back_is_not_chosen_by_a_later_rollback(store: ProfileStore) -> None:
    added = [store.add(make_profile(seed=seed)) for seed in range(3)]
    store.roll_back("nut")
    assert store.roll_back("nut").sha256 == added[0].sha256
    store.add(make_profile(seed=9))
    assert store.entry("nut").numbers == (1, 4)
    assert store.roll_back("nut").sha256 == added[0].sha256


def test_a_profile_whose_writer_was_killed_before_it_came_into_use_is_never_chosen(store: ProfileStore) -> None:
    first = store.add(make_profile(seed=1))
    (store.folder / "nut/2.profile").write_bytes(encode_profile(make_profile(seed=2)))
    assert store.entry("nut").number == 1
    store.add(make_profile(seed=3))
    assert store.entry("nut").numbers == (1, 3)
    assert store.roll_back("nut").sha256 == first.sha256


def test_an_earlier_profile_that_is_imported_again_is_the_newest(store: ProfileStore, tmp_path: Path) -> None:
    added = [store.add(make_profile(seed=seed)) for seed in range(3)]
    assert added[0].path is not None
    again = tmp_path / "again.profile"
    again.write_bytes(added[0].path.read_bytes())
    assert store.import_from(again).sha256 == added[0].sha256
    assert store.entry("nut").numbers == (2, 3, 4)
    assert store.roll_back("nut").sha256 == added[2].sha256


def test_a_profile_that_is_in_use_is_not_stored_again(store: ProfileStore) -> None:
    for seed in range(3):
        store.add(make_profile(seed=seed))
    in_use = store.roll_back("nut")
    assert store.add(in_use).path == store.folder / "nut/2.profile"
    assert (store.entry("nut").number, store.entry("nut").numbers) == (2, (1, 2, 3))


def test_nothing_is_deleted_while_it_is_unknown_what_is_in_use(store: ProfileStore) -> None:
    for seed in range(3):
        store.add(make_profile(seed=seed))
    (store.folder / "nut/current").write_bytes(b"\0")
    store.add(make_profile(seed=9))
    assert store.entry("nut").numbers == (1, 2, 3, 4)


def test_a_file_without_end_is_not_imported(store: ProfileStore) -> None:
    with pytest.raises(ProfileError, match="/dev/zero: more than 20000000 bytes, so it is no profile"):
        store.import_from(Path("/dev/zero"))


def test_a_store_that_is_a_file_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "profiles").write_text("x")
    with pytest.raises(ProfileError, match="profiles: cannot be read: Not a directory"):
        ProfileStore(tmp_path / "profiles").products()


def test_importing_the_profile_in_use_again_ousts_no_earlier_one(store: ProfileStore, tmp_path: Path) -> None:
    for seed in range(3):
        added = store.add(make_profile(seed=seed))
    store.export_to("nut", tmp_path / "nut.profile")
    assert store.import_from(tmp_path / "nut.profile").sha256 == added.sha256
    assert store.entry("nut").numbers == (1, 2, 3)
