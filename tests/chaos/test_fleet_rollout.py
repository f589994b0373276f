"""Rollouts with zsad-fleet to many devices, with kills of both sides at random points."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from chaos_record import record
from fleet_plant import PATIENCE_S, FleetPlant, Watcher, sha256_of
from mosquitto_broker import MosquittoBroker

SCRIPT = Path(__file__).with_name("fleet_devices.py")
PROCESSES, OF_ONE = 4, 25
SEED = int(os.environ.get("ZSAD_CHAOS_SEED", "1"))


@pytest.fixture
def plant(mosquitto: Callable[..., MosquittoBroker], tiny_bundle: Path, tmp_path: Path) -> Iterator[FleetPlant]:
    made = FleetPlant(tmp_path, mosquitto(), tiny_bundle)
    (tmp_path / "devices").mkdir()
    with made.store:
        yield made


class Devices:
    """One process with fake devices, see `fleet_devices`."""

    def __init__(self, plant: FleetPlant, how: dict[str, str]) -> None:
        self.how = how
        asked = {
            "port": plant.broker.port,
            "folder": str(plant.folder / "devices"),
            "bundle": str(plant.old),
            "key": str(plant.public_key),
            "ca": str(plant.authority.cert),
            "devices": how,
        }
        self._command = [sys.executable, str(SCRIPT), json.dumps(asked)]

    def __enter__(self) -> Self:
        path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.kill()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(10)

    def stop(self) -> dict[str, Any]:
        """Ends it in order. Gives what it has counted."""
        out, _ = self._process.communicate("\n", timeout=120)
        return dict(json.loads(out.splitlines()[-1]))


def names(first: int, count: int) -> list[str]:
    return [f"agent{number:03}" for number in range(first, first + count)]


class Doubler(Watcher):
    """Sends each command of zsad-fleet a second time, as a broker may."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._seen: Counter[tuple[str, bytes]] = Counter()

    def double(self, stop: threading.Event) -> None:
        done = 0
        while not stop.wait(0.05):
            for topic, payload in self.messages[done:]:
                done += 1
                if topic.endswith("/update/set") and not self._seen[topic, payload]:
                    self._seen[topic, payload] += 1
                    self.publish(topic, payload)


def count_missing(watcher: Watcher, device_id: str) -> int:
    """Results of the device that did not arrive, of those before the last one that did, in all its runs."""
    numbers: dict[str, set[int]] = {}  # run -> arrived
    for payload in watcher.payloads(f"zsad/{device_id}/cam0/result"):
        result = json.loads(payload)
        numbers.setdefault(result["id"].rsplit("-", 1)[0], set()).add(result["seq"])
    return sum(max(arrived) - len(arrived) for arrived in numbers.values())


def count_doubled(watcher: Watcher) -> int:
    """Results that arrived again."""
    ids = [json.loads(payload)["id"] for topic, payload in watcher.messages if topic.endswith("/result")]
    return len(ids) - len(set(ids))


@pytest.mark.chaos
def test_hundred_devices_on_one_broker(plant: FleetPlant) -> None:
    new, third = plant.offer("new", version="0.0.2"), plant.offer("third", version="0.0.3")
    how = {name: "slow" if number % 20 == 7 else "" for number, name in enumerate(names(0, PROCESSES * OF_ONE))}
    how["agent003"] = "bad 0.0.3"
    processes = [
        Devices(plant, {name: how[name] for name in names(OF_ONE * number, OF_ONE)}) for number in range(PROCESSES)
    ]
    with Devices(plant, dict.fromkeys(("off1", "off2", "off3"), "")) as away:
        away.stop()
    stop = threading.Event()
    with Doubler(plant.broker.port) as watcher:
        doubler = threading.Thread(target=watcher.double, args=(stop,), daemon=True)
        doubler.start()
        for one in processes:
            one.__enter__()
        try:
            started_s = time.monotonic()
            done = plant.run("rollout", new, "--store", plant.store.url, "--wave", "1,5,rest", "--answer-s", 120)
            took_s = time.monotonic() - started_s
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr
            assert "done: 100 done, 3 left out" in done.stdout
            assert done.stdout.count("offline") == 3
            assert Counter(plant.store.asked) == {"/new.zip": 100}
            bad = plant.run("rollout", third, "--store", plant.store.url, "--wave", "1,5,rest", "--answer-s", 120)
            assert bad.returncode == 1 and "agent003: failed" in bad.stdout, bad.stdout[-3000:] + bad.stderr
            assert Counter(plant.store.asked)["/third.zip"] == 6
            watcher.wait_for(lambda: watcher.update_of("agent003")["bundle"] == sha256_of(new), PATIENCE_S)
            counted = [one.stop() for one in processes]
        finally:
            stop.set()
            doubler.join(5)
            for one in processes:
                one.__exit__()
        assert [one["unsent"] for one in counted] == [0] * PROCESSES
        for name, number in {name: number for one in counted for name, number in one["results"].items()}.items():
            topic = f"zsad/{name}/cam0/result"
            watcher.wait_for(lambda: len(watcher.payloads(topic)) >= number, PATIENCE_S)  # noqa: B023
            assert count_missing(watcher, name) == 0
    record(
        "rollout to 100 devices on one broker, 5 slow, each command doubled, 3 away",
        tried=100,
        lost=0,
        doubled=count_doubled(watcher),
        recover_s=None,
        note=f"{took_s:.0f} s in 3 waves",
    )


@pytest.mark.chaos
def test_kills_of_both_sides_during_rollouts_leave_every_device_in_a_stated_state(plant: FleetPlant) -> None:
    dice, kills, runs, before = random.Random(SEED), Counter[str](), 0, sha256_of(plant.old)
    processes = [Devices(plant, dict.fromkeys(names(4 * number, 4), "")) for number in range(3)]
    with Watcher(plant.broker.port) as watcher:
        for one in processes:
            one.__enter__()
        try:
            while kills["device"] < 12 or kills["fleet"] < 6:
                new = plant.offer(f"new{runs}", padding=200_000, version=f"0.1.{runs}")
                command = plant.command(
                    "rollout", new, "--store", f"{plant.store.url}/slow", "--wave", "2,4,rest", "--answer-s", 30
                )
                while not is_done(plant.folder / f"{new.name}.rollout.json"):
                    runs += 1
                    fleet = subprocess.Popen(
                        command, cwd=plant.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                    )
                    time.sleep(dice.uniform(1.5, 9.0))
                    if fleet.poll() is None:
                        victim = dice.choice(["fleet", "device", "device", "both", "nobody"])
                        if victim in ("fleet", "both"):
                            fleet.send_signal(signal.SIGKILL)
                            kills["fleet"] += 1
                        if victim in ("device", "both"):
                            one = dice.choice(processes)
                            one.kill()
                            one.__enter__()
                            kills["device"] += 1
                    fleet.wait(300)
                    assert_stated(plant, watcher, before, sha256_of(new))
                before = sha256_of(new)
                for name in names(0, 12):
                    assert json.loads((plant.folder / "devices" / name / "update.json").read_text())["phase"] == "done"
                    watcher.wait_for(lambda: watcher.update_of(name)["bundle"] == before, PATIENCE_S)  # noqa: B023
            assert [one.stop()["unsent"] for one in processes] == [0, 0, 0]
        finally:
            for one in processes:
                one.__exit__()
        watcher.wait_for(lambda: not any(count_missing(watcher, name) for name in names(0, 12)), PATIENCE_S)
    record(
        "kill -9 of zsad-fleet, or of 4 devices, at random points of a rollout to 12",
        tried=sum(kills.values()),
        lost=0,
        doubled=count_doubled(watcher),
        recover_s=None,
        note=f"{runs} runs; every rollout ended with all devices on the new bundle",
    )


def is_done(state: Path) -> bool:
    """Whether all 12 devices are. One that is away when a rollout is planned joins it when it is run again."""
    phases = [one["phase"] for one in json.loads(state.read_text())["devices"].values()] if state.exists() else []
    return phases == ["done"] * 12


def assert_stated(plant: FleetPlant, watcher: Watcher, before: str, new: str) -> None:
    """Every device ends in `idle`, `done` or `failed`, and what it says it uses is what the next start loads."""

    def stated(name: str) -> bool:
        update = watcher.update_of(name)
        selected = plant.folder / "devices" / name / "bundles/selected.json"
        loads = json.loads(selected.read_text())["current"] if selected.exists() else before
        return (
            update.get("phase") in ("idle", "done", "failed") and update["bundle"] == loads and loads in (before, new)
        )

    watcher.wait_for(lambda: all(map(stated, names(0, 12))), PATIENCE_S)


@pytest.mark.chaos
def test_kills_of_a_real_agent_during_an_update(plant: FleetPlant) -> None:
    dice = random.Random(SEED)
    shas = {
        name: sha256_of(plant.offer(name, padding=200_000, version=f"0.0.{2 + number}"))
        for number, name in enumerate("ab")
    }
    in_use, ended = sha256_of(plant.old), Counter[str]()
    with Watcher(plant.broker.port) as watcher:
        for attempt in range(10):
            name = next(one for one in "ab" if shas[one] != in_use)
            started = len(watcher.messages)
            with plant.agent("line1", fps=15) as agent:
                watcher.wait_for(
                    lambda: any(topic == "zsad/line1/update/state" for topic, _ in watcher.messages[started:]),  # noqa: B023
                    PATIENCE_S,
                )
                fleet = subprocess.Popen(
                    plant.command(
                        "rollout", plant.folder / f"served/{name}.zip", "--store", f"{plant.store.url}/slow",
                        "--state", plant.folder / f"state-{attempt}.json",
                    ),
                    stdout=subprocess.DEVNULL,
                )  # fmt: skip
                watcher.wait_for(
                    lambda: watcher.update_of("line1")["phase"] == "downloading" or fleet.poll() is not None,  # noqa: B023
                    PATIENCE_S,
                )
                time.sleep(dice.uniform(0.0, 5.0))
                agent.kill()
            started = len(watcher.messages)
            with plant.agent("line1", fps=15) as agent:
                watcher.wait_for(
                    lambda: any(
                        topic == "zsad/line1/update/state"
                        and json.loads(payload)["value"]["phase"] in ("done", "failed")
                        for topic, payload in watcher.messages[started:]  # noqa: B023
                    ),
                    PATIENCE_S,
                )
                update = watcher.update_of("line1")
                assert update["bundle"] == (shas[name] if update["phase"] == "done" else in_use), update
                ended[update["phase"]] += 1
                in_use = update["bundle"]
                assert fleet.wait(60) == (0 if update["phase"] == "done" else 1)
                agent.terminate()
            assert "Traceback" not in agent.output
        watcher.wait_for(lambda: count_missing(watcher, "line1") == 0, PATIENCE_S)
    record(
        "kill -9 of a real agent at a random point of an update",
        tried=10,
        lost=0,
        doubled=count_doubled(watcher),
        recover_s=None,
        note=", ".join(f"{number} {phase}" for phase, number in sorted(ended.items())),
    )
