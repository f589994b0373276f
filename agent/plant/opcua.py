"""The OPC UA server of `opcua_server` as a service: starts its process, joins it to the handshakes, restarts it."""

import contextlib
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from zsad_agent.plant.handshake import Handshake
from zsad_agent.plant.signals import Inputs, Outputs
from zsad_agent.system import RestartingService, one_line
from zsad_core.errors import ZsadError

logger = logging.getLogger(__name__)

DOOR = "opcua"
POLL_S = 0.01  # between two looks at the signals for the PLC
MOST_CHARACTERS = 300  # of a line of the log
MOST_LINES = 20  # of the process in a minute; a client that sends nonsense would fill the log
END_S = 1.0  # for the process to end by itself
REMIND_S = 3600.0  # between two warnings that there are no certificates


class OpcUaServer(RestartingService):
    """Owns a thread and a process. A process that ends is started again."""

    name = DOOR
    stop_s = 1.0

    def __init__(
        self,
        machines: Sequence[Handshake],
        cameras: Sequence[str],
        host: str,
        port: int,
        *,
        programs: Sequence[str],
        folder: Path,
        certificates: bool,
    ) -> None:
        """Starts nothing.

        Args:
            machines: one for each of `cameras`.
            cameras: their names.
            host: an address of this machine, without brackets.
            port: its port.
            programs: products; the first is program 1.
            folder: of the own certificate, and of the clients' `trusted` and `rejected` ones.
            certificates: whether only encrypted connections with a trusted certificate are accepted.
        """
        super().__init__("zsad-opcua", place=f"opc.tcp://{host}:{port}/zsad")
        self._machines = machines
        self._options = {
            "host": host,
            "port": port,
            "cameras": list(cameras),
            "programs": list(programs),
            "folder": str(folder),
            "certificates": certificates,
        }
        self._certificates = certificates
        self._process: subprocess.Popen[str] | None = None

    def stop(self, deadline_s: float) -> None:
        self._stop.set()
        self._wait(deadline_s)
        if self._process is not None:
            self._process.kill()

    def _work(self) -> None:
        try:
            said = self._serve()
        finally:
            for machine in self._machines:
                machine.write(DOOR, Inputs())
        raise ZsadError(f"its process has ended: {said}")

    def _serve(self) -> str:
        """Runs one process until it or the service ends. Returns the last line of its errors."""
        command = [sys.executable, "-P", "-m", "zsad_agent.plant.opcua_server"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            self._process = process
            assert process.stdin is not None and process.stdout is not None and process.stderr is not None
            errors: list[str] = []
            readers = [
                threading.Thread(target=self._read, args=(process.stdout,), name="zsad-opcua-in", daemon=True),
                threading.Thread(target=_log, args=(process.stderr, errors), name="zsad-opcua-log", daemon=True),
            ]
            for reader in readers:
                reader.start()
            with contextlib.suppress(OSError):  # the process has ended
                self._feed(process, process.stdin)
            with contextlib.suppress(OSError):
                process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_S if self._stop.is_set() else 0.1)
            process.kill()
            for reader in readers:
                reader.join(END_S)
        return errors[-1] if errors else f"exit code {process.returncode}"

    def _feed(self, process: "subprocess.Popen[str]", stdin: IO[str]) -> None:
        """Sends the options, then the signals of each camera whenever they change."""
        stdin.write(json.dumps(self._options) + "\n")
        stdin.flush()
        sent: list[Outputs | None] = [None] * len(self._machines)
        remind_s = time.monotonic()
        while process.poll() is None and not self._stop.wait(POLL_S):
            for number, machine in enumerate(self._machines):
                outputs = machine.outputs
                if outputs != sent[number]:
                    stdin.write(json.dumps({"camera": number, "outputs": asdict(outputs)}) + "\n")
                    sent[number] = outputs
            stdin.flush()
            if not self._certificates and time.monotonic() >= remind_s:
                remind_s += REMIND_S
                logger.warning("opcua: plant.opcua.certificates is false: anybody in its network controls the line")

    def _read(self, stdout: IO[str]) -> None:
        for line in stdout:
            message: dict[str, Any] = json.loads(line)
            if message.get("listening"):
                self._works()
            elif message.get("clients"):
                for machine in self._machines:
                    machine.touch(DOOR)
            else:
                machine = self._machines[message["camera"]]
                machine.touch(DOOR)
                machine.write(DOOR, Inputs(**message["inputs"]))


def _log(stderr: IO[str], errors: list[str]) -> None:
    """Logs what the process says, and keeps the last line."""
    minute, lines = 0, 0
    for line in stderr:
        if not line.strip():
            continue
        errors[:] = [one_line(line, MOST_CHARACTERS)]
        if minute != (minute := int(time.monotonic() / 60)):
            lines = 0
        lines += 1
        if lines <= MOST_LINES:
            logger.warning("opcua: %s%s", errors[0], " (no further lines in this minute)" * (lines == MOST_LINES))
