"""A production line for the chaos tests: an agent on an endless video, a broker, a witness, and faults of all three."""

import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import takewhile
from pathlib import Path
from typing import Self

import cv2
import numpy as np
from agent_process import AgentProcess
from judge import Judgement, Received, judge, read_results, recovery_s
from mosquitto_broker import MosquittoBroker, free_port
from namespace import Namespace
from witness import Witness

FAST = "heatmap:\n  enabled: false\n"
PATIENCE_S = 90.0  # for sending a backlog on a busy machine
WITNESSED = "max_inflight_messages 0"  # the broker sends everything to a connected witness


def write_small_video(path: Path, frames: int = 500, side: int = 64) -> Path:
    """Images of grainy parts, `side` x `side` pixels, every fifth with a dark blot. Small images are fast to decode."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (side, side))
    assert writer.isOpened()
    grain = np.random.default_rng(0).integers(0, 40, (side, side, 3), dtype=np.uint8)
    for index in range(frames):
        image = 250 - grain
        if index % 5 == 0:
            image[side // 4 : side // 2, side // 4 : side // 2] = 0
        writer.write(image)
    writer.release()
    return path


class Line:
    """Runs until `total` results are accepted, with as many starts of the agent as needed.

    Args:
        folder: for all files.
        bundle: see `tiny_bundle_maker`.
        video: see `write_small_video`.
        total: number of results.
        persistent: the broker keeps its state over a restart.
        settings: sections of the agent's config.
        broker_lines: lines of the broker's config.
        network: network of the agent, separate from the broker's.
    """

    def __init__(
        self,
        folder: Path,
        bundle: Path,
        video: Path,
        total: int,
        *,
        persistent: bool = True,
        settings: str = FAST,
        broker_lines: str = "",
        network: Namespace | None = None,
    ) -> None:
        self._folder, self._bundle, self._video = folder, bundle, video
        self.total = total
        self._settings = settings
        self._stack = ExitStack()
        self._agents: list[AgentProcess] = []
        self.persistent = persistent
        port = free_port()
        lines = [WITNESSED, broker_lines]
        if network is not None:
            lines.append(f"listener {port} {network.here}")
        self._address = f"mqtt://{network.here if network is not None else '127.0.0.1'}:{port}"
        self._wrapper = network.wrapper if network is not None else ()
        self.broker = MosquittoBroker(folder, persistent=persistent, extra="\n".join(lines), port=port)
        self.fault_ends_s: list[float] = []  # wall clock, end of each fault

    def __enter__(self) -> Self:
        self._stack.enter_context(self.broker)
        self.witness = self._stack.enter_context(Witness(self.broker.port))
        if self.persistent:
            self.broker.save()  # it now contains the witness's subscription
        return self

    def __exit__(self, *_: object) -> None:
        for agent in self._agents:
            agent.kill()
        self._stack.close()

    @property
    def accepted(self) -> int:
        return sum(len(agent.printed) for agent in self._agents)

    @property
    def agent(self) -> AgentProcess:
        return self._agents[-1]

    @property
    def log(self) -> str:
        """The output of all agent processes, without the printed results."""
        lines = "".join(agent.output for agent in self._agents).splitlines()
        return "\n".join(line for line in lines if " (threshold " not in line)

    @property
    def results(self) -> list[Received]:
        return read_results(self.witness.arrivals)

    def start_agent(self) -> None:
        """Number of missing results; at least one, because a new process sends the rest of the spool."""
        frames = max(1, self.total - self.accepted)
        arguments = ["--source", str(self._video), "--loop", "--max-frames", str(frames)]
        agent = AgentProcess(
            self._folder,
            self._bundle,
            *(*arguments, "--broker", self._address, "--print-results"),
            settings=self._settings,
            wrapper=self._wrapper,
        )
        self._agents.append(agent.__enter__())

    def await_accepted(self, number: int) -> None:
        """Waits until so many results are accepted; an agent that has ended is started again."""
        end_s = time.monotonic() + PATIENCE_S
        while self.accepted < number:
            assert time.monotonic() < end_s, f"{self.accepted} of {number} accepted:\n{self.log}"
            if not self.agent.running and self.accepted < number:
                self.start_agent()
            time.sleep(0.001)

    def finish(self) -> Judgement:
        """Waits until all results are accepted and sent; gives the comparison."""
        self.await_accepted(self.total)
        end_s = time.monotonic() + PATIENCE_S
        while True:
            code = self.agent.wait(PATIENCE_S)
            assert code == 0, f"exit code {code}:\n{self.log}"
            if "stay in the spool" not in self.agent.output or time.monotonic() > end_s:
                break
            self.start_agent()
        accepted = {key for agent in self._agents for key in agent.printed}
        here: set[tuple[str, str, int]] = set()
        read = 0

        def all_here() -> bool:
            nonlocal read
            arrivals = self.witness.arrivals[read:]
            read += len(arrivals)
            here.update(result.key for result in read_results(arrivals))
            return accepted <= here

        self.witness.wait_for(all_here, 10.0)
        return judge(accepted, self.results)

    def recoveries_s(self, *, anew: bool = True) -> list[float]:
        """Seconds from each fault to recovery; see `recovery_s`. The next fault may have come before the recovery."""
        results = self.results
        spent_s = [recovery_s(results, end_s, anew=anew) for end_s in self.fault_ends_s]
        return [one_s for one_s in spent_s if one_s is not None]

    def await_recovery(self, *, anew: bool = True) -> None:
        """Waits until a result has arrived after the last fault."""
        end_s = self.fault_ends_s[-1]

        def works() -> bool:
            since = list(takewhile(lambda arrival: arrival.at_s >= end_s, reversed(self.witness.arrivals)))
            return recovery_s(read_results(since[::-1]), end_s, anew=anew) is not None

        came = self.witness.wait_for(works, PATIENCE_S)
        assert came, f"no result for {PATIENCE_S} s after the fault:\n{self.log}"


Fault = Callable[[Line, random.Random], None]


def kill_agent(line: Line, chance: random.Random) -> None:
    """kill -9 and an immediate restart, like a service manager."""
    line.agent.kill()
    line.fault_ends_s.append(time.time())
    line.start_agent()


def kill_broker(line: Line, chance: random.Random) -> None:
    line.broker.kill()
    _bring_broker_back(line, chance)


def restart_broker(line: Line, chance: random.Random) -> None:
    """An orderly stop: the broker stores its persistent state."""
    line.broker.stop()
    _bring_broker_back(line, chance)


def kill_both(line: Line, chance: random.Random) -> None:
    line.broker.kill()
    time.sleep(chance.uniform(0, 0.05))
    line.agent.kill()
    time.sleep(chance.uniform(0, 0.2))
    if line.persistent:
        line.fault_ends_s.append(time.time())
        line.broker.start()
        line.start_agent()
    else:
        line.start_agent()
        _bring_broker_back(line, chance)


def lose_witness(line: Line, chance: random.Random) -> None:
    """A fault of the subscriber's network. The broker's session keeps the messages meanwhile."""
    line.witness.break_off()


def _bring_broker_back(line: Line, chance: random.Random) -> None:
    time.sleep(chance.uniform(0, 1.5))
    bring_broker_back(line)


def bring_broker_back(line: Line) -> None:
    """Pauses the agent until the restarted broker knows the witness again, if the broker has lost its sessions.

    A broker acknowledges and drops a message without subscribers. That is not a loss of the agent. The pause of some
    milliseconds keeps the count exact.
    """
    if not line.persistent and line.agent.running:
        line.agent.freeze()
    line.fault_ends_s.append(time.time())
    line.broker.start()
    if not line.persistent:
        assert line.witness.subscribed.wait(10)
        line.agent.thaw()


def run_with_faults(line: Line, faults: Sequence[Fault], chance: random.Random) -> Judgement:
    """Makes `faults` in order, each at a random point between 5 and 95 % of the results."""
    points = sorted(chance.sample(range(line.total // 20, line.total * 19 // 20), len(faults)))
    line.start_agent()
    for point, fault in zip(points, faults, strict=True):
        line.await_accepted(point)
        time.sleep(chance.uniform(0, 0.005))
        fault(line, chance)
    return line.finish()
