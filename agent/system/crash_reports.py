"""Crash reports in `<state>/crash/`, for the developers.

An unhandled exception becomes `<UTC time>-<pid>.txt`. A crash in native code leaves the Python stacks in
`fatal.log`, which becomes such a report at the next start. A process that was killed leaves nothing.
"""

import contextlib
import faulthandler
import fcntl
import json
import logging
import os
import platform
import secrets
import sys
import threading
import time
import traceback
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from zsad_agent.system.logs import TextFormatter
from zsad_agent.system.text import one_line
from zsad_core.bundle import installed_version
from zsad_core.redaction import redacted_text, redacted_values

logger = logging.getLogger(__name__)

MAX_REPORTS = 20
MAX_REPORTS_PER_RUN = 5  # a thread that dies again and again must not replace the other reports
MAX_SUMMARY = 300  # characters of the line about the error
MAX_TRACEBACK = 100_000  # characters
LOG_RECORDS = 200
MAX_RECORD = 2000  # characters of one of them
PACKAGES = ("zsad-agent", "openvino", "opencv-python-headless", "numpy", "paho-mqtt", "pydantic")
HEAD_ENDS = "-- stacks of a crash in native code follow --\n"


class CrashReports:
    """The crash reports of one process. If nothing can be written, every method does nothing."""

    def __init__(self, state_dir: Path, config: dict[str, Any]) -> None:
        """Opens nothing yet. `config`, as JSON values, is shown in the reports, redacted."""
        self._folder = state_dir / "crash"
        self._config = redacted_values(config)
        self._run = secrets.token_hex(8)  # identifies the run: the clock may be wrong and a pid is reused
        self._started_s = time.monotonic()
        self._head = ""
        self._ring = _RingHandler()
        self._written = 0
        self._fatal: BinaryIO | None = None
        self.last_crash: str | None = None  # one line about a crash of the last run: `the last run ended with …`

    def install(self) -> None:
        """Activates the reports of this process. Call it after the log is configured."""
        versions = ", ".join(f"{name} {installed_version(name) or 'not installed'}" for name in PACKAGES)
        self._head = (
            f"run: {self._run}\npid: {os.getpid()}\nstarted: {datetime.now(UTC).isoformat()}\n"
            f"versions: python {platform.python_version()}, {versions}\nplatform: {platform.platform()}\n"
        )
        logging.getLogger().addHandler(self._ring)
        self._hook()
        with contextlib.suppress(OSError):
            self._folder.mkdir(0o700, parents=True, exist_ok=True)
            self._open_fatal()
            self._keep_newest()
        with contextlib.suppress(OSError, ValueError, RuntimeError):  # stderr may be closed
            faulthandler.enable(self._fatal or sys.stderr)  # the journal keeps stderr

    def record(self, error: BaseException, where: str) -> None:
        """Writes a report on an exception that ends the run, or the thread named `where`. Never raises."""
        with contextlib.suppress(Exception):  # the original error is more important and must still be reported
            if self._written >= MAX_REPORTS_PER_RUN:
                return
            self._written += 1
            what = one_line(redacted_text(f"{type(error).__name__}: {error}"), MAX_SUMMARY)
            text = [
                f"ended with: {what} (in {where})\n",
                self._head,
                f"at: {datetime.now(UTC).isoformat()}, after {time.monotonic() - self._started_s:.1f} s\n\n",
                redacted_text("".join(traceback.format_exception(error)))[-MAX_TRACEBACK:],
                "\nlast log records:\n",
                *(f"{line}\n" for line in list(self._ring.lines)),
                f"\nconfig: {json.dumps(self._config, indent=1, default=str)}\n",
            ]
            path = self._folder / _report_name(os.getpid())
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write("".join(text).encode("utf-8", "backslashreplace"))
            self._keep_newest(path)

    def _hook(self) -> None:
        """Replaces Python's hooks, which write the credentials in an exception's text to stderr."""
        process_hook = sys.excepthook

        def on_process(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
            if issubclass(kind, KeyboardInterrupt):
                process_hook(kind, error, trace)
            else:
                report(error, "the main thread")

        def on_thread(args: threading.ExceptHookArgs) -> None:
            if args.exc_value is not None and not issubclass(args.exc_type, SystemExit):
                report(args.exc_value, f"thread {args.thread.name if args.thread else 'unknown'}")

        def report(error: BaseException, where: str) -> None:
            self.record(error, where)
            logger.critical("unhandled exception in %s", where, exc_info=error)

        sys.excepthook, threading.excepthook = on_process, on_thread

    def _open_fatal(self) -> None:
        """Opens `fatal.log` and reads the last run's, unless another agent uses the same folder."""
        path = self._folder / "fatal.log"
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        file = os.fdopen(os.open(path, flags, 0o600), "r+b", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left = file.read().decode("utf-8", "replace")
            head, _, stacks = left.partition(HEAD_ENDS)
            self.last_crash = self._look_back(head, stacks)
            file.truncate(0)
            file.write(f"{self._head}{HEAD_ENDS}".encode())
        except OSError:
            file.close()
            raise
        self._fatal = file

    def _look_back(self, head: str, stacks: str) -> str | None:
        fields = dict(line.split(": ", 1) for line in head.splitlines() if ": " in line)
        if stacks.strip():
            what = stacks.strip().splitlines()[0].strip()
            if what.endswith("Aborted"):  # SIGABRT
                what += " (sent by a watchdog such as systemd's WatchdogSec to a process that hangs, or by native code)"
            path = self._folder / _report_name(fields.get("pid", "unknown"))
            path.touch(0o600, exist_ok=False)
            path.write_text(f"ended with: {what}\n{head}\n{stacks}", encoding="utf-8")
            return f"the last run ended with {what}, see {path}"
        run = fields.get("run")
        for path in reversed(self._reports()) if run else ():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[:10]
            if f"run: {run}" in lines:
                return f"the last run ended with {lines[0].removeprefix('ended with: ')}, see {path}"
        return None

    def _reports(self) -> list[Path]:  # the oldest first
        return sorted(self._folder.glob("[0-9]*Z-*.txt"))

    def _keep_newest(self, new: Path | None = None) -> None:
        """Deletes the oldest reports, but never `new`: the clock may not be set, so its name may be the oldest."""
        others = [path for path in self._reports() if path != new]
        for path in others[: max(0, len(others) + (new is not None) - MAX_REPORTS)]:
            path.unlink(missing_ok=True)


class _RingHandler(logging.Handler):
    """Keeps the last records as text, because their arguments may be large, such as images."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[str] = deque(maxlen=LOG_RECORDS)
        self.setFormatter(TextFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.lines.append(self.format(record)[:MAX_RECORD])
        except Exception:  # as in every handler: a record that cannot be formatted must not stop the caller
            self.handleError(record)


def _report_name(pid: object) -> str:
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}Z-{pid}.txt"
