"""`zsad-agent bench`: the speed of the model alone and of the whole pipeline."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from zsad_agent import inspection, model, mqtt, sources, spool
from zsad_agent.system import (
    EnergyMeter,
    configure_logging,
    give_back_memory,
    keep_memory_small,
    process_age_s,
    status_mb,
)
from zsad_agent.tools.flags import (
    add_model_flags,
    add_profile_flags,
    command_parser,
    count,
    model_config,
    profile_store,
)

if TYPE_CHECKING:  # numpy and pydantic take longer than parsing
    import numpy as np

    from zsad_agent.config import AgentConfig, InferenceConfig
    from zsad_agent.messages import Result
    from zsad_agent.teaching import ProfileStore
    from zsad_core.bundle import Bundle

FRAME_WH = (1280, 720)
FRAMES = 8
IDLE_S = 1.0  # between two pictures of a slow triggered line
IDLE_SHARE = 0.2  # share of the time for that pattern
THREADS = (1, 2)  # each measured separately, unless a number was requested
LEVEL_SHARE = 0.2  # share of the time for the levels of a taught product
COMPARE_SHARE = 0.3  # share of the time to compare a bundle's two models
COMPARE_TURN_S = 0.5
ROUND_S = 2.0  # raw and pipeline alternate in rounds of about this length, so that load affects both
K = TypeVar("K")
NO_BROKER = "mqtt://127.0.0.1:1"  # nothing listens there: results stay in the spool, as on a line without network


def main(arguments: list[str]) -> int:
    """Measures speed and prints the figures."""
    parser = command_parser(
        "bench",
        "Measures raw inference and the whole pipeline in turns: latency in milliseconds, pictures per "
        "second, seconds from process start to the first verdict, memory in MB.",
        examples="zsad-agent bench\nzsad-agent bench --bundle zsad-tiny --threads 2 --seconds 60 --json",
    )
    add_model_flags(parser)
    add_profile_flags(parser)
    parser.add_argument("--seconds", type=float, default=20.0, metavar="S", help="total time; default 20")
    parser.add_argument("--threads", type=count, metavar="N", help="CPU threads; default: OpenVINO's choice")
    parser.add_argument("--device", default="CPU", help="OpenVINO device; default CPU")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    args = parser.parse_args(arguments)
    if not 1 <= args.seconds <= 86_400:
        parser.error(f"--seconds: {args.seconds} is not between 1 and 86400")
    configure_logging("ERROR")
    keep_memory_small()  # as in the daemon

    from zsad_agent.config import default_state_dir

    config = model_config(args, device=args.device, threads=args.threads)
    report = run_bench(config, default_state_dir(), seconds=args.seconds)
    print(json.dumps(report) if args.json else as_table(report))
    return 0


class MemorySource(contextlib.AbstractContextManager["MemorySource"]):
    """Repeats the same few frames without decoding, until the deadline."""

    description = "frames in memory"
    lossless, endless = True, False

    def __init__(self, seconds: float) -> None:
        self._frames = itertools.cycle(_frames())
        self._deadline_s = time.monotonic() + seconds

    def __exit__(self, *_: object) -> None:
        pass

    def read(self) -> sources.Picture | None:
        """A copy of the next frame; None after the deadline."""
        return sources.Picture(image=next(self._frames).copy()) if time.monotonic() < self._deadline_s else None


class _Recorder(list[tuple[float, "Result"]]):
    """A sink that keeps the results, each with the time when it was done, in seconds."""

    def accept(self, result: Result, heatmap: bytes | None) -> None:
        self.append((time.monotonic(), result))


def run_bench(config: AgentConfig, state_dir: Path, *, seconds: float) -> dict[str, Any]:
    """Measures for about `seconds` and returns the report for `--json`; keys end in their unit.

    Args:
        config: the bundle, product, device and threads.
        state_dir: every result of the pipeline waits for an fsync there, as in the daemon. Where it cannot be written,
            the spool is in the folder for temporary files.
        seconds: of all measurements together.

    Raises:
        ZsadError: the bundle, product or device cannot be used.
    """
    import cv2

    from zsad_agent.teaching import is_new, naming_taught
    from zsad_core.bundle import GENERIC_PRODUCT, load_bundle

    cv2.setNumThreads(1)  # as in the daemon
    inference, product = config.inference, config.inference.product
    bundle = load_bundle(inference.bundle)
    store = profile_store(config, state_dir)
    known = bundle.manifest.products
    may_be_new = store is not None and (store.has(product) or is_new(product, known, store))
    if may_be_new and product not in known:
        inference = inference.model_copy(update={"product": GENERIC_PRODUCT})
        config = config.model_copy(update={"inference": inference})
    with naming_taught(inference.product, known, store):
        detector = model.Detector(bundle, inference)
    detector.predict(_frames()[0])
    start_up_s = process_age_s()
    compared: dict[str, Any] = {}
    if len(bundle.arithmetics) > 1 and inference.model == "auto":
        detector, compared = _faster(bundle, inference, detector, COMPARE_SHARE * seconds)
        seconds *= 1 - COMPARE_SHARE
    bundle = bundle.without_model()
    give_back_memory()
    raw_ms, spent_j, recorders = _alternate(config, model.Model(bundle=bundle, predictor=detector), state_dir, seconds)
    raw_rate, pipeline_rate = _raw_rate(raw_ms), _rate(recorders)
    idle_ms = _turn(detector, IDLE_SHARE * seconds, IDLE_S)
    report: dict[str, Any] = {
        "bundle": {"name": bundle.manifest.name, "version": bundle.manifest.version, "sha256": bundle.sha256},
        "device": inference.device,
        "threads": inference.threads,
        "precision": inference.precision,
        "model": detector.arithmetic,
        "models": compared,
        "cpu_count": os.cpu_count(),
        "frame_wh": list(FRAME_WH),
        "start_up_s": round(start_up_s, 3),
        "raw": {**_figures(raw_ms), "per_second": round(raw_rate, 2)},
        "energy_j": round(sum(spent_j) / len(raw_ms), 4) if spent_j else None,  # per picture, of the whole machine
        "pipeline": {
            **_figures([result.latency_ms.capture_to_result or 0.0 for _, result in itertools.chain(*recorders)]),
            "per_second": round(pipeline_rate, 2),
        },
        "pipeline_to_raw": round(pipeline_rate / raw_rate, 3),
        "after_1_s_idle": _figures(idle_ms),
        "rss_mb": status_mb("VmRSS"),
        "peak_rss_mb": status_mb("VmHWM"),
    }
    if inference.threads is None and inference.device == "CPU":  # last, because it needs more memory
        measured = inference.model_copy(update={"model": detector.arithmetic})
        report["by_threads"] = _by_threads(measured, IDLE_SHARE * seconds)
    asked = inference.model_copy(update={"product": product})
    report["levels"] = _by_levels(bundle, detector, asked, store, LEVEL_SHARE * seconds)
    return report


def _by_levels(
    bundle: Bundle, detector: model.Detector, config: InferenceConfig, store: ProfileStore | None, seconds: float
) -> list[dict[str, Any]]:
    """What a picture of a taught product takes with each number of scales, beside zero-shot alone."""
    from zsad_agent.tools.bench_levels import levels_of

    levels = levels_of(bundle, detector, config, store, _frames())
    each_s = seconds / max(1, len(levels))
    found = []
    for level in levels:
        level.predictor.predict(level.pictures[0])  # creates the kernels
        measured_ms = _turn(level.predictor, each_s, frames=level.pictures)
        found.append({"scales": list(level.scales), **_figures(measured_ms)})
    return found


def _alternate(
    config: AgentConfig, loaded: model.Model, state_dir: Path, seconds: float
) -> tuple[list[float], list[float], list[_Recorder]]:
    """Raw inference and the whole pipeline in turns.

    Returns:
        (milliseconds of each raw inference, joules of each raw turn that could be measured, pipeline turns).
    """
    models = model.ModelInUse(loaded)
    rounds = max(1, round((1 - IDLE_SHARE) * seconds / (2 * ROUND_S)))
    turn_s = (1 - IDLE_SHARE) * seconds / (2 * rounds)
    raw_ms: list[float] = []
    spent_j: list[float] = []
    recorders: list[_Recorder] = []
    meter = EnergyMeter()
    with contextlib.suppress(OSError):
        state_dir.mkdir(parents=True, exist_ok=True)
    on_disk = state_dir if os.access(state_dir, os.W_OK) else None  # temporary files may be in memory
    with tempfile.TemporaryDirectory(prefix="bench-", dir=on_disk) as folder:
        away = config.mqtt.model_copy(update={"broker": NO_BROKER})
        limits = config.spool
        kept = spool.Spool(Path(folder) / "spool.sqlite3", max_results=limits.max_results, fsync=limits.fsync)
        with kept, mqtt.Publisher(away, config.device_id, kept) as publisher:
            for _ in range(rounds):
                meter.since_last_j()
                raw_ms += _turn(loaded.predictor, turn_s)
                if (joules := meter.since_last_j()) is not None:
                    spent_j.append(joules)
                recorders.append(_pipeline_turn(config, models, publisher, turn_s))
    return raw_ms, spent_j, recorders


def _faster(
    bundle: Bundle, config: InferenceConfig, first: model.Detector, seconds: float
) -> tuple[model.Detector, dict[str, Any]]:
    """Measures both models of a bundle in turns, and stores which is faster for later starts on this machine.

    `first` is one of them, compiled with `config`. Returns the faster model and the figures of both.
    """
    detectors = {
        name: first if name == first.arithmetic else model.Detector(bundle, config.model_copy(update={"model": name}))
        for name in bundle.arithmetics
    }
    rounds = max(2, round(seconds / (COMPARE_TURN_S * len(detectors))))
    raw_ms = _in_turns(detectors, rounds, seconds / (rounds * len(detectors)))
    faster = model.keep_faster(bundle, config, {name: statistics.median(ms) for name, ms in raw_ms.items()})
    return detectors[faster], {name: _figures(ms) for name, ms in raw_ms.items()}


def _by_threads(config: InferenceConfig, seconds: float) -> dict[str, Any]:
    """Raw inference with one and two threads: in a loop without pauses, and one picture after an idle second."""
    from zsad_core.bundle import load_bundle

    bundle = load_bundle(config.bundle)
    detectors = {
        threads: model.Detector(bundle, config.model_copy(update={"threads": threads}))
        for threads in THREADS
        if threads <= (os.cpu_count() or 1)
    }
    rounds = max(1, round(seconds / (len(detectors) * (ROUND_S + IDLE_S))))
    raw_ms = _in_turns(detectors, rounds, min(ROUND_S, seconds))
    idle_ms = _in_turns(detectors, rounds, 0.0, IDLE_S)
    return {
        str(threads): {
            **_figures(raw_ms[threads]),
            "per_second": round(_raw_rate(raw_ms[threads]), 2),
            "after_1_s_idle": _figures(idle_ms[threads]),
        }
        for threads in detectors
    }


def _in_turns(
    detectors: dict[K, model.Detector], rounds: int, seconds: float, pause_s: float = 0.0
) -> dict[K, list[float]]:
    """The milliseconds of each detector, which have one turn in each round, in alternating order."""
    measured_ms: dict[K, list[float]] = {key: [] for key in detectors}
    for index in range(rounds):
        for key in detectors if index % 2 == 0 else reversed(detectors):
            measured_ms[key] += _turn(detectors[key], seconds, pause_s)
    return measured_ms


def _turn(
    predictor: model.Predictor, seconds: float, pause_s: float = 0.0, frames: Sequence[np.ndarray] = ()
) -> list[float]:
    """Milliseconds of each inference, including resizing, for about `seconds`, at least one. Pauses before each."""
    end_s = time.perf_counter() + seconds
    latencies_ms: list[float] = []
    for frame in itertools.cycle(frames or _frames()):
        time.sleep(pause_s)
        started_s = time.perf_counter()
        predictor.predict(frame)
        ended_s = time.perf_counter()
        latencies_ms.append((ended_s - started_s) * 1000)
        if ended_s >= end_s:
            break
    return latencies_ms


def _pipeline_turn(
    config: AgentConfig, models: model.ModelInUse, publisher: mqtt.Publisher, seconds: float
) -> _Recorder:
    """One run of the real pipeline over frames in memory."""
    recorder = _Recorder()
    stop, slots_changed = threading.Event(), threading.Condition()
    stations = inspection.make_stations(
        config,
        [MemorySource(seconds)],
        [inspection.View()],
        models=models,
        publish_status=publisher.set_camera_status,
        slots_changed=slots_changed,
        stop=stop,
    )
    pipeline = inspection.Pipeline(
        stations=stations, slots_changed=slots_changed, store=publisher, sinks=[recorder], stop=stop
    )
    pipeline.start()
    while not pipeline.wait(1.0):
        pass
    if pipeline.failure is not None:
        raise RuntimeError(pipeline.failure)
    return recorder


def _rate(recorders: Sequence[_Recorder]) -> float:
    """Results per second, from the first to the last of each run, without the start and stop of threads."""
    intervals = sum(len(recorder) - 1 for recorder in recorders)
    spent_s = sum(recorder[-1][0] - recorder[0][0] for recorder in recorders)
    return intervals / spent_s if spent_s > 0 else float("nan")


def _raw_rate(latencies_ms: Sequence[float]) -> float:
    """Pictures per second."""
    return 1000 * len(latencies_ms) / sum(latencies_ms)


@functools.cache
def _frames() -> list[np.ndarray]:
    """Smooth noise, uint8 [720, 1280, 3]: flat pictures would compress too well, white noise too badly."""
    import cv2
    import numpy as np

    width, height = FRAME_WH
    generator = np.random.default_rng(0)
    coarse = [generator.integers(60, 200, (height // 8, width // 8, 3), dtype=np.uint8) for _ in range(FRAMES)]
    return [cv2.resize(image, FRAME_WH, interpolation=cv2.INTER_CUBIC) for image in coarse]


def _figures(latencies_ms: Sequence[float]) -> dict[str, Any]:
    import numpy as np

    percentiles = {f"p{p}": round(float(np.percentile(latencies_ms, p)), 3) for p in (50, 95, 99)}
    return {"pictures": len(latencies_ms), "latency_ms": percentiles}


def as_table(report: dict[str, Any]) -> str:
    """The report for a person."""
    lines = [
        f"{report['bundle']['name']} {report['bundle']['version']} on {report['device']}, "
        f"{report['threads'] or 'default'} threads of {report['cpu_count']} CPUs, "
        f"frames {report['frame_wh'][0]}x{report['frame_wh'][1]}",
        "                      p50      p95      p99  ms    pictures/s",
    ]
    for name, figures in report["models"].items():
        chosen = "chosen for this machine" if name == report["model"] else ""
        lines.append(_row(f"{name} model", figures, chosen))
    lines.append(_row("raw inference", report["raw"]))
    lines.append(_row("whole pipeline", report["pipeline"]))
    lines.append(_row("after 1 s idle", report["after_1_s_idle"]))
    for threads, figures in report.get("by_threads", {}).items():
        idle = f"after 1 s idle {figures['after_1_s_idle']['latency_ms']['p50']:.2f}"
        lines.append(_row(f"on {threads} thread{'' if threads == '1' else 's'}", figures, idle))
    for level in report["levels"]:
        lines.append(_row("taught", level, f"scales: {', '.join(level['scales'])}"))
    energy_j = report["energy_j"]
    lines += [
        f"energy           {'not available here' if energy_j is None else f'{energy_j:8.3f} J per picture'}",
        f"pipeline / raw   {report['pipeline_to_raw']:8.1%}   (the pipeline's latency is from capture to result, under "
        "full load: it includes the wait for the model)",
        f"start-up         {report['start_up_s']:8.2f} s from process start to the first verdict",
        f"memory           {report['rss_mb']:8.0f} MB, at most {report['peak_rss_mb']:.0f} MB",
    ]
    return "\n".join(lines)


def _row(name: str, figures: dict[str, Any], note: str = "") -> str:
    latency = " ".join(f"{figures['latency_ms'][p]:8.2f}" for p in ("p50", "p95", "p99"))
    rate = f"{figures['per_second']:12.1f}   " if "per_second" in figures else ""
    return f"{name:<16} {latency}    {rate}{note}".rstrip()
