"""Learning from the line: what is gathered, when an offer is made, and what a person can do with it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from learning_tools import MAP, LearnerLine
from profile_maker import make_profile

from zsad_agent.messages import UsedProfile
from zsad_core.errors import ConflictError, ZsadError
from zsad_core.types import Verdict


def test_an_offer_is_made_after_enough_parts_and_used_after_commit(tmp_path: Path) -> None:
    with LearnerLine(tmp_path) as line:
        line.pass_by(19)
        assert (line.state["phase"], line.state["pictures"]) == ("gathering", 19)
        assert line.state["next"] == ["finish", "cancel"]
        line.pass_by(1)
        state = json.loads(json.dumps(line.state))
        assert (state["phase"], state["next"]) == ("offered", ["commit", "cancel"])
        assert (state["offer"]["goods"], state["offer"]["pictures"]) == (19, 20)
        assert "nobody has checked" in " ".join(state["offer"]["notes"])
        assert "goods_scores" not in state["offer"] and len(line.learner.lesson("cam0")["offer"]["goods_scores"]) == 5
        left_out = [picture for picture in line.learner.pictures("cam0") if picture.state == "left_out"]
        assert [(picture.id, picture.reason) for picture in left_out] == [
            (entry["id"], entry["reason"]) for entry in state["offer"]["named"]
        ]
        assert line.store.current("nut") is None and line.prepared == []
        with pytest.raises(ConflictError, match="the offer was made again"):
            line.learner.commit("cam0", "ab" * 32)
        assert line.store.current("nut") is None
        profile = line.learner.commit("cam0", state["offer"]["sha256"])
        assert line.store.current("nut").sha256 == profile.sha256 == state["offer"]["sha256"]
        assert line.prepared == ["nut"] and line.stored == []
        line.pass_by(30, provisional=False)
        assert line.state["phase"] == "idle" and profile.sha256[:12] in line.state["text"]
    assert [call["trusted"] for call in line.teach.calls] == [False]


def test_mode_use_takes_the_offer_into_use_and_mode_off_learns_nothing(tmp_path: Path) -> None:
    with LearnerLine(tmp_path / "use", mode="use") as line:
        line.pass_by(20)
        assert line.store.current("nut") is not None and line.prepared == ["nut"]
    with LearnerLine(tmp_path / "off", mode="off") as line:
        line.pass_by(25)
        assert line.stored == [] and line.state["phase"] == "idle"


def test_without_an_offer_the_reason_is_said_and_further_parts_are_gathered(tmp_path: Path) -> None:
    with LearnerLine(tmp_path) as line:
        line.teach.fault = "the pictures show more than one product"
        line.pass_by(39)
        assert line.state["phase"] == "gathering" and "more than one product" in line.state["text"]
        assert len(line.teach.calls) == 1
        line.teach.fault = None
        line.pass_by(1)
        assert line.state["phase"] == "offered"
        with pytest.raises(ZsadError, match="no offer"):
            line.learner.commit("cam1")


def test_a_person_starts_with_the_next_parts_which_are_trusted(tmp_path: Path) -> None:
    with LearnerLine(tmp_path, mode="off") as line:
        line.learner.begin("cam0", "screw", 5, 0.05)
        line.pass_by(5, product="object", verdict=Verdict.ANOMALOUS)  # by the zero-shot threshold
        assert line.state["phase"] == "offered" and line.state["asked"]
        assert line.state["offer"]["notes"] == []
        line.pass_by(30)
        assert line.learner.commit("cam0").product == "screw"
    call = line.teach.calls[0]
    assert (call["product"], call["rate"], call["trusted"], len(call["names"])) == ("screw", 0.05, True, 5)


def test_cancel_ends_a_teach_in_in_progress_and_deletes_its_pictures(tmp_path: Path) -> None:
    with LearnerLine(tmp_path) as line:
        line.teach.let_go.clear()
        line.pass_by(19)
        line.learner.take(*line.part(), MAP)
        while not line.teach.calls:
            time.sleep(0.01)
        line.learner.cancel("cam0")
        line.learner.wait_idle(60)
        assert line.stored == [] and line.state["text"] == "nut: cancelled"
        with pytest.raises(ZsadError, match="nothing is being taught"):
            line.learner.cancel("cam0")


def test_a_stop_during_a_teach_in_is_quick_and_the_next_run_continues(tmp_path: Path) -> None:
    with LearnerLine(tmp_path) as line:
        line.teach.let_go.clear()
        line.pass_by(19)
        line.learner.take(*line.part(), MAP)
        while not line.teach.calls:
            time.sleep(0.01)
        started_s = time.monotonic()
        line.learner.stop(started_s + 60)
        assert not line.learner.busy and time.monotonic() - started_s < 20
    with LearnerLine(tmp_path) as line:
        line.pass_by(1, seed=1000)
        assert line.state["phase"] == "offered" and len(line.teach.calls[0]["names"]) == 21


def test_offers_and_started_lessons_survive_a_restart(tmp_path: Path) -> None:
    with LearnerLine(tmp_path) as line:
        line.pass_by(20)
        line.pass_by(1, camera="cam1")
        line.learner.begin("cam1", "screw", 4, None)
        line.pass_by(2, camera="cam1")
    with LearnerLine(tmp_path) as line:
        line.learner.wait_idle(60)
        assert line.state["phase"] == "offered"
        assert (line.learner.state("cam1")["product"], line.learner.state("cam1")["pictures"]) == ("screw", 2)
        line.learner.commit("cam0")
        line.pass_by(2, camera="cam1", seed=None)
        assert line.store.products() == ["nut"]


def test_a_camera_that_runs_free_gives_a_picture_now_and_then_and_no_picture_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zsad_agent.learning.line.EVERY_S", 60.0)
    with LearnerLine(tmp_path, free_running=["cam0"]) as line:
        line.pass_by(10)
        assert line.state["pictures"] == 1
        line.pass_by(10, camera="cam1", seed=7)
        assert line.learner.state("cam1")["pictures"] == 1


def test_pictures_that_come_while_the_thread_is_busy_are_dropped_at_once(tmp_path: Path) -> None:
    with LearnerLine(tmp_path) as line:
        line.teach.let_go.clear()
        line.pass_by(19)
        started_s = time.monotonic()
        for _ in range(200):
            line.learner.take(*line.part(), MAP)
        assert time.monotonic() - started_s < 20
        line.teach.let_go.set()
        assert line.learner.wait_idle(60) and line.state["pictures"] < 32


def test_a_full_disk_is_a_fault_and_learning_continues_when_there_is_space(tmp_path: Path) -> None:
    learning = tmp_path / "learning"
    learning.write_text("a file where the folder must be")
    with LearnerLine(tmp_path) as line:
        line.pass_by(2)
        assert "cannot be stored" in (line.learner.fault or "")
        learning.unlink()
        line.pass_by(20)
        assert line.learner.fault is None and line.state["phase"] == "offered"


def test_what_was_taught_in_another_way_ends_the_lesson(tmp_path: Path) -> None:
    with LearnerLine(tmp_path) as line:
        line.pass_by(5)
        line.pass_by(1, provisional=False)
        assert line.stored == [] and line.state["phase"] == "idle"


@pytest.mark.parametrize(("commits", "change"), [(0, ("commit", "cam0")), (2, ("roll_back", "cam0", "nut"))])
def test_pages_and_pictures_do_not_wait_for_a_profile_that_is_made_again(
    tmp_path: Path, commits: int, change: tuple[str, ...]
) -> None:
    making, let_go = threading.Event(), threading.Event()
    with LearnerLine(tmp_path) as line:
        for number in range(max(1, commits)):
            line.learner.begin("cam0", "nut", 3, None)
            line.pass_by(3)
            if number < commits:
                line.learner.commit("cam0")
        line.learner._prepare = lambda product: making.set() or let_go.wait(60)
        command = threading.Thread(target=getattr(line.learner, change[0]), args=change[1:])
        command.start()
        assert making.wait(60)
        line.pass_by(1)
        assert line.state["phase"] in ("offered", "idle") and command.is_alive()
        let_go.set()
        command.join(60)
        assert "is in use" in line.state["text"] and line.state["phase"] == "idle"


def test_a_picture_given_during_a_commit_is_not_lost(tmp_path: Path) -> None:
    with LearnerLine(tmp_path) as line:
        line.learner.begin("cam0", "nut", 3, None)
        line.pass_by(3)
        given: list[str] = []
        line.learner._prepare = lambda product: given.append(line.give(7))
        line.learner.commit("cam0")
        assert line.learner.wait_idle(60)
        assert line.state["phase"] == "offered" and given[0] in line.pictures()


def test_roll_back_takes_the_earlier_profile_into_use(tmp_path: Path) -> None:
    with LearnerLine(tmp_path) as line:
        line.learner.begin("cam0", "nut", 3, None)
        line.pass_by(3)
        first = line.learner.commit("cam0")
        line.learner.begin("cam0", "nut", 3, None)
        line.pass_by(3)
        assert line.learner.commit("cam0").sha256 != first.sha256
        assert line.learner.roll_back("cam0", "nut").sha256 == first.sha256
        assert line.store.current("nut").sha256 == first.sha256 and line.prepared == ["nut"] * 3
        with pytest.raises(ZsadError):
            line.learner.roll_back("cam0", "screw")


def test_a_person_s_mark_is_taken_for_a_part_that_was_kept_and_counts_as_override(tmp_path: Path) -> None:
    with LearnerLine(tmp_path) as line:
        stored = line.store.add(make_profile("nut"))
        profile = UsedProfile(product="nut", sha256=stored.sha256)
        result, view = line.part(provisional=False, profile=profile, verdict=Verdict.ANOMALOUS)
        line.learner.take(result, view, MAP)
        assert line.learner.wait_idle(60)
        assert line.learner.drift("cam0").overridden == 0
        line.learner.mark("cam0", result.id, good=True)
        assert line.state["mark"] == f"{result.id} is good"
        stats = line.learner.drift("cam0")
        assert (stats.rejects, stats.overridden) == (1, 1)
        with pytest.raises(ZsadError, match="no longer there"):
            line.learner.mark("cam0", "line3-b1-99", good=True)


def test_sudden_change_is_reported_and_cleared(tmp_path: Path) -> None:
    with LearnerLine(tmp_path) as line:
        stored = line.store.add(make_profile("nut", goods_scores=tuple(np.linspace(0.5, 2.0, 30).tolist())))
        fields = {"provisional": False, "profile": UsedProfile(product="nut", sha256=stored.sha256)}
        line.pass_by(25, **fields, anomaly_score=0.9, verdict=Verdict.ANOMALOUS)
        assert "sudden change" in (line.drifts["cam0"] or "")
        line.pass_by(25, **fields, anomaly_score=0.3)
        assert line.drifts["cam0"] is None


KILLED = """
import sys
from pathlib import Path
from learning_tools import LearnerLine
with LearnerLine(Path(sys.argv[1]), mode="use") as line:
    print("ready", flush=True)
    while True:
        line.pass_by(1)
        if line.store.current("nut") is not None:
            line.learner.begin("cam0", "nut", 5, None)
"""


@pytest.mark.parametrize("after_s", [0.05, 0.2, 0.5])
def test_kill_at_any_moment_leaves_what_the_next_run_can_use(tmp_path: Path, after_s: float) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])}
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], env=env, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline()
    time.sleep(after_s)
    child.send_signal(signal.SIGKILL)
    child.wait()
    with LearnerLine(tmp_path, mode="use") as line:
        for entry in line.store.entries():
            assert entry.fault is None
        line.learner.wait_idle(60)
        line.pass_by(45)
        assert line.learner.fault is None
        if line.state["phase"] == "offered":
            line.learner.commit("cam0")
        assert line.store.current("nut") is not None


def test_commands_from_another_thread_meet_a_learner_at_work(tmp_path: Path) -> None:
    with LearnerLine(tmp_path) as line:
        stop, faults = threading.Event(), []

        def ask() -> None:
            while not stop.is_set():
                try:
                    json.dumps(line.state)
                    line.learner.begin("cam0", "nut", 3, None)
                    line.learner.cancel("cam0")
                except ZsadError:
                    pass
                except Exception as error:
                    faults.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        line.pass_by(40)
        stop.set()
        asking.join()
        assert not faults and line.learner.alive and line.learner.fault is None
