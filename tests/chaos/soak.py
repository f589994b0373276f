"""Watches a real agent at full speed for many frames: memory, files, threads and latency over time."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from judge import Judgement
from line import Line

WARM_UP = 0.1  # share of the run
FIFTHS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """Resources of the agent and its child processes."""

    share: float  # share of the run, by accepted results
    rss_mb: float
    fds: int
    threads: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Soak:
    frames: int
    seconds: float
    samples: Sequence[Sample]
    found: Judgement
    latency_ms: np.ndarray  # [frames], from capture to result, in the order of capture
    arrival_ms: np.ndarray  # [frames], from capture to subscriber

    @property
    def rss_growth(self) -> float:
        """Relative growth of the median from the tenth after the warm-up to the last tenth."""
        return self._median("rss_mb", 0.9, 1.0) / self._median("rss_mb", WARM_UP, 2 * WARM_UP) - 1

    def usual(self, what: str, fifth: int) -> int:
        """Median of `fds` or `threads` in a fifth of the run, 0 to 4. A reopened video briefly has two files open."""
        return int(self._median(what, fifth / FIFTHS, (fifth + 1) / FIFTHS))

    def percentiles_ms(self, fifth: int) -> tuple[float, float]:
        """p50 and p99 of the latency in a fifth of the run."""
        p50, p99 = np.percentile(np.array_split(self.latency_ms, FIFTHS)[fifth], (50, 99))
        return float(p50), float(p99)

    def __str__(self) -> str:
        (p50_before, p99_before), (p50, p99) = self.percentiles_ms(1), self.percentiles_ms(FIFTHS - 1)
        return (
            f"{self.frames} frames in {self.seconds:.0f} s; RSS {self._median('rss_mb', WARM_UP, 2 * WARM_UP):.1f} MB "
            f"after the warm-up, {100 * self.rss_growth:+.2f} % at the end; fds {self.usual('fds', 1)}, then "
            f"{self.usual('fds', FIFTHS - 1)}; threads {self.usual('threads', 1)}, then "
            f"{self.usual('threads', FIFTHS - 1)}; latency p50/p99 of the second fifth "
            f"{p50_before:.1f}/{p99_before:.1f} ms, of the last {p50:.1f}/{p99:.1f} ms; to the subscriber p50/p99 "
            f"{np.percentile(self.arrival_ms, 50):.1f}/{np.percentile(self.arrival_ms, 99):.1f} ms"
        )

    def _median(self, what: str, first: float, last: float) -> float:
        return float(np.median([getattr(s, what) for s in self.samples if first <= s.share <= last]))


def run_soak(folder: Path, bundle: Path, video: Path, frames: int, *, every_s: float) -> Soak:
    """Runs `frames` frames through an agent and samples its resources every `every_s` seconds."""
    with Line(folder, bundle, video, frames) as line:
        line.start_agent()
        line.await_accepted(1)
        process, started_s = psutil.Process(line.agent.pid), time.monotonic()
        samples = []
        while line.accepted < frames and line.agent.running:
            sample = _sample(process, line.accepted / frames)
            if sample is not None:
                samples.append(sample)
            time.sleep(every_s)
        seconds = time.monotonic() - started_s
        found = line.finish()
        results = sorted(line.results, key=lambda result: result.seq)
    return Soak(
        frames=frames,
        seconds=seconds,
        samples=samples,
        found=found,
        latency_ms=np.array([result.message["latency_ms"]["capture_to_result"] for result in results]),
        arrival_ms=np.array([1000 * (result.at_s - result.captured_s) for result in results]),
    )


def _sample(process: psutil.Process, share: float) -> Sample | None:
    try:
        family = [process, *process.children(recursive=True)]
        return Sample(
            share=share,
            rss_mb=sum(one.memory_info().rss for one in family) / 1e6,
            fds=sum(one.num_fds() for one in family),
            threads=sum(one.num_threads() for one in family),
        )
    except psutil.Error:  # the process has just ended
        return None
