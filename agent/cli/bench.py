"""`zsad-agent bench`: the speed of the model alone and of the whole pipeline."""

import contextlib
import itertools
import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cv2
import numpy as np

from zsad_agent.cli.footprint import EnergyMeter, process_age_s, status_mb
from zsad_agent.config import AgentConfig, InferenceConfig, default_state_dir
from zsad_agent.inspection import Pipeline, View, make_stations
from zsad_agent.messages import Result
from zsad_agent.model import Detector, Model, ModelInUse, keep_faster
from zsad_agent.mqtt import Publisher
from zsad_agent.sources import Picture
from zsad_agent.spool import Spool
from zsad_agent.system import give_back_memory
from zsad_core.bundle import Arithmetic, Bundle, load_bundle

FRAME_WH = (1280, 720)
IDLE_S = 1.0  # between two pictures of a slow triggered line
IDLE_SHARE = 0.2  # share of the time for that pattern
THREADS = (1, 2)  # each measured separately, unless a number was requested
COMPARE_SHARE = 0.3  # share of the time to compare a bundle's two models
COMPARE_TURN_S = 0.5
ROUND_S = 2.0  # raw and pipeline alternate in rounds of about this length, so that load affects both
NO_BROKER = "mqtt://127.0.0.1:1"  # nothing listens there: results stay in the spool, as on a line without network


class MemorySource:
    """Repeats the same few frames without decoding, until the deadline."""

    description = "frames in memory"
    lossless, endless = True, False

    def __init__(self, frames: Sequence[np.ndarray], seconds: float) -> None:
        self._frames = itertools.cycle(frames)
        self._deadline_s = time.monotonic() + seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def read(self) -> Picture | None:
        """A copy of the next frame; None after the deadline."""
        return Picture(image=next(self._frames).copy()) if time.monotonic() < self._deadline_s else None


class _Recorder:
    """A sink that records when each result was done, and its latency."""

    def __init__(self) -> None:
        self.done_s: list[float] = []
        self.latency_ms: list[float] = []

    def accept(self, result: Result, heatmap: bytes | None) -> None:
        self.done_s.append(time.monotonic())
        if result.latency_ms.capture_to_result is not None:
            self.latency_ms.append(result.latency_ms.capture_to_result)


def run_bench(config: AgentConfig, *, seconds: float) -> dict[str, Any]:
    """Measures for about `seconds` and returns the report for `--json`; keys end in their unit.

    Raises:
        ZsadError: the bundle, product or device cannot be used.
    """
    cv2.setNumThreads(1)  # as in the daemon
    bundle = load_bundle(config.inference.bundle)
    detector = Detector(bundle, config.inference)
    frames = _frames(8)
    detector.predict(frames[0])
    start_up_s = process_age_s()
    compared: dict[str, Any] = {}
    if len(bundle.arithmetics) > 1 and config.inference.model == "auto":
        detector, compared = _faster(bundle, config.inference, detector, frames, COMPARE_SHARE * seconds)
        seconds *= 1 - COMPARE_SHARE
    bundle = bundle.without_model()
    give_back_memory()
    models = ModelInUse(Model(bundle=bundle, predictor=detector))

    idle_count = max(1, round(IDLE_SHARE * seconds / IDLE_S))
    rounds = max(1, round((1 - IDLE_SHARE) * seconds / (2 * ROUND_S)))
    turn_s = (1 - IDLE_SHARE) * seconds / (2 * rounds)
    raw_ms: list[float] = []
    raw_j: list[float | None] = []
    recorders: list[_Recorder] = []
    with tempfile.TemporaryDirectory(prefix="bench-", dir=_folder_on_the_spools_disk()) as folder:
        mqtt = config.mqtt.model_copy(update={"broker": NO_BROKER})
        spool = Spool(Path(folder) / "spool.sqlite3", max_results=config.spool.max_results, fsync=config.spool.fsync)
        with spool, Publisher(mqtt, config.device_id, spool) as publisher:
            for index in range(rounds):
                turns: list[Callable[[], None]] = [
                    lambda: raw_j.append(_with_energy(lambda: raw_ms.extend(_raw_turn(detector, frames, turn_s)))),
                    lambda: recorders.append(_pipeline_turn(config, models, publisher, frames, turn_s)),
                ]
                for turn in turns if index % 2 == 0 else reversed(turns):
                    turn()
    idle_ms = _idle_turn(detector, frames, idle_count)
    raw_rate = 1000 * len(raw_ms) / sum(raw_ms)
    pipeline_rate = _rate(recorders)
    spent_j = [joules for joules in raw_j if joules is not None]
    report = {
        "bundle": {"name": bundle.manifest.name, "version": bundle.manifest.version, "sha256": bundle.sha256},
        "device": config.inference.device,
        "threads": config.inference.threads,
        "precision": config.inference.precision,
        "model": detector.arithmetic,
        "models": compared,
        "cpu_count": os.cpu_count(),
        "frame_wh": list(FRAME_WH),
        "start_up_s": round(start_up_s, 3),
        "raw": {"pictures": len(raw_ms), "per_second": round(raw_rate, 2), "latency_ms": _percentiles(raw_ms)},
        "energy_j": round(sum(spent_j) / len(raw_ms), 4)
        if spent_j
        else None,  # per picture, raw inference, whole machine
        "pipeline": {
            "pictures": sum(len(recorder.done_s) for recorder in recorders),
            "per_second": round(pipeline_rate, 2),
            "latency_ms": _percentiles([ms for recorder in recorders for ms in recorder.latency_ms]),
        },
        "pipeline_to_raw": round(pipeline_rate / raw_rate, 3),
        "after_1_s_idle": {"pictures": len(idle_ms), "latency_ms": _percentiles(idle_ms)},
        "rss_mb": status_mb("VmRSS"),
        "peak_rss_mb": status_mb("VmHWM"),
    }
    if config.inference.threads is None and config.inference.device == "CPU":  # last, because it needs more memory
        measured = config.inference.model_copy(update={"model": detector.arithmetic})
        report["by_threads"] = _by_threads(measured, frames, IDLE_SHARE * seconds)
    return report


def _faster(
    bundle: Bundle, config: InferenceConfig, first: Detector, frames: Sequence[np.ndarray], seconds: float
) -> tuple[Detector, dict[str, Any]]:
    """Measures both models of a bundle in turns, and stores which is faster for later starts on this machine.

    Args:
        bundle: has both models.
        config: the config of `first`.
        first: one of the models, compiled.
        frames: frames to measure with.
        seconds: approximate duration.

    Returns:
        (the faster model, figures of both).
    """
    detectors = {
        name: first if name == first.arithmetic else Detector(bundle, config.model_copy(update={"model": name}))
        for name in bundle.arithmetics
    }
    rounds = max(2, round(seconds / (COMPARE_TURN_S * len(detectors))))
    raw_ms: dict[Arithmetic, list[float]] = {name: [] for name in detectors}
    for index in range(rounds):
        for name in detectors if index % 2 == 0 else reversed(detectors):
            raw_ms[name] += _raw_turn(detectors[name], frames, seconds / (rounds * len(detectors)))
    faster = keep_faster(bundle, config, {name: float(np.median(values)) for name, values in raw_ms.items()})
    figures: dict[str, Any] = {
        name: {"pictures": len(values), "latency_ms": _percentiles(values)} for name, values in raw_ms.items()
    }
    return detectors[faster], figures


def as_table(report: dict[str, Any]) -> str:
    """The report for a person."""
    lines = [
        f"{report['bundle']['name']} {report['bundle']['version']} on {report['device']}, "
        f"{report['threads'] or 'default'} threads of {report['cpu_count']} CPUs, "
        f"frames {report['frame_wh'][0]}x{report['frame_wh'][1]}",
        "                      p50      p95      p99  ms    pictures/s",
    ]
    for name, figures in report["models"].items():
        chosen = "    chosen for this machine" if name == report["model"] else ""
        lines.append(f"{f'{name} model':<16} {_row(figures['latency_ms'])}{chosen}")
    for name, key in (("raw inference", "raw"), ("whole pipeline", "pipeline"), ("after 1 s idle", "after_1_s_idle")):
        latency_ms = report[key]["latency_ms"]
        rate = f"{report[key]['per_second']:12.1f}" if "per_second" in report[key] else ""
        lines.append(f"{name:<16} {_row(latency_ms)}    {rate}")
    for threads, one in report.get("by_threads", {}).items():
        name = "on 1 thread" if threads == "1" else f"on {threads} threads"
        idle = one["after_1_s_idle"]["latency_ms"]["p50"]
        rate = f"{one['per_second']:12.1f}   after 1 s idle {idle:.2f}"
        lines.append(f"{name:<16} {_row(one['latency_ms'])}    {rate}")
    energy = (
        "not available on this machine" if report["energy_j"] is None else f"{report['energy_j']:8.3f} J per picture"
    )
    lines += [
        f"energy           {energy}",
        f"pipeline / raw   {report['pipeline_to_raw']:8.1%}   (the pipeline's latency is from capture to result, under "
        "full load: it includes the wait for the model)",
        f"start-up         {report['start_up_s']:8.2f} s from process start to the first verdict",
        f"memory           {report['rss_mb']:8.0f} MB, at most {report['peak_rss_mb']:.0f} MB",
    ]
    return "\n".join(lines)


def _row(latency_ms: dict[str, float]) -> str:
    return " ".join(f"{latency_ms[p]:8.2f}" for p in ("p50", "p95", "p99"))


def _folder_on_the_spools_disk() -> Path | None:
    """The state folder: every result waits for an fsync there, and the folder for temporary files may be in memory.

    None if it cannot be written.
    """
    folder = default_state_dir()
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder if os.access(folder, os.W_OK) else None


def _by_threads(config: InferenceConfig, frames: Sequence[np.ndarray], seconds: float) -> dict[str, Any]:
    """Raw inference with one and two threads: in a loop without pauses, and one picture after an idle second."""
    bundle = load_bundle(config.bundle)
    detectors = {
        threads: Detector(bundle, config.model_copy(update={"threads": threads}))
        for threads in THREADS
        if threads <= (os.cpu_count() or 1)
    }
    rounds = max(1, round(seconds / (len(detectors) * (ROUND_S + IDLE_S))))
    raw_ms: dict[int, list[float]] = {threads: [] for threads in detectors}
    idle_ms: dict[int, list[float]] = {threads: [] for threads in detectors}
    for _ in range(rounds):
        for threads, detector in detectors.items():
            raw_ms[threads] += _raw_turn(detector, frames, min(ROUND_S, seconds))
            idle_ms[threads] += _idle_turn(detector, frames, 1)
    return {
        str(threads): {
            "pictures": len(raw_ms[threads]),
            "per_second": round(1000 * len(raw_ms[threads]) / sum(raw_ms[threads]), 2),
            "latency_ms": _percentiles(raw_ms[threads]),
            "after_1_s_idle": {"pictures": rounds, "latency_ms": _percentiles(idle_ms[threads])},
        }
        for threads in detectors
    }


def _with_energy(turn: Callable[[], None]) -> float | None:
    """Joules that the machine used during `turn`; None if they cannot be measured."""
    meter = EnergyMeter()
    turn()
    return meter.since_last_j()


def _raw_turn(detector: Detector, frames: Sequence[np.ndarray], seconds: float) -> list[float]:
    """Milliseconds of each inference, including resizing."""
    deadline_s = time.perf_counter() + seconds
    latencies_ms = []
    for frame in itertools.cycle(frames):
        started_s = time.perf_counter()
        detector.predict(frame)
        ended_s = time.perf_counter()
        latencies_ms.append((ended_s - started_s) * 1000)
        if ended_s >= deadline_s:
            break
    return latencies_ms


def _pipeline_turn(
    config: AgentConfig,
    models: ModelInUse,
    publisher: Publisher,
    frames: Sequence[np.ndarray],
    seconds: float,
) -> _Recorder:
    """One run of the real pipeline over frames in memory."""
    recorder = _Recorder()
    stop = threading.Event()
    slots_changed = threading.Condition()
    lines = make_stations(
        config,
        [MemorySource(frames, seconds)],
        [View()],
        models=models,
        publish_status=publisher.set_camera_status,
        slots_changed=slots_changed,
        stop=stop,
    )
    pipeline = Pipeline(stations=lines, slots_changed=slots_changed, store=publisher, sinks=[recorder], stop=stop)
    pipeline.start()
    while not pipeline.wait(1.0):
        pass
    if pipeline.failure is not None:
        raise RuntimeError(pipeline.failure)
    return recorder


def _idle_turn(detector: Detector, frames: Sequence[np.ndarray], count: int) -> list[float]:
    latencies_ms = []
    for index in range(count):
        time.sleep(IDLE_S)
        started_s = time.perf_counter()
        detector.predict(frames[index % len(frames)])
        latencies_ms.append((time.perf_counter() - started_s) * 1000)
    return latencies_ms


def _rate(recorders: Sequence[_Recorder]) -> float:
    """Results per second, from the first to the last of each run, without the start and stop of threads."""
    intervals = sum(len(recorder.done_s) - 1 for recorder in recorders)
    spent_s = sum(recorder.done_s[-1] - recorder.done_s[0] for recorder in recorders)
    return intervals / spent_s if spent_s > 0 else float("nan")


def _frames(count: int) -> list[np.ndarray]:
    """Smooth noise, uint8 [720, 1280, 3]: flat pictures would compress too well, white noise too badly."""
    width, height = FRAME_WH
    generator = np.random.default_rng(0)
    coarse = [generator.integers(60, 200, (height // 8, width // 8, 3), dtype=np.uint8) for _ in range(count)]
    return [cv2.resize(image, FRAME_WH, interpolation=cv2.INTER_CUBIC) for image in coarse]


def _percentiles(values_ms: Sequence[float]) -> dict[str, float]:
    return {f"p{p}": round(float(np.percentile(values_ms, p)), 3) for p in (50, 95, 99)}
