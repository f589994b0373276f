"""Files of a watched folder are moved when their results are durable."""

import itertools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import jsonschema
import numpy as np
import pytest
from mqtt_listener import wait_until
from pipeline_tools import BRIGHT, DARK, GREY, RESULT_SCHEMA, FakeLine, FakePredictor, FakeSource, ListSink

from zsad_agent.messages import Result
from zsad_agent.sources import FolderDropSource
from zsad_core.errors import ImageError


class MemorySink(ListSink):
    """Accepts results like a publisher with a full disk: none is durable until the test calls `on_durable`."""

    def __init__(self) -> None:
        super().__init__()
        self.on_durable: list[Callable[[], None] | None] = []

    def accept_all(
        self,
        results: list[tuple[Result, bytes | None]],
        on_durable: list[Callable[[], None] | None],
    ) -> None:
        for result, heatmap in results:
            self.accept(result, heatmap)
        self.on_durable += on_durable


def test_file_is_moved_when_its_result_is_durable_and_stays_when_it_is_lost(tmp_path: Path) -> None:
    sink = MemorySink()
    line = FakeLine(FolderDropSource(tmp_path, stale_after_s=5.0), sink=sink)  # type: ignore[arg-type]
    line.pipeline.start()
    for number, name in enumerate(("a.png", "b.png", "c.png"), start=1):
        cv2.imwrite(str(tmp_path / name), BRIGHT)
        wait_until(lambda number=number: len(sink.on_durable) == number)  # type: ignore[misc]
    time.sleep(0.6)
    assert not (tmp_path / "inspected").exists()
    for told in (sink.on_durable[0], sink.on_durable[2]):  # the second is given up
        assert told is not None
        told()
    wait_until(lambda: {path.name for path in (tmp_path / "inspected").glob("*")} == {"a.png", "c.png"})
    time.sleep(0.6)
    assert (tmp_path / "b.png").exists()
    line.pipeline.stop()


def test_result_names_its_file_and_the_file_is_moved_by_its_verdict(tmp_path: Path) -> None:
    def refuse_grey(image: np.ndarray) -> None:
        if image[0, 0, 0] == 200:
            raise ImageError("not this one")

    pictures = {b"SN-1.png": BRIGHT, b"SN-2.png": DARK, b"SN-3.png": GREY, b"SN-\xff\n.png": BRIGHT}
    for name, image in pictures.items():
        Path(os.fsdecode(bytes(tmp_path) + b"/" + name)).write_bytes(cv2.imencode(".png", image)[1].tobytes())
    (tmp_path / "SN-4.png").write_bytes(b"\x89PNG no more")
    source = FolderDropSource(tmp_path, stale_after_s=5.0, sort_by_verdict=True, grace_s=0.1)
    line = FakeLine(source, predictor=FakePredictor(refuse_grey))  # type: ignore[arg-type]
    line.pipeline.start()
    wait_until(lambda: not list(tmp_path.glob("*.png")))
    line.pipeline.stop()
    assert isinstance(line.sink, ListSink)
    for result in line.sink.results:
        jsonschema.validate(result, RESULT_SCHEMA)
    assert {result["source_name"]: result["verdict"] for result in line.sink.results} == {
        "SN-1.png": "ok",
        "SN-2.png": "anomalous",
        "SN-3.png": "unknown",
        "SN-4.png": "unknown",
        "SN-\ufffd\n.png": "ok",
    }
    moved = {os.fsencode(path.relative_to(tmp_path)) for path in tmp_path.glob("*/**/*.png")}
    assert moved == {
        b"inspected/ok/SN-1.png",
        b"inspected/ok/SN-\xff\n.png",
        b"inspected/anomalous/SN-2.png",
        b"inspected/unknown/SN-3.png",
        b"unreadable/SN-4.png",
    }


def test_file_is_moved_at_once_without_a_store(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), BRIGHT)
    line = FakeLine(FolderDropSource(tmp_path, stale_after_s=5.0))  # type: ignore[arg-type]
    line.pipeline.start()
    wait_until(lambda: (tmp_path / "inspected" / "a.png").exists())
    line.pipeline.stop()


def test_hanging_rename_delays_neither_other_cameras_nor_the_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share_answers, rename = threading.Event(), os.rename

    def hanging(*names: Any, **folders: Any) -> None:
        share_answers.wait(60)
        rename(*names, **folders)

    def frame_now() -> np.ndarray:
        time.sleep(0.005)
        return GREY

    monkeypatch.setattr(os, "rename", hanging)
    cv2.imwrite(str(tmp_path / "a.png"), BRIGHT)
    folder = FolderDropSource(tmp_path, stale_after_s=30.0)
    line = FakeLine(folder, FakeSource(*[frame_now] * 100_000, lossless=False))  # type: ignore[arg-type]
    line.pipeline.start()
    assert isinstance(line.sink, ListSink)
    results = line.sink.results
    wait_until(lambda: any(result["camera"] == "cam0" for result in results))
    time.sleep(0.5)
    before = len(results)
    wait_until(lambda: len(results) >= before + 50)
    line.pipeline.stop()
    assert line.pipeline.wait(20)  # the share answers after 60 s
    assert not line.pipeline.wait_capture(0.1)
    share_answers.set()
    assert line.pipeline.wait_capture(60)
    assert (tmp_path / "inspected" / "a.png").exists()


def test_at_the_end_only_files_with_a_durable_result_are_moved(tmp_path: Path) -> None:
    for number in range(9):
        cv2.imwrite(str(tmp_path / f"{number}.png"), BRIGHT)
    folder = FolderDropSource(tmp_path, stale_after_s=30.0)
    stopped, pictures = threading.Event(), itertools.count(1)
    slow = FakePredictor(lambda image: stopped.wait(60) and None if next(pictures) == 3 else None)
    line = FakeLine(folder, predictor=slow)  # type: ignore[arg-type]
    line.pipeline.start()
    assert isinstance(line.sink, ListSink)
    results = line.sink.results
    wait_until(lambda: len(results) == 2)
    line.pipeline.stop()
    stopped.set()
    assert line.pipeline.wait(60)
    assert line.pipeline.wait_capture(60)
    moved = sorted(path.name for path in (tmp_path / "inspected").iterdir())
    assert len(moved) == len(results) == line.pipeline.inspected_frames < 9
    assert len(list(tmp_path.glob("*.png"))) == 9 - len(moved)
