import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bundle_attacks import change_manifest, copy_bundle, make_key, sign_folder, write_public_key, zip_folder

from zsad_agent.config import SHIPPED_BUNDLE, InferenceConfig
from zsad_agent.model import BundleStore, open_bundle
from zsad_agent.model.bundle_store import MAX_ATTEMPTS
from zsad_core.bundle import MODEL_BIN, SIGNATURE, Bundle, load_bundle
from zsad_core.errors import BundleError, ConfigError, DeviceError, ProductError


class Device:
    """Three bundles, of which the config names the first, and a store."""

    def __init__(self, tiny_bundle: Path, folder: Path) -> None:
        self.sources = [
            change_manifest(copy_bundle(tiny_bundle, folder / f"v{number}"), version=f"{number}") for number in range(4)
        ]
        self.config = InferenceConfig(bundle=self.sources[0])
        self.folder = folder / "state" / "bundles"

    @property
    def store(self) -> BundleStore:
        """A new store at each call, as after a restart."""
        return BundleStore(self.folder, self.config)

    def switch_to(self, number: int) -> Bundle:
        before = self.store.start(lambda bundle: bundle).bundle
        new = self.store.add(self.sources[number])
        self.store.select(new, before)
        return new

    def start(self) -> tuple[str, tuple[str, ...]]:
        """(version, reasons)."""
        started = self.store.start(lambda bundle: bundle)
        return started.detector.manifest.version, started.reasons

    def stored(self) -> set[str]:
        return {path.name for path in self.folder.iterdir() if path.is_dir()}


@pytest.fixture
def device(tiny_bundle: Path, tmp_path: Path) -> Device:
    return Device(tiny_bundle, tmp_path)


def fail_for(*versions: str):
    def compile_bundle(bundle: Bundle) -> Bundle:
        if bundle.manifest.version in versions:
            raise DeviceError("no such device")
        return bundle

    return compile_bundle


def test_without_a_selection_the_config_s_bundle_runs_and_no_file_is_written(device: Device) -> None:
    assert device.start() == ("0", ())
    device.store.prune()
    assert not device.folder.exists()


def test_started_bundle_keeps_no_second_copy_of_the_model(device: Device) -> None:
    for _ in range(2):  # the config's bundle, then the stored copy
        started = device.store.start(lambda bundle: bundle)
        assert started.detector.model_bin and started.detector.model_xml
        assert (started.bundle.model_bin, started.bundle.model_xml) == (b"", b"")
        assert started.bundle.sha256 == started.detector.sha256
        device.switch_to(1)


def test_stored_copy_runs_after_its_source_has_changed(device: Device) -> None:
    new = device.switch_to(1)
    (device.sources[1] / MODEL_BIN).write_bytes(b"other")
    assert new.path == device.folder / new.sha256
    assert device.start() == ("1", ())


def test_previous_bundle_is_kept_and_older_ones_are_deleted(device: Device) -> None:
    first, second, third = (device.switch_to(number) for number in (1, 2, 3))
    assert device.stored() == {second.sha256, third.sha256}
    assert first.sha256 not in device.stored()
    assert json.loads((device.folder / "selected.json").read_text())["previous"] == second.sha256


def test_unreadable_selection_deletes_no_bundle(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    new = device.switch_to(1)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refuse)
        device.store.prune()
    assert new.sha256 in device.stored()
    assert device.start()[0] == "1"


def test_selecting_the_current_bundle_keeps_the_previous_one(device: Device) -> None:
    first, second = device.switch_to(1), device.switch_to(2)
    device.store.select(second, second)
    assert device.stored() == {first.sha256, second.sha256}


def test_damaged_bundle_falls_back_to_the_previous_one_then_to_the_config_s(device: Device) -> None:
    first, second = device.switch_to(1), device.switch_to(2)
    (second.path / MODEL_BIN).write_bytes(b"other")
    version, reasons = device.start()
    assert version == "1"
    assert "was changed" in reasons[0]
    (first.path / MODEL_BIN).unlink()
    version, reasons = device.start()
    assert version == "0"
    assert len(reasons) == 2
    assert device.start()[0] == "0"


def test_bundle_that_does_not_compile_or_lacks_a_product_falls_back(device: Device) -> None:
    device.switch_to(1)
    device.switch_to(2)
    started = device.store.start(fail_for("2"))
    assert started.bundle.manifest.version == "1"
    assert "no such device" in started.reasons[0]

    def lacks_product(bundle: Bundle) -> Bundle:
        if bundle.manifest.version != "0":
            raise ProductError("product 'cap' is not in the bundle")
        return bundle

    assert device.store.start(lacks_product).bundle.manifest.version == "0"
    assert device.start() == ("2", ())


def test_after_a_fallback_the_bundle_that_ran_is_the_previous_one(device: Device) -> None:
    first, second = device.switch_to(1), device.switch_to(2)
    (second.path / MODEL_BIN).write_bytes(b"other")
    third = device.switch_to(3)
    assert device.stored() == {first.sha256, third.sha256}


def test_error_of_the_config_s_bundle_is_raised_if_no_bundle_can_be_used(device: Device) -> None:
    device.switch_to(1)
    with pytest.raises(DeviceError, match="no such device"):
        device.store.start(fail_for("0", "1"))


@pytest.mark.parametrize("text", ["", "{", "null", '{"current": "../../etc"}', "\0" * 100, "[" * 60_000])
def test_damaged_selection_file_is_reported_and_the_config_s_bundle_runs(device: Device, text: str) -> None:
    device.switch_to(1)
    (device.folder / "selected.json").write_text(text)
    version, reasons = device.start()
    assert version == "0"
    assert "selected.json" in reasons[0]
    device.switch_to(2)
    assert device.start() == ("2", ())


def test_changed_bundle_in_the_config_replaces_the_selection(device: Device) -> None:
    device.switch_to(1)
    device.config = InferenceConfig(bundle=device.sources[2])
    version, reasons = device.start()
    assert version == "2"
    assert "inference.bundle was changed" in reasons[0]


def test_moved_or_deleted_bundle_of_the_config_keeps_the_selection(device: Device) -> None:
    device.switch_to(1)
    device.sources[0].rename(device.sources[0].with_name("moved"))
    assert device.start() == ("1", ())
    device.config = InferenceConfig(bundle=device.sources[0].with_name("moved"))
    assert device.start() == ("1", ())


def test_bundle_is_skipped_after_three_starts_that_crash(device: Device) -> None:
    first, second = device.switch_to(1), device.switch_to(2)

    def crash(bundle: Bundle) -> Bundle:
        if bundle.sha256 == second.sha256:
            raise SystemExit  # like a kill: none of the agent's code runs after it
        return bundle

    for _ in range(MAX_ATTEMPTS):
        with pytest.raises(SystemExit):
            device.store.start(crash)
    for _ in range(3):
        started = device.store.start(crash)
        assert started.bundle.sha256 == first.sha256
        assert "ended before it was ready" in started.reasons[0]
    device.store.select(device.store.add(device.sources[2]), started.bundle)
    assert device.start() == ("2", ())  # a new selection resets the number of attempts


def test_successful_starts_are_not_counted(device: Device) -> None:
    device.switch_to(1)
    for _ in range(MAX_ATTEMPTS + 1):
        assert device.start() == ("1", ())


def test_with_keys_only_signed_bundles_are_stored_and_started(device: Device, tmp_path: Path) -> None:
    key = make_key(1)
    keys = (write_public_key(tmp_path / "line.pub", key),)
    unsigned = device.switch_to(1)
    device.config = InferenceConfig(bundle=sign_folder(device.sources[0], key), trusted_keys=keys)
    version, reasons = device.start()
    assert version == "0"
    assert "not signed" in reasons[0]
    with pytest.raises(BundleError, match="not signed"):
        device.store.add(device.sources[2])
    assert device.stored() == {unsigned.sha256}
    archive = zip_folder(sign_folder(device.sources[2], key), tmp_path / "b.zip")
    stored = device.store.add(archive)
    assert stored.signed_by is not None
    (stored.path / SIGNATURE).unlink()
    with pytest.raises(BundleError, match="not signed"):
        device.store.add(device.sources[3])
    assert device.store.add(archive).signed_by is not None  # the damaged copy is replaced


def test_unreadable_key_is_a_config_error(device: Device, tmp_path: Path) -> None:
    device.switch_to(1)
    device.config = InferenceConfig(bundle=SHIPPED_BUNDLE, trusted_keys=(tmp_path / "none.pub",))
    with pytest.raises(ConfigError, match=r"none\.pub: cannot be read"):
        device.start()


def test_shipped_bundle_needs_no_signature_but_its_copy_does(tmp_path: Path) -> None:
    config = InferenceConfig(trusted_keys=(write_public_key(tmp_path / "line.pub", make_key(1)),))
    assert open_bundle(config).sha256 == load_bundle(SHIPPED_BUNDLE).sha256
    (tmp_path / "link").symlink_to(SHIPPED_BUNDLE)
    open_bundle(config.model_copy(update={"bundle": tmp_path / "link"}))
    with pytest.raises(BundleError, match="not signed"):
        open_bundle(config.model_copy(update={"bundle": copy_bundle(SHIPPED_BUNDLE, tmp_path / "copy")}))


def test_shipped_bundle_is_found_by_its_name_and_needs_no_signature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = (write_public_key(tmp_path / "line.pub", make_key(1)),)
    config = InferenceConfig(bundle=Path("zsad-small"), trusted_keys=keys)
    assert open_bundle(config).manifest.name == "zsad-small"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zsad-small").mkdir()  # a local bundle is used before a shipped one
    with pytest.raises(BundleError, match="manifest"):
        open_bundle(InferenceConfig(bundle=Path("zsad-small")))
    assert InferenceConfig(bundle=Path("no-such-bundle")).bundle == Path("no-such-bundle")


def test_full_disk_refuses_the_new_bundle_and_keeps_the_old_one(device: Device, tiny_disk: Path) -> None:
    device.folder = tiny_disk / "bundles"
    device.switch_to(1)
    (tiny_disk / "filler").write_bytes(bytes(1_048_576 - 65_536))
    with pytest.raises(BundleError, match="No space left"):
        for number in range(20):
            device.store.add(change_manifest(device.sources[2], version=f"more {number}"))
    assert not [name for name in device.stored() if name.startswith(".new-")]
    assert device.start() == ("1", ())


def test_agent_starts_with_a_folder_that_cannot_be_written(device: Device) -> None:
    device.folder.parent.mkdir(parents=True)
    device.folder.write_text("a file where the folder should be")
    assert device.start()[0] == "0"
    with pytest.raises(BundleError, match="cannot be stored"):
        device.store.add(device.sources[1])


KILLED_AT_EVERY_STEP = """
import errno, io, json, os, shutil, signal, sys
from pathlib import Path
from zsad_agent.model import BundleStore
from zsad_agent.config import InferenceConfig
from zsad_core.errors import ZsadError

v0, v1, v2, folder, how = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]), sys.argv[5]
STEPS = {"open", "write", "flush", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir", "scandir"}
FILLING = {"write", "fsync", "mkdir", "rename", "replace"}  # what a full disk refuses

def is_step(event, function):
    if event != "c_call" or function.__name__ not in (STEPS if how == "kill" else FILLING):
        return False
    return function.__module__ in ("posix", "io", "_io") or isinstance(function.__self__, io.BufferedWriter)

def store():
    return BundleStore(folder, InferenceConfig(bundle=v0))

def update():
    before = store().start(lambda bundle: bundle).bundle
    store().select(store().add(v2), before)

def stopped_at(step):
    '''Runs the update in a child that comes to its end at the given step; its exit code, 0 if it got to the end.'''
    child = os.fork()
    if child == 0:
        left = step
        def before_call(frame, event, function):
            nonlocal left
            if not is_step(event, function):
                return
            left -= 1
            if left == -1:
                if how == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise OSError(errno.ENOSPC, "No space left on device")
        sys.setprofile(before_call)
        try:
            update()
        except ZsadError:
            os._exit(3)
        os._exit(0 if left >= 0 else 4)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

one = store().add(v1)
store().select(one, store().start(lambda bundle: bundle).bundle)
prepared = folder.with_name("prepared")
shutil.copytree(folder, prepared)
versions, codes, step = [], [], 0
while True:
    shutil.rmtree(folder)
    shutil.copytree(prepared, folder)
    code = stopped_at(step)
    started = store().start(lambda bundle: bundle)
    versions.append(started.bundle.manifest.version)
    codes.append(code)
    assert started.reasons == (), (step, started.reasons)
    if step % 5 == 0:  # it goes through when it is tried again, and nothing is left behind
        update()
        assert store().start(lambda bundle: bundle).bundle.manifest.version == "2", step
        left = sorted(path.name for path in folder.iterdir() if path.is_dir())
        assert len(left) == 2 and one.sha256 in left, (step, left)
    if code == 0:
        break
    step += 1
print(json.dumps([versions, codes]))
"""


@pytest.mark.parametrize(("how", "ends", "least"), [("kill", {-9}, 30), ("full disk", {3, 4}, 10)])
def test_update_stopped_at_any_step_leaves_the_old_or_the_new_bundle(
    device: Device, tmp_path: Path, how: str, ends: set[int], least: int
) -> None:
    program = [sys.executable, "-c", KILLED_AT_EVERY_STEP, *map(str, device.sources[:3]), str(device.folder), how]
    done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=300, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    versions, codes = json.loads(done.stdout)
    assert len(versions) > least  # steps
    assert set(codes[:-1]) <= ends
    assert set(versions) == {"1", "2"}
    if how == "kill":
        assert versions == sorted(versions)  # the old bundle up to some step, the new one after it


def test_selection_that_another_program_changed_is_written_again(
    device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    device.switch_to(1)
    new = device.switch_to(2)
    store = device.store
    running = store.start(lambda bundle: bundle).bundle
    selected = device.folder / "selected.json"
    content = selected.read_bytes()
    assert store.check(running) is None and not caplog.records
    for change in (b"", b"{}", content.replace(b"shipped", b"other").replace(b"v0", b"v1")[:-1]):
        selected.write_bytes(change)
        assert store.check(running) is None
        assert selected.read_bytes() == content
    selected.unlink()
    assert store.check(running) is None
    assert device.start() == ("2", ())
    assert caplog.text.count("it is written again") == 4
    assert new.sha256 in device.stored()


def test_stored_bundle_that_another_program_removed_is_a_fault_and_the_next_start_says_so(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.switch_to(1)
    store = device.store
    running = store.start(lambda bundle: bundle).bundle
    (running.path / MODEL_BIN).unlink()
    assert f"another program has removed {MODEL_BIN}" in (store.check(running) or "")

    def stale(path: Path) -> bool:
        raise OSError(errno.ESTALE, "Stale file handle")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "is_file", stale)
        assert "cannot be read, so the next start" in (store.check(running) or "")
    shutil.rmtree(device.folder.parent)
    fault = store.check(running)
    assert fault is not None and "manifest.json" in fault and "Select it again" in fault
    version, reasons = device.start()
    assert version == "0" and "cannot be used" in reasons[0]
    shutil.rmtree(device.folder)
    device.folder.touch()
    assert "it cannot be written: File exists" in (store.check(running) or "")


def test_bundle_of_the_config_needs_no_stored_copy(device: Device) -> None:
    store = device.store
    running = store.start(lambda bundle: bundle).bundle
    assert store.check(running) is None
    device.switch_to(1)
    store.start(lambda bundle: bundle)
    store.forget()
    shutil.rmtree(device.folder)
    assert store.check(running) is None
    assert not device.folder.exists()
