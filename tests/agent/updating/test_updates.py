import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bundle_store_server import BundleStoreServer
from mqtt_listener import wait_until

from zsad_agent.config import UpdateConfig
from zsad_agent.model import Outcome
from zsad_agent.updating import UpdateRequest, Updates
from zsad_core.errors import BundleError, ZsadError

OLD, NEW = "a" * 64, "b" * 64
CONTENT = b"bundle" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class FakeInstaller:
    """A device with the bundle OLD; each file is the bundle NEW. With `refusal` it refuses everything."""

    def __init__(self, bundle: str = OLD) -> None:
        self.bundle, self.before, self.on_probation = bundle, OLD, False
        self.profile: str | None = None
        self.refusal: str | None = None
        self.done: list[str] = []

    def in_use(self, kind: str, product: str | None) -> str | None:
        return self.bundle if kind == "bundle" else self.profile

    def install(self, kind: str, path: Path) -> None:
        assert path.read_bytes() == CONTENT
        self._refuse()
        if kind == "bundle":
            self.before, self.bundle, self.on_probation = self.bundle, NEW, True
        else:
            assert path.with_name(f"{path.name}.sig").read_text() == "ed25519 x y"
            self.profile = SHA256

    def leave(self, kind: str, product: str | None) -> None:
        self._refuse()
        if kind == "profile":
            self.done.append(str(product))
            self.profile = None
        elif self.on_probation:
            self.on_probation, self.bundle = False, self.before
        else:
            self.bundle, self.before, self.on_probation = OLD, self.bundle, True

    def _refuse(self) -> None:
        if self.refusal is not None:
            raise BundleError(self.refusal)


class Device:
    """Updates with a fake installer; a second `start` is a restart with the same files."""

    def __init__(self, folder: Path, store: BundleStoreServer) -> None:
        self.folder, self.store = folder, store
        self.installer = FakeInstaller()
        self.config = UpdateConfig(tags=("hall-a",))
        self.updates: Updates | None = None

    def start(self) -> Updates:
        if self.updates is not None:
            self.updates.stop(0.0)
        self.updates = Updates(self.config, self.folder)
        self.updates.start()
        return self.updates

    @property
    def state(self) -> dict[str, Any]:
        assert self.updates is not None
        return self.updates.state(self.installer.bundle).model_dump(mode="json")

    def begin(self, command_id: str, **request: Any) -> None:
        assert self.updates is not None
        self.updates.begin(self.request(**request), command_id, self.installer)

    def request(self, **changes: Any) -> UpdateRequest:
        value = {"action": "fetch", "kind": "bundle", "sha256": SHA256, "bytes": len(CONTENT)}
        value["url"] = f"{self.store.url}/new.zip"
        value = {key: found for key, found in (value | changes).items() if found is not None}
        return UpdateRequest.model_validate_json(json.dumps(value))

    def wait(self, *phases: str) -> dict[str, Any]:
        """Tends it until it is in one of the phases."""

        def there() -> bool:
            assert self.updates is not None
            self.updates.tend(self.installer)
            return self.state["phase"] in phases

        wait_until(there)
        return self.state


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    (tmp_path / "served").mkdir()
    (tmp_path / "served/new.zip").write_bytes(CONTENT)
    with BundleStoreServer(tmp_path / "served") as store:
        made = Device(tmp_path / "state", store)
        made.start()
        yield made
        assert made.updates is not None
        made.updates.stop(0.0)


ROLLBACK = {"action": "rollback", "url": None, "bytes": None}


def test_bundle_is_fetched_tried_and_left_again(device: Device) -> None:
    assert (device.state["phase"], device.state["tags"], device.state["bundle"]) == ("idle", ["hall-a"], OLD)
    device.begin("one")
    assert device.wait("probation")["bundle"] == NEW
    device.installer.on_probation = False
    device.updates.settled(Outcome(passed=True, text="passed"))
    assert (device.state["phase"], device.state["id"], device.state["sha256"]) == ("done", "one", SHA256)
    assert list((device.folder / "update").iterdir()) == []
    device.begin("two", **ROLLBACK, sha256=NEW)
    assert device.wait("probation")["bundle"] == OLD
    device.installer.on_probation = False
    device.updates.settled(Outcome(passed=True, text="passed"))
    assert (device.state["phase"], device.state["action"]) == ("done", "rollback")


def test_failed_trial_probation_and_download_are_stated_and_leave_the_old_one(device: Device) -> None:
    device.installer.refusal = "too slow"
    device.begin("one")
    assert device.wait("failed")["text"] == "too slow"
    device.installer.refusal = None
    device.begin("two")
    device.wait("probation")
    device.installer.on_probation, device.installer.bundle = False, OLD
    device.updates.settled(Outcome(passed=False, text="gave no answer"))
    assert (device.state["phase"], device.state["text"], device.state["bundle"]) == ("failed", "gave no answer", OLD)
    device.begin("three", url=f"{device.store.url}/none.zip")
    assert "answered 404" in device.wait("failed")["text"]
    assert device.installer.bundle == OLD


def test_known_command_is_not_carried_out_again_also_after_a_restart(device: Device) -> None:
    device.begin("one")
    device.wait("probation")
    assert device.start().knows("one") and not device.updates.knows("two")


def test_second_command_is_refused_while_one_is_in_progress(device: Device) -> None:
    device.begin("one", url=f"{device.store.url}/slow/new.zip")
    with pytest.raises(ZsadError, match="is in progress: downloading"):
        device.begin("two")
    device.wait("probation")
    with pytest.raises(ZsadError, match="is in progress: probation"):
        device.begin("two")
    with pytest.raises(ZsadError, match="is in progress"):
        device.begin("two", **ROLLBACK, sha256=OLD)
    device.begin("back", **ROLLBACK, sha256=NEW)  # of the bundle on probation
    assert (device.wait("done")["id"], device.state["bundle"]) == ("back", OLD)
    device.updates.settled(Outcome(passed=False, text="ended by a command"))
    assert device.state["phase"] == "done"


@pytest.mark.parametrize(("bundle", "phase"), [(OLD, "failed"), (NEW, "done")])
def test_restart_during_probation_ends_it_by_what_is_in_use(device: Device, bundle: str, phase: str) -> None:
    device.begin("one")
    device.wait("probation")
    device.installer = FakeInstaller(bundle)
    device.start()
    state = device.wait("done", "failed")
    assert (state["phase"], state["id"]) == (phase, "one")
    assert phase == "done" or "ended in the phase probation; the earlier bundle is in use" in state["text"]


@pytest.mark.parametrize(("bundle", "phase"), [(OLD, "done"), (NEW, "failed")])
def test_restart_during_a_rollback_ends_it_by_what_is_in_use(device: Device, bundle: str, phase: str) -> None:
    device.installer.bundle = NEW
    device.begin("one", **ROLLBACK, sha256=NEW)
    device.installer = FakeInstaller(bundle)
    device.start()
    state = device.wait("done", "failed")
    assert state["phase"] == phase and (phase == "done" or "the same bundle is in use" in state["text"])


def test_restart_during_the_download_continues_it(device: Device) -> None:
    device.begin("one", url=f"{device.store.url}/slow/new.zip")
    wait_until(lambda: list((device.folder / "update").glob("*.part")))
    device.start()
    assert device.wait("probation")["id"] == "one"


def test_progress_is_stated_in_tenths(device: Device) -> None:
    (device.store.folder / "big.zip").write_bytes(content := bytes(range(256)) * 800)
    device.begin(
        "one", url=f"{device.store.url}/slow/big.zip", bytes=len(content), sha256=hashlib.sha256(content).hexdigest()
    )
    seen: set[str | None] = set()
    wait_until(lambda: seen.add(device.state["text"]) or len(seen) > 3)
    assert seen - {None} <= {f"{10 * tenth} % of 204800 bytes" for tenth in range(11)}
    device.updates.stop(0.0)


def test_profile_comes_with_its_signature_and_is_left(device: Device) -> None:
    with pytest.raises(ZsadError, match="has no signature"):
        device.begin("zero", kind="profile")
    device.begin("one", kind="profile", signature="ed25519 x y")
    assert device.wait("done", "failed")["phase"] == "done"
    assert device.installer.profile == SHA256
    device.begin("two", **ROLLBACK, kind="profile", product="nut")
    assert device.wait("done", "failed")["phase"] == "done"
    assert device.installer.done == ["nut"] and device.installer.profile is None


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"url": "file:///etc/passwd"}, "scheme 'file'"),
        ({"url": "http://store.example/x"}, "only fetched from this machine"),
        ({"bytes": 2_000_000_000}, "at most 1000000000 are fetched"),
        ({"kind": "profile", "signature": "x", "bytes": 30_000_000}, "at most 20000000"),
        ({**ROLLBACK, "sha256": NEW}, "is not in use"),
    ],
)
def test_command_is_refused_before_anything_changes(device: Device, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ZsadError, match=why):
        device.begin("one", **changes)
    assert (device.state["phase"], device.store.asked) == ("idle", [])
    assert not device.updates.knows("one")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"url": None}, "needs url"),
        ({"product": "nut"}, "product does not belong"),
        ({"signature": "x"}, "signature does not belong"),
        ({"sha256": "x"}, "sha256"),
        ({"bytes": 0}, "bytes"),
        ({"action": "rollback"}, "does not belong to rollback"),
        ({**ROLLBACK, "kind": "profile"}, "needs product"),
        ({"action": "erase"}, "action"),
        ({"more": 1}, "more"),
    ],
)
def test_wrong_value_is_refused(device: Device, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        device.request(**changes)


@pytest.mark.parametrize("damage", ["{", '{"phase": "trying"}', '{"phase": "downloading", "request": %s, "ids": []}'])
def test_damaged_record_is_none(damage: str, device: Device, caplog: pytest.LogCaptureFixture) -> None:
    device.begin("one")
    device.wait("probation")
    (device.folder / "update.json").write_text(damage.replace("%s", device.request().model_dump_json()))
    device.start()
    assert device.state["phase"] == "idle" and "The last update is forgotten" in caplog.text


def test_what_cannot_be_recorded_as_tried_is_not_tried(device: Device) -> None:
    """The record would say at each start that it is still to be fetched, also if it ends the process."""
    device.begin("one")
    (device.folder / ".update.json.part").mkdir()  # as on a full disk, the record stays as it is
    assert "update.json: cannot be written" in device.wait("failed")["text"]
    assert device.installer.bundle == OLD and '"downloading"' in (device.folder / "update.json").read_text()


def test_state_that_cannot_be_written_refuses_the_command(tmp_path: Path, device: Device) -> None:
    (tmp_path / "file").write_text("")
    device.folder = tmp_path / "file"
    device.start()
    with pytest.raises(ZsadError, match="cannot be written"):
        device.begin("one")
    assert device.state["phase"] == "idle"
