"""The processes of `speed.py`: one per contender, and the agent itself."""

import contextlib
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from speed_parts.contenders import PICTURES, Contender
from speed_parts.report import Row, spread, summarise

from zsad_agent.system import status_mb

AGENT_PICTURES = 50  # the agent's memory is read after this number of images
NO_BROKER = "mqtt://127.0.0.1:1"  # no broker listens there, so results stay in the spool


class NotRunError(Exception):
    """A process ended instead of answering; the text is the last line of its log."""


class Process:
    """A child process that writes its answers as lines. It is killed at the end."""

    def __init__(
        self,
        command: list[str],
        *,
        folder: Path,
        log: Path,
        environment: Mapping[str, str],
        python: str = sys.executable,
    ) -> None:
        self._log = log
        with log.open("w") as stderr:
            self._child = subprocess.Popen(
                [python, *command],
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        self.started_s = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kills the process."""
        self._child.kill()
        self._child.communicate()

    @property
    def rss_mb(self) -> float:
        return status_mb("VmRSS", self._child.pid)

    def line(self) -> str:
        """The next line from the process.

        Raises:
            NotRunError: the process has ended.
        """
        assert self._child.stdout is not None
        if line := self._child.stdout.readline():
            return line
        code = self._child.wait()
        told = [text.strip() for text in self._log.read_text(errors="replace").splitlines() if text.strip()]
        raise NotRunError(f"{told[-1][:300] if told else 'empty log'} (exit code {code})")

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Sends a question and returns the answer."""
        assert self._child.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the process has ended; `line` reports the reason
            self._child.stdin.write(json.dumps(question) + "\n")
            self._child.stdin.flush()
        return json.loads(self.line())


def unless_failed(step: Callable[..., None]) -> Callable[..., None]:
    """Wraps a step of a runner: skips it after an earlier failure, and records its own failure in the row."""

    @functools.wraps(step)
    def wrapped(runner: "Runner", *args: Any) -> None:
        if runner.row["error"] is None:
            try:
                step(runner, *args)
            except NotRunError as error:
                runner.row["error"] = str(error)

    return wrapped


class Runner:
    """One contender: it is built once; for each number of threads it is started, takes its turns and is stopped.

    After a failure `row` has the error, and the remaining steps are skipped.
    """

    def __init__(self, contender: Contender, work: Path, environment: Mapping[str, str], *, isa: str | None) -> None:
        self.contender = contender
        self._folder = work / contender.name
        self._run_folder = self._folder / f"run-{isa or 'any'}"  # compiled models of one instruction set
        self._environment = dict(environment)
        what = os.path.relpath(contender.what) if contender.kind == "bundle" else contender.what
        self._built: Row = {"name": contender.name, "kind": contender.kind, "what": what, "error": None}
        self._worker: Process | None = None
        self._starts_s: list[float] = []
        self._turns: list[dict[str, Any]] = []
        self.row: Row = self._built

    @unless_failed
    def build(self) -> None:
        """Builds the contender and counts its FLOP."""
        self._run_folder.mkdir(parents=True, exist_ok=True)
        for action in ("build", "cost"):
            with self._process(action) as process:
                self._built |= json.loads(process.line())

    def start(self, threads: int, starts: int) -> None:
        """Starts it once to fill the cache with its compiled model, then `starts` times; the last process stays."""
        self.row = self._built | {"threads": threads}
        self._starts_s, self._turns = [], []
        self._start(threads, starts)

    @unless_failed
    def _start(self, threads: int, starts: int) -> None:
        self._first_verdict_s(threads)
        self._starts_s = [self._first_verdict_s(threads) for _ in range(starts - 1)]
        if self.contender.kind == "bundle":
            self.row["agent"] = self._measure_agent(threads, starts)
        self._worker = self._process("serve", threads)
        self._starts_s.append(json.loads(self._worker.line())["first_verdict_s"])

    @unless_failed
    def take_turn(self, seconds: float, gaps: int) -> None:
        """Runs one turn, see `speed_parts.worker.turn`."""
        assert self._worker is not None
        self._turns.append(self._worker.ask({"seconds": seconds, "gaps": gaps}))

    def stop(self) -> Row:
        """Kills the process and returns the row with the results."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None
        if self.row["error"] is None:
            self.row |= summarise(self._turns, self._starts_s)
        return self.row

    def _first_verdict_s(self, threads: int) -> float:
        with self._process("serve", threads) as process:
            return json.loads(process.line())["first_verdict_s"]

    def _measure_agent(self, threads: int, starts: int) -> dict[str, Any]:
        """Memory and first verdict of `zsad-agent` itself, on the demo's images at 25 fps."""
        config = self._run_folder / "agent.yaml"
        config.write_text(f"inference: {{threads: {threads}, bundle: {json.dumps(self.contender.what)}}}\n")
        folders = {name: str(self._run_folder / "agent") for name in ("STATE_DIRECTORY", "CACHE_DIRECTORY")}
        command = ["-m", "zsad_agent.cli", "--config", str(config), "--source", str(PICTURES), "--loop", "--fps", "25"]
        command += ["--broker", NO_BROKER, "--print-results"]
        first_s, rss_mb = [], []
        for _ in range(starts + 1):
            with Process(
                command,
                folder=self._run_folder,
                log=self._run_folder / "agent.log",
                environment=self._environment | folders,
            ) as agent:
                agent.line()
                first_s.append(time.monotonic() - agent.started_s)
                for _ in range(AGENT_PICTURES - 1):
                    agent.line()
                rss_mb.append(agent.rss_mb)
        return {"first_verdict_s": spread(first_s[1:]), "rss_mb": max(rss_mb)}  # the first start may compile

    def _process(self, action: str, threads: int = 1) -> Process:
        command = ["-m", "speed_parts.worker", self.contender.as_json(), str(self._folder), action, str(threads)]
        return Process(
            command,
            folder=self._run_folder,  # Anomalib keeps compiled models in the current folder
            log=self._run_folder / f"{action}.log",
            environment=self._environment | {"OMP_NUM_THREADS": str(threads)},
        )
