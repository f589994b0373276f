"""What people change in a lesson: pictures removed, kept, given and marked as bad, and what is learned of them."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from learning_tools import MAP, LearnerLine
from taught_fakes import ColourNetworks, PlainDetector, good_part

from zsad_agent.config import InferenceConfig
from zsad_agent.learning import lesson, marked
from zsad_agent.teaching import LeftOut, Networks, learn_kept, teach
from zsad_core.errors import ConflictError, ZsadError
from zsad_core.types import Verdict


def test_finish_learns_what_was_gathered_so_far_if_it_is_enough(tmp_path: Path) -> None:
    with LearnerLine(tmp_path) as line:
        with pytest.raises(ZsadError, match="nothing is being taught"):
            line.learner.finish("cam0")
        line.learner.begin("cam0", "nut", 30, None)
        line.pass_by(2)
        with pytest.raises(ZsadError, match="2 pictures are too few to learn: at least 3"):
            line.learner.finish("cam0")
        line.pass_by(2)
        line.learner.finish("cam0")
        assert line.learner.wait_idle(60) and line.state["phase"] == "offered"
        assert (line.state["offer"]["pictures"], line.state["needed"]) == (4, 30)
        with pytest.raises(ZsadError, match="there is an offer already"):
            line.learner.finish("cam0")
        line.pass_by(5)
        assert line.state["pictures"] == 4  # a person said that it was enough


def test_a_removed_picture_is_not_offered_and_the_offer_is_made_again_without_it(tmp_path: Path) -> None:
    with LearnerLine(tmp_path) as line:
        line.learn_asked()
        first, outlier = line.state["offer"]["sha256"], line.pictures(state="left_out")[0]
        line.teach.let_go.clear()
        assert line.learner.remove_picture("cam0", outlier)
        assert (line.state["phase"], line.state["offer"], line.state["next"]) == ("learning", None, ["cancel"])
        with pytest.raises(ZsadError, match="no offer"):
            line.learner.commit("cam0")
        line.pass_by(0)
        line.learner.take(*line.part(), MAP)  # the line goes on
        line.teach.let_go.set()
        assert line.learner.wait_idle(60) and line.state["phase"] == "offered"
        assert line.state["offer"]["sha256"] != first and line.state["pictures"] == 5
        assert outlier not in line.teach.calls[-1]["names"] and line.learner.picture("cam0", outlier) is None
        assert not line.learner.remove_picture("cam0", outlier)
        assert not line.learner.remove_picture("cam0", "../../asked")


def test_commands_are_answered_while_a_teach_in_computes_and_a_change_makes_it_begin_again(tmp_path: Path) -> None:
    with LearnerLine(tmp_path) as line:
        line.learn_asked()
        line.teach.let_go.clear()
        line.learner.remove_picture("cam0", line.pictures()[0])
        while len(line.teach.calls) < 2:
            time.sleep(0.01)
        started_s = time.monotonic()
        given, bad = line.give(1), line.give(2, good=False)
        line.learner.remove_picture("cam0", line.pictures(kind="good")[-1])
        assert "learning: 1 of" in line.state["text"] or line.state["phase"] == "learning"
        assert time.monotonic() - started_s < 20
        line.teach.let_go.set()
        assert line.learner.wait_idle(60) and line.state["phase"] == "offered"
        assert (line.teach.calls[-1]["names"], line.teach.calls[-1]["bad"]) == (line.pictures(kind="good"), [bad])
        assert given in line.pictures(kind="good")


def test_an_outlier_that_a_person_keeps_is_learned_also_after_a_restart(tmp_path: Path) -> None:
    with LearnerLine(tmp_path) as line:
        line.learn_asked()
        outlier = line.pictures(state="left_out")[0]
        line.learner.mark("cam0", outlier, good=True)
        assert line.learner.wait_idle(60)
        assert line.teach.calls[-1]["kept"] == [outlier] and outlier not in line.teach.calls[-1]["names"]
        assert outlier in line.pictures(state="learned") and "learned as good" in line.state["mark"]
        second = line.pictures(state="left_out")[0]
        line.learner.remove_picture("cam0", second)
        line.learner.wait_idle(60)
    with LearnerLine(tmp_path) as line:
        line.learner.wait_idle(60)
        line.learner.mark("cam0", line.pictures(state="left_out")[0], good=True)
        line.learner.wait_idle(60)
        assert len(line.teach.calls[-1]["kept"]) == 2 and outlier in line.teach.calls[-1]["kept"]


def test_only_outliers_of_a_lesson_that_a_person_started_are_kept(tmp_path: Path) -> None:
    with LearnerLine(tmp_path) as line:
        line.pass_by(20)
        outlier = line.pictures(state="left_out")[0]
        line.learner.mark("cam0", outlier, good=True)  # a mark as of any result
        assert line.state["phase"] == "offered" and line.state["mark"] == f"{outlier} is good"
        with pytest.raises(ZsadError, match="a teach-in that a person started"):
            line.give(1)
        line.teach.left_out = LeftOut(name="", reason="black")
        line.learn_asked()
        with pytest.raises(ZsadError, match="cannot be learned: black"):
            line.learner.mark("cam0", line.pictures(state="left_out")[0], good=True)


def test_given_pictures_count_and_twins_are_refused_by_name(tmp_path: Path) -> None:
    with LearnerLine(tmp_path) as line:
        line.learner.begin("cam0", "nut", 4, None)
        line.cut_height = 40
        first = line.give(1)
        assert first.startswith("given.p1.") and line.state["pictures"] == 1
        with pytest.raises(ZsadError, match=rf"p1.png: the same part as {first}, which is among the good parts"):
            line.give(1, good=False)
        bad = line.give(2, good=False)
        with pytest.raises(ZsadError, match=rf"the same part as {bad}, which is among the bad parts"):
            line.give(2)
        assert line.learner.remove_picture("cam0", first)
        assert line.give(1) == first  # removed by mistake
        odd = line.learner.give_picture("cam0", "../../Über größe?.png", line.part(9)[1], good=True)
        assert (
            odd.startswith("given.-ber-gr-e-.")
            and (tmp_path / f"learning/cam0/nut/asked/train/good/{odd}.jpg").is_file()
        )
        line.give(3)
        assert line.learner.wait_idle(60) and line.state["phase"] == "offered"
        line.give(4)
        assert line.learner.wait_idle(60) and line.state["offer"]["pictures"] == 4
    with LearnerLine(tmp_path) as line:
        line.learner.wait_idle(60)
        line.cut_height = 40
        with pytest.raises(ZsadError, match="the same part as"):
            line.give(4)
        assert line.pictures(kind="bad") == [bad]


def test_a_lesson_of_an_earlier_run_is_read_before_a_person_changes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LearnerLine(tmp_path) as line:
        line.learner.begin("cam0", "nut", 6, None)
        line.give(1)
    is_reading, may_read, reads = threading.Event(), threading.Event(), lesson.open_lesson

    def read_slowly(*args: Any, **more: Any) -> lesson.Lesson:
        is_reading.set()
        may_read.wait(60)
        return reads(*args, **more)

    monkeypatch.setattr("zsad_agent.learning.line.open_lesson", read_slowly)
    with LearnerLine(tmp_path) as line:
        assert is_reading.wait(60)
        for change in (
            lambda: line.learner.begin("cam0", "nut", 4, None),
            lambda: line.give(2),
            lambda: line.learner.mark("cam0", "line3-b1-7", good=False),
        ):
            with pytest.raises(ConflictError, match="are being read: retry"):
                change()
        may_read.set()
        assert line.learner.wait_idle(60)
        line.give(2)
        assert line.state["pictures"] == 2


def test_a_lesson_that_begins_while_the_service_starts_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, opens = LearnerLine(tmp_path), lesson.open_lesson
    half = tmp_path / "learning/cam0/nut/asked/train/good/.p1.jpg.part"  # of a write in progress

    def open_and_start(*args: Any, **more: Any) -> lesson.Lesson:
        opened = opens(*args, **more)
        half.write_bytes(b"half")
        line.learner.start()
        time.sleep(0.5)
        return opened

    monkeypatch.setattr("zsad_agent.learning.line.open_lesson", open_and_start)
    try:
        line.learner.begin("cam0", "nut", 4, None)
        assert line.learner.wait_idle(60) and half.exists()
    finally:
        line.learner.__exit__()


def test_at_most_a_thousand_pictures_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsad_agent.learning.lesson.MAX_GIVEN", 3)
    with LearnerLine(tmp_path) as line:
        line.learner.begin("cam0", "nut", 30, None)
        for seed in range(3):
            line.give(seed)
        with pytest.raises(ZsadError, match="3 pictures already, at most 3"):
            line.give(3)


def test_bad_parts_have_scores_and_recall_in_the_offer_and_stay_after_commit(tmp_path: Path) -> None:
    with LearnerLine(tmp_path) as line:
        line.learner.begin("cam0", "nut", 6, None)
        result, view = line.part(verdict=Verdict.ANOMALOUS)
        line.learner.take(result, view, MAP)
        line.learner.wait_idle(60)
        line.learner.mark("cam0", result.id, good=False)
        line.learner.mark("cam0", result.id, good=True)  # the person was wrong, twice
        assert line.pictures() == []
        line.learner.mark("cam0", result.id, good=False)
        given = line.give(77, good=False)
        assert line.pictures(kind="good") == [] and line.pictures(kind="bad") == [given, result.id]
        line.pass_by(6)
        assert line.state["phase"] == "offered" and line.state["bad"] == 2
        offer = line.learner.lesson("cam0")["offer"]
        assert offer["bad_scores"] == [0.8, 0.8] and max(offer["goods_scores"]) <= 0.5
        assert (offer["recall"]["found"], offer["recall"]["total"]) == (2, 2)
        assert 0 < offer["recall"]["low"] < 0.5 and offer["recall"]["high"] == 1
        assert line.learner.pictures("cam0")[-1].score == 0.8
        assert len(json.dumps(line.state)) < 4000 and "bad_scores" not in line.state["offer"]
        line.learner.commit("cam0")
        assert [picture.name for picture in marked(line.store, "nut", good=False)] == [given, result.id]
        line.learner.begin("cam0", "screw", 6, None)
        assert line.pictures() == []
        line.learner.cancel("cam0")
        line.learner.begin("cam0", "nut", 6, None)
        assert line.pictures() == [given, result.id]  # so the next threshold is tested with them too


def test_the_state_for_the_topic_is_small_and_the_lesson_has_all(tmp_path: Path) -> None:
    with LearnerLine(tmp_path) as line:
        line.teach.left_out = LeftOut(name="", reason="looks different " * 20, score=3.0)
        line.teach.share = 0.5
        line.learn_asked(60)
        assert len(json.dumps(line.state)) < 4000 and line.state["offer"]["left_out"] == 30
        assert len(line.learner.lesson("cam0")["offer"]["named"]) == 20
        assert len(line.pictures(state="left_out")) == 30


def test_after_a_restart_the_lesson_after_a_cancelled_one_goes_on(tmp_path: Path) -> None:
    with LearnerLine(tmp_path) as line:
        line.learner.begin("cam0", "nut", 6, None)
        line.pass_by(2)
        line.learner.cancel("cam0")
        line.learner.begin("cam0", "screw", 6, None)
    with LearnerLine(tmp_path) as line:
        line.learner.wait_idle(60)
        assert line.state["product"] == "screw"


def test_a_failure_of_the_teacher_is_said_once_and_gathering_goes_on(tmp_path: Path) -> None:
    with LearnerLine(tmp_path) as line:
        line.teach.fault = "too few"
        line.learner.begin("cam0", "nut", 5, None)
        line.pass_by(5)
        assert line.state["phase"] == "gathering" and "too few" in line.state["text"]
        assert len(line.teach.calls) == 1 and line.learner.fault is None
        line.teach.defect = RuntimeError("defect")
        line.learner.finish("cam0")
        line.learner.wait_idle(60)
        assert "RuntimeError" in (line.learner.fault or "") and len(line.teach.calls) == 2
        line.teach.fault = line.teach.defect = None
        line.learner.finish("cam0")
        line.learner.wait_idle(60)
        assert line.state["phase"] == "offered" and line.learner.fault is None


KILLED = """
import sys
from pathlib import Path
from learning_tools import LearnerLine
with LearnerLine(Path(sys.argv[1])) as line:
    line.learner.begin("cam0", "nut", 5, None)
    for seed in range(10_000):
        print(line.give(seed, good=seed % 3 > 0), flush=True)
        if seed % 7 == 6:
            line.learner.wait_idle(0.05)
"""


@pytest.mark.parametrize("after", [6, 17, 40])
def test_kill_at_any_moment_keeps_what_was_given(tmp_path: Path, after: int) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])}
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], env=env, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    given = [child.stdout.readline().strip() for _ in range(after)]
    child.send_signal(signal.SIGKILL)
    given += child.communicate()[0].split()
    with LearnerLine(tmp_path) as line:
        line.learner.wait_idle(60)
        assert set(given) <= set(line.pictures()) and line.learner.fault is None
        assert len(line.pictures(kind="bad")) >= after // 3
        if line.state["phase"] == "gathering":
            line.learner.finish("cam0")
            line.learner.wait_idle(60)
        assert line.state["phase"] == "offered"
        assert line.teach.calls == [] or line.teach.calls[-1]["bad"] == line.pictures(kind="bad")


def test_a_kept_outlier_passes_and_defects_are_still_found() -> None:
    detector: Any = PlainDetector()
    networks: Any = ColourNetworks()
    goods = [(f"{seed}", good_part(seed)) for seed in range(20)]
    odd, bad = (
        good_part(30, stain=24),
        [(f"b{seed}", good_part(seed, stain=24, colour=(20, 200, 220))) for seed in (50, 51)],
    )
    settings = {"product": "nut", "networks": networks, "detector": detector}
    found = teach([*goods, ("odd", odd)], bad=bad, **settings)
    assert [entry.name for entry in found.outliers] == ["odd"]
    taught = learn_kept(
        teach(goods, bad=bad, **settings),
        [("odd", odd)],
        bad,
        Networks(detector=detector, features=networks, config=InferenceConfig()),
    )
    fresh = Networks(detector=detector, features=networks, config=InferenceConfig())
    assert fresh.score(taught.profile, odd)[0] < 0.5 <= min(taught.bad_scores.values())
    assert taught.good_scores.keys() == {name for name, _ in goods} | {"odd"}
    assert max(taught.good_scores.values()) < 0.5 and taught.profile.levels[-1].recall.found == 2
    assert np.allclose(taught.bad_scores["b50"], fresh.score(taught.profile, bad[0][1])[0])
