"""The steps of a rollout, with simulated devices: no broker, no clock."""

import heapq
import json
import random
from collections import Counter
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from stats_maker import make_stats

from zsad_convert.fleet import Device, Fleet, Item, Plan, PlanFile, Rollout, Selection, parse_waves
from zsad_core.errors import ConfigError, ZsadError

OLD, NEW = "a" * 64, "b" * 64
EVERY = Selection()
ITEM = Item(kind="bundle", name="new", sha256="c" * 64, in_use=NEW, bytes=100, url="https://store/new.zip")


class SimulatedDevices:
    """Devices as the schema describes them, on a virtual clock. `how` maps an id to its behaviour."""

    def __init__(self, ids: list[str], how: dict[str, str], seed: int = 0) -> None:
        self.fleet, self.how, self.now_s = Fleet("zsad"), how, 0.0
        self.random = random.Random(seed)
        self.bundles = dict.fromkeys(ids, OLD)
        self.carried_out: Counter[tuple[str, str]] = Counter()  # device, id of the command
        self.first_sent: dict[str, float] = {}
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()
        self._nonces = dict.fromkeys(ids, 0)
        for one in ids:
            self._say(one, "available", b"offline" if how.get(one) == "offline" else b"online")
            self._say_stats(one)
            self._say_state(one, "idle", None, None)

    def advance(self, seconds: float) -> None:
        self.now_s += seconds
        while self._later and self._later[0][0] <= self.now_s:
            heapq.heappop(self._later)[2]()

    def command(self, device_id: str, payload: bytes) -> None:
        """A message on update/set."""
        self.first_sent.setdefault(device_id, self.now_s)
        how = self.how.get(device_id, "")
        if how == "deaf" or (how == "lossy" and self.random.random() < 0.7):
            return
        for _ in range(2 if how == "doubled" else 1):
            self._after(self.random.uniform(0.05, 1.5), lambda: self._obey(device_id, json.loads(payload)))

    def _obey(self, device_id: str, command: dict[str, Any]) -> None:
        if self.carried_out[device_id, command["id"]]:
            return
        if self.how.get(device_id) == "stale" and self._nonces[device_id] == 0:
            self._nonces[device_id] = 1
            self._say_state(
                device_id, "idle", None, None, answer=(command["id"], "the nonce is not one of the last two")
            )
            self._after(3.0, lambda: self._say_stats(device_id))
            return
        if self.how.get(device_id) == "refuses":
            self._say_state(device_id, "idle", None, None, answer=(command["id"], "updates are off"))
            return
        self.carried_out[device_id, command["id"]] += 1
        slow = 20.0 if self.how.get(device_id) == "slow" else 1.0
        if self.how.get(device_id) == "stuck":
            slow = 1e9
        at_s = 0.0
        for phase in ("downloading", "trying", "probation"):
            self._after(at_s, lambda phase=phase: self._say_state(device_id, phase, command["id"], None))
            at_s += self.random.uniform(0.5, 5.0) * slow
        self._after(at_s, lambda: self._end(device_id, command))

    def _end(self, device_id: str, command: dict[str, Any]) -> None:
        if self.how.get(device_id) == "fails":
            self._say_state(device_id, "failed", command["id"], "gave no answer to 3 pictures")
            return
        self.bundles[device_id] = NEW if command["value"]["action"] == "fetch" else OLD
        self._say_state(device_id, "done", command["id"], None)

    def _after(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._later, (self.now_s + seconds, next(self._number), act))

    def _say(self, device_id: str, topic: str, payload: bytes) -> None:
        self.fleet.take(f"zsad/{device_id}/{topic}", payload)

    def _say_stats(self, device_id: str) -> None:
        stats = {
            "at": "2026-11-29T22:00:00.000Z",
            "version": "0.2.0",
            "bundle": {"name": "x", "version": "1", "sha256": OLD},
            "faults": [],
            "command_nonce": f"nonce{self._nonces[device_id]}",
        }
        self._say(device_id, "stats", json.dumps(stats).encode())

    def _say_state(
        self, device_id: str, phase: str, update_id: str | None, text: str | None, answer: Any = None
    ) -> None:
        value = {"phase": phase, "id": update_id, "text": text, "bundle": self.bundles[device_id], "tags": ["all"]}
        asked, error = answer or (update_id, None)
        self._say(device_id, "update/state", json.dumps({"value": value, "id": asked, "error": error}).encode())


def planned(devices: SimulatedDevices, waves: str = "1,5,rest", action: str = "rollout") -> Plan:
    plan = Plan(action=action, item=ITEM)
    plan.add(list(devices.bundles), parse_waves(waves))
    return plan


def go(devices: SimulatedDevices, plan: Plan, *, most_s: float = 2000.0, selection: Selection = EVERY) -> Rollout:
    """Until it is done or stopped, or for `most_s`."""
    rollout = Rollout(plan, devices.fleet.devices, selection, answer_s=60.0, wait_s=600.0)
    end_s = devices.now_s + most_s
    while devices.now_s < end_s:
        commands = rollout.step(devices.now_s)
        if rollout.stopped or plan.wave is None:
            break
        for device_id, payload in commands:
            devices.command(device_id, payload)
        devices.advance(0.5)
    return rollout


def names(number: int) -> list[str]:
    return [f"d{one:04}" for one in range(number)]


def test_thousand_devices_slow_lossy_doubled_and_with_stale_nonces_all_end_on_the_new_bundle() -> None:
    kinds = random.Random(1)
    how = {one: kinds.choice(["", "", "", "slow", "lossy", "doubled", "stale"]) for one in names(1000)}
    devices = SimulatedDevices(names(1000), how)
    plan = planned(devices, "1,10,100,rest")
    restarts = 0
    while plan.wave is not None:  # the process is killed every 20 s and starts again from its file
        assert not go(devices, plan, most_s=20.0).stopped, {e.text for e in plan.devices.values() if e.phase != "done"}
        plan = Plan.model_validate_json(plan.model_dump_json())
        restarts += 1
    assert restarts > 5
    assert set(devices.bundles.values()) == {NEW}
    assert max(devices.carried_out.values()) == 1 and len(devices.carried_out) == 1000
    waves = {one: entry.wave for one, entry in plan.devices.items()}
    for wave in (1, 2, 3):
        assert max(devices.first_sent[one] for one in waves if waves[one] == wave) < min(
            devices.first_sent[one] for one in waves if waves[one] == wave + 1
        )
    assert sum(wave == 4 for wave in waves.values()) == 889


@pytest.mark.parametrize(
    ("how", "phase", "text"),
    [
        ("fails", "failed", "gave no answer"),
        ("refuses", "failed", "updates are off"),
        ("deaf", "silent", "no answer"),
        ("offline", "silent", "offline"),
        ("stuck", "failed", "not over after 600 s: downloading"),
    ],
)
def test_one_device_that_fails_or_does_not_answer_stops_the_wave(how: str, phase: str, text: str) -> None:
    devices = SimulatedDevices(names(20), {"d0003": how})
    plan = planned(devices)
    rollout = go(devices, plan)
    assert rollout.stopped and plan.wave == 2
    assert plan.devices["d0003"].phase == phase and text in plan.devices["d0003"].text
    assert [one for one, bundle in devices.bundles.items() if bundle == NEW][:1] == ["d0000"]
    assert not set(devices.first_sent) - set(names(6)), "a device of the third wave got a command"
    devices.how["d0003"] = ""  # repaired: the same command goes on
    devices.fleet.take("zsad/d0003/available", b"online")
    devices._say_state("d0003", "failed", plan.devices["d0003"].id, "the agent was ended")
    plan.resume(devices.fleet.devices)
    assert not go(devices, plan).stopped
    assert set(devices.bundles.values()) == {NEW}


def test_device_outside_the_selection_never_gets_a_command() -> None:
    devices = SimulatedDevices(names(3), {})
    plan = planned(devices, "2,rest")
    go(devices, plan, selection=Selection(match=["d0000", "d0001"], tags=["all"]))
    assert sorted(devices.first_sent) == ["d0000", "d0001"]
    assert plan.devices["d0002"].text == "it does not match the selection"


def test_rollback_reaches_the_devices_that_use_the_bundle_and_no_other() -> None:
    devices = SimulatedDevices(names(6), {})
    go(devices, plan := planned(devices, "2,rest"))
    devices.bundles["d0004"] = OLD
    devices.fleet.devices["d0004"].update = devices.fleet.devices["d0000"].update.model_copy(update={"bundle": OLD})
    devices.first_sent.clear()
    back = planned(devices, "1,rest", action="rollback")
    assert not go(devices, back).stopped and plan.wave is None
    assert set(devices.bundles.values()) == {OLD} and "d0004" not in devices.first_sent


def test_update_that_another_command_replaces_counts_as_failed() -> None:
    devices = SimulatedDevices(names(1), {"d0000": "stuck"})
    plan = planned(devices)
    go(devices, plan, most_s=10)
    assert plan.devices["d0000"].text == "downloading"
    devices._say_state("d0000", "downloading", "of-another", None)
    assert go(devices, plan, most_s=10).stopped
    assert plan.devices["d0000"].text == "another command has replaced this one"


def test_update_that_goes_on_keeps_its_command_and_a_device_that_left_the_bundle_gets_a_new_one() -> None:
    devices = SimulatedDevices(names(3), {"d0001": "stuck"})
    plan = planned(devices, "rest")
    assert go(devices, plan).stopped
    before = plan.devices["d0001"].id
    devices._say_state("d0001", "probation", before, None)
    plan.resume(devices.fleet.devices)
    assert (plan.devices["d0001"].phase, plan.devices["d0001"].id) == ("sent", before)
    devices.bundles["d0001"] = NEW
    devices._say_state("d0001", "done", before, None)
    devices.bundles["d0002"] = OLD  # somebody has taken it back
    devices._say_state("d0002", "done", "of-another", None)
    first = plan.devices["d0002"].id
    plan.resume(devices.fleet.devices)
    assert not go(devices, plan).stopped
    assert plan.devices["d0002"].id != first and set(devices.bundles.values()) == {NEW}
    assert [entry.id for entry in plan.devices.values()][1] == before


def test_bundle_on_probation_is_not_in_use_yet() -> None:
    devices = SimulatedDevices(names(1), {})
    devices.bundles["d0000"] = NEW
    devices._say_state("d0000", "probation", "of-another", None)
    plan = planned(devices)
    assert plan.uses(devices.fleet.devices["d0000"]) is None
    go(devices, plan, most_s=0.5)
    assert plan.devices["d0000"].phase == "sent"


def test_profile_counts_as_in_use_only_as_the_last_update() -> None:
    item = ITEM.model_copy(update={"kind": "profile", "product": "nut", "in_use": ITEM.sha256})
    plan = Plan(action="rollout", item=item)
    fleet = Fleet("zsad")
    for phase, action, sha256, uses in (
        ("idle", None, None, None),
        ("done", "fetch", ITEM.sha256, True),
        ("done", "rollback", ITEM.sha256, False),
        ("failed", "fetch", ITEM.sha256, None),
        ("done", "fetch", NEW, None),
    ):
        value = {"phase": phase, "action": action, "kind": "profile", "sha256": sha256, "bundle": OLD}
        fleet.take("zsad/a/update/state", json.dumps({"value": value, "id": None, "error": None}).encode())
        assert plan.uses(fleet.devices["a"]) is uses, (phase, action)


def test_new_devices_join_after_the_planned_waves() -> None:
    plan = Plan(action="rollout", item=ITEM)
    plan.add(names(3), parse_waves("1,rest"))
    plan.add(names(5), parse_waves("1,rest"))
    assert [entry.wave for entry in plan.devices.values()] == [1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("text", "sizes"),
    [("1,5,rest", [1, 5, None]), ("3", [3]), ("rest", [None]), ("rest,1", None), ("0", None), ("x", None)],
)
def test_sizes_of_waves(text: str, sizes: list[int | None] | None) -> None:
    if sizes is None:
        with pytest.raises(ValueError, match=r"sizes from 1|invalid literal"):
            parse_waves(text)
    else:
        assert parse_waves(text) == sizes


def test_state_file_is_kept_for_one_process_and_damage_is_named(tmp_path: Path) -> None:
    file = PlanFile(tmp_path / "state.json")
    assert file.read() is None
    plan = Plan(action="rollout", item=ITEM)
    plan.add(names(2), [None])
    file.write(plan)
    assert file.read() == plan
    with file.locked(), pytest.raises(ZsadError, match="another zsad-fleet uses it"), file.locked():
        pass
    file.path.write_text("{}")
    with pytest.raises(ZsadError, match="not the state of a rollout"):
        file.read()
    with pytest.raises(ConfigError, match="cannot be kept here"), PlanFile(tmp_path / "none/x.json").locked():
        pass


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        ("zsad/a/stats", b"\xff{"),
        ("zsad/a/stats", b'{"at": 3}'),
        ("zsad/a/update/state", b"[" * 100_000),
        ("zsad/a/update/state", b'{"value": "idle", "id": null, "error": null}'),
        ("zsad/\x1b[2J/available", b"online"),
        ("other/a/available", b"online"),
        ("zsad/a/stats", b" " * 300_000),
    ],
)
def test_odd_messages_are_ignored(topic: str, payload: bytes) -> None:
    fleet = Fleet("zsad")
    fleet.take(topic, payload)
    assert fleet.devices == {}


def test_device_shows_alarms_products_and_removed_messages() -> None:
    fleet = Fleet("zsad")
    fleet.take("zsad/a/cam0/status", b'{"state": "degraded", "reason": "drift: scores rise", "since": "x"}')
    fleet.take("zsad/a/cam1/status", b'{"state": "ok", "reason": null}')
    fleet.take("zsad/a/cam0/product/state", b'{"value": "bottle", "source": "config"}')
    assert fleet.devices["a"].alarms == ["cam0 degraded: drift: scores rise"]
    assert fleet.devices["a"].as_json()["products"] == {"cam0": "bottle"}
    stats = make_stats(device_id="a").model_dump(by_alias=True, mode="json")
    stats["cameras"]["cam1"]["drift"] = {"accepted_p50": 0.4, "goods_p50": 0.2}
    fleet.take("zsad/a/stats", json.dumps(stats).encode())
    assert fleet.devices["a"].as_json()["drift"] == {"cam0": None, "cam1": {"accepted_p50": 0.4, "goods_p50": 0.2}}
    assert fleet.devices["a"].alarms == ["the disk is full", "cam0 degraded: drift: scores rise"]
    assert fleet.devices["a"].as_json()["bundle"]["version"] == "1.0.0"
    fleet.take("zsad/a/stats", b"")
    fleet.take("zsad/a/cam0/status", b"")
    fleet.take("zsad/a/cam0/product/state", b"")
    assert fleet.devices["a"].alarms == [] and fleet.devices["a"].products == {}
    assert not Selection(tags=["x"]).holds(Device(id="a"))
