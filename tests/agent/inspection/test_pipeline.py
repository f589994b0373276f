"""A whole pipeline on fakes: order, pace, overload and stop."""

import itertools
import threading
import time
from functools import partial

import cv2
import jsonschema
import numpy as np
from mqtt_listener import wait_until
from pipeline_tools import (
    BRIGHT,
    DARK,
    GREY,
    RESULT_SCHEMA,
    FakeLine,
    FakePredictor,
    FakeSource,
    ListSink,
    SlowDisk,
    fail_on_dark,
    make_inspector,
)

from zsad_agent.inspection.pipeline import MOST_AT_ONCE
from zsad_core.errors import ImageError


def test_every_picture_has_one_valid_result_in_order() -> None:
    line = FakeLine(FakeSource(BRIGHT, DARK, *[BRIGHT] * 30))
    results = line.run()
    assert [result["seq"] for result in results] == list(range(1, 33))
    assert len({result["id"] for result in results}) == 32
    assert [result["verdict"] for result in results[:3]] == ["ok", "anomalous", "ok"]
    assert results[0]["id"] == "line3-b007-1"
    assert results[1]["regions"] == [{"bbox_xywh": [0, 0, 60, 40], "peak": 1.0}]
    assert results[1]["frame_wh"] == [60, 40]
    for result in results:
        jsonschema.validate(result, RESULT_SCHEMA)
    assert isinstance(line.sink, ListSink)
    heatmap = line.sink.heatmaps[1]
    assert heatmap is not None
    assert cv2.imdecode(np.frombuffer(heatmap, np.uint8), cv2.IMREAD_COLOR) is not None
    assert line.pipeline.failure is None


def test_results_waiting_for_a_slow_disk_are_stored_together_in_order() -> None:
    sink = SlowDisk()

    def note(image: np.ndarray) -> None:
        if line.pipeline.inspected_frames >= 5:  # the sink has one result, four wait, and this is the next
            sink.five_wait.set()

    line = FakeLine(FakeSource(*[BRIGHT] * 20), predictor=FakePredictor(note), sink=sink)
    line.pipeline.start()
    assert line.pipeline.wait(60)
    assert [result["seq"] for result in sink.results] == list(range(1, 21))
    assert sum(sink.batches) == 20
    assert sum(sink.batches[:2]) >= 5
    assert max(sink.batches) <= MOST_AT_ONCE


def test_bad_picture_is_unknown_in_its_place_and_never_a_pass() -> None:
    line = FakeLine(FakeSource(BRIGHT, ImageError("b\udcff.jpg: damaged\nbadly"), BRIGHT))
    results = line.run()
    assert [result["verdict"] for result in results] == ["ok", "unknown", "ok"]
    assert results[1]["reason"] == "b?.jpg: damaged; badly"
    assert results[1]["anomaly_score"] is None
    assert results[1]["frame_wh"] is None
    jsonschema.validate(results[1], RESULT_SCHEMA)
    assert [state["state"] for state in line.states] == ["ok"]


def test_too_small_picture_is_unknown_and_no_fault_of_the_device() -> None:
    def refuse(image: np.ndarray) -> None:
        raise ImageError("the picture has 1x1 pixels")

    line = FakeLine(FakeSource(DARK[:1, :1]), predictor=FakePredictor(refuse))
    assert line.run()[0]["verdict"] == "unknown"
    assert [state["state"] for state in line.states] == ["ok"]


def test_max_frames_ends_the_run_with_exactly_so_many_results() -> None:
    line = FakeLine(FakeSource(*[BRIGHT] * 100), max_frames=7)
    assert len(line.run()) == 7
    assert line.pipeline.failure is None


def test_slow_model_gets_the_newest_frame_and_every_drop_is_counted() -> None:
    taken = 0
    taken_at_the_end: list[int] = []

    def frame_now() -> np.ndarray:
        nonlocal taken
        time.sleep(0.002)
        taken += 1
        return BRIGHT

    def slow(image: np.ndarray) -> None:
        before = taken
        wait_until(lambda: taken >= before + 5)
        taken_at_the_end.append(taken)

    source = FakeSource(*[frame_now] * 10_000, lossless=False)
    line = FakeLine(source, predictor=FakePredictor(slow), max_frames=8)
    results = line.run()
    assert line.pipeline.wait_capture(60)
    sequence = [result["seq"] for result in results]
    assert sequence == sorted(set(sequence))
    assert sequence[-1] > 30
    assert line.pipeline.dropped >= sequence[-1] - 8
    assert all(later >= end - 1 for end, later in zip(taken_at_the_end, sequence[1:], strict=False))


def test_slow_model_drops_no_picture_of_a_file() -> None:
    line = FakeLine(FakeSource(*[BRIGHT] * 40), predictor=FakePredictor(lambda image: time.sleep(0.003)))
    assert len(line.run()) == 40
    assert line.pipeline.dropped == 0


def test_model_and_sink_work_at_the_same_time() -> None:
    model_has_second = threading.Event()
    pictures = itertools.count(1)

    def predict(image: np.ndarray) -> None:
        if next(pictures) == 2:
            model_has_second.set()

    def store_first() -> None:
        assert model_has_second.wait(60)

    line = FakeLine(FakeSource(*[BRIGHT] * 3), predictor=FakePredictor(predict), sink=ListSink(store_first))
    assert len(line.run()) == 3


def test_stop_delivers_every_inspected_picture() -> None:
    sink = ListSink(lambda: time.sleep(0.01))
    line = FakeLine(FakeSource(*[BRIGHT] * 10_000), sink=sink)
    line.pipeline.start()
    wait_until(lambda: len(sink.results) >= 5)
    line.pipeline.stop()
    assert line.pipeline.wait(60)
    assert len(sink.results) == line.pipeline.inspected_frames
    assert [result["seq"] for result in sink.results] == list(range(1, len(sink.results) + 1))


def test_no_more_pictures_are_inspected_after_a_stop() -> None:
    in_model, stopped = threading.Event(), threading.Event()

    def slow(image: np.ndarray) -> None:
        in_model.set()
        assert stopped.wait(60)

    line = FakeLine(FakeSource(*[BRIGHT] * 100), predictor=FakePredictor(slow))
    line.pipeline.start()
    assert in_model.wait(60)
    line.pipeline.stop()
    stopped.set()
    assert line.pipeline.wait(60)
    assert isinstance(line.sink, ListSink)
    assert len(line.sink.results) == line.pipeline.inspected_frames == 1


def test_stop_does_not_wait_for_a_camera_that_hangs() -> None:
    hangs, camera_answers = threading.Event(), threading.Event()

    def hanging() -> np.ndarray:
        hangs.set()
        camera_answers.wait(60)
        return BRIGHT

    line = FakeLine(FakeSource(BRIGHT, hanging, lossless=False))
    line.pipeline.start()
    assert hangs.wait(60)
    line.pipeline.stop()
    assert line.pipeline.wait(20)
    assert not line.pipeline.wait_capture(0.01)
    camera_answers.set()
    assert line.pipeline.wait_capture(60)


def test_unreported_pictures_do_not_hide_later_results() -> None:
    sink = SlowDisk()
    sink.five_wait.set()
    line = FakeLine(FakeSource(BRIGHT, *[DARK] * 30, BRIGHT), predictor=FakePredictor(fail_on_dark), sink=sink)
    inspector = make_inspector(FakePredictor(fail_on_dark), line.lines[0].status, lossless=False)
    pipeline = line.make_pipeline(inspector)
    pipeline.start()
    assert pipeline.wait(60)
    assert [result["seq"] for result in sink.results] == [1, 2, 32]
    assert pipeline.failure is None


def test_under_overload_every_camera_gets_the_same_number_of_inspections() -> None:
    taken = [0, 0, 0]

    def take(number: int, pause_s: float) -> np.ndarray:
        time.sleep(pause_s)
        taken[number] += 1
        return GREY

    def overloaded(image: np.ndarray) -> None:
        """Waits until each camera has a newer frame in its queue."""
        before = tuple(taken)
        wait_until(lambda: all(now >= then + 2 for now, then in zip(taken, before, strict=True)))

    steps = [partial(take, number, pause_s) for number, pause_s in enumerate((0.0005, 0.002, 0.002))]
    sources = [FakeSource(*[step] * 100_000, lossless=False) for step in steps]
    line = FakeLine(*sources, predictor=FakePredictor(overloaded), max_frames=90)
    results = line.run()
    counts = [sum(result["camera"] == f"cam{number}" for result in results) for number in range(3)]
    assert min(counts) >= 25, counts
    assert line.pipeline.dropped > 0


def test_sequence_numbers_are_unique_over_cameras_and_ordered_for_each() -> None:
    results = FakeLine(*[FakeSource(*[BRIGHT] * 50) for _ in range(4)]).run()
    assert len({result["id"] for result in results}) == 200
    for number in range(4):
        seqs = [result["seq"] for result in results if result["camera"] == f"cam{number}"]
        assert len(seqs) == 50 and seqs == sorted(seqs)
