"""One line for the chaos tests: an agent on an endless video, a broker, a witness, and the faults of all three."""

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
PATIENCE_S = 90.0  # for a backlog, on a machine that does other things too
WITNESSED = "max_inflight_messages 0"  # the broker keeps nothing back from a witness that is there


def write_small_video(path: Path, frames: int = 500, side: int = 64) -> Path:
    """Grainy parts of `side` x `side` pixels, every fifth with a blot; small ones, whose decoding is cheap."""
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
    """Runs until `total` results are accepted, over as many starts of the agent as it takes.

    Args:
        folder: for everything.
        bundle: see `tiny_bundle_maker`.
        video: see `write_small_video`.
        total: results.
        persistent: whether the broker is.
        settings: sections of the agent's config.
        broker_lines: of the broker's.
        network: where the agent is apart from the broker.
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
        self.fault_ends_s: list[float] = []  # wall clock

    def __enter__(self) -> Self:
        self._stack.enter_context(self.broker)
        self.witness = self._stack.enter_context(Witness(self.broker.port))
        if self.persistent:
            self.broker.save()  # the witness's subscription is in it from now on
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
        """What the agent's starts said, but for the results."""
        lines = "".join(agent.output for agent in self._agents).splitlines()
        return "\n".join(line for line in lines if " (threshold " not in line)

    @property
    def results(self) -> list[Received]:
        return read_results(self.witness.arrivals)

    def start_agent(self) -> None:
        """For the results that are still missing; for one at least, since a start sends what is left in the spool."""
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
        """Until so many results are accepted; an agent that ended is started again."""
        end_s = time.monotonic() + PATIENCE_S
        while self.accepted < number:
            assert time.monotonic() < end_s, f"{self.accepted} of {number} accepted:\n{self.log}"
            if not self.agent.running and self.accepted < number:
                self.start_agent()
            time.sleep(0.001)

    def finish(self) -> Judgement:
        """Until all is accepted and sent; the comparison of both."""
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
        """Of each fault, to the first result after it; see `recovery_s`. The next fault may have come before that."""
        results = self.results
        spent_s = [recovery_s(results, end_s, anew=anew) for end_s in self.fault_ends_s]
        return [one_s for one_s in spent_s if one_s is not None]

    def await_recovery(self, *, anew: bool = True) -> None:
        """Until a result has come after the last fault."""
        end_s = self.fault_ends_s[-1]

        def works() -> bool:
            since = list(takewhile(lambda arrival: arrival.at_s >= end_s, reversed(self.witness.arrivals)))
            return recovery_s(read_results(since[::-1]), end_s, anew=anew) is not None

        came = self.witness.wait_for(works, PATIENCE_S)
        assert came, f"no result for {PATIENCE_S} s after the fault:\n{self.log}"


Fault = Callable[[Line, random.Random], None]


def kill_agent(line: Line, chance: random.Random) -> None:
    """kill -9, and a new start at once, as a service manager would."""
    line.agent.kill()
    line.fault_ends_s.append(time.time())
    line.start_agent()


def kill_broker(line: Line, chance: random.Random) -> None:
    line.broker.kill()
    _bring_broker_back(line, chance)


def restart_broker(line: Line, chance: random.Random) -> None:
    """In order: what is persistent is stored."""
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
    """The subscriber's own network: its session keeps what comes meanwhile."""
    line.witness.break_off()


def _bring_broker_back(line: Line, chance: random.Random) -> None:
    time.sleep(chance.uniform(0, 1.5))
    bring_broker_back(line)


def bring_broker_back(line: Line) -> None:
    """One that forgot its sessions takes no results before it knows the witness again.

    A broker acknowledges a message that nobody has subscribed to, and forgets it: that would be no loss of the agent's.
    The agent is stopped for these milliseconds, so that what is counted is exact.
    """
    if not line.persistent and line.agent.running:
        line.agent.freeze()
    line.fault_ends_s.append(time.time())
    line.broker.start()
    if not line.persistent:
        assert line.witness.subscribed.wait(10)
        line.agent.thaw()


def run_with_faults(line: Line, faults: Sequence[Fault], chance: random.Random) -> Judgement:
    """`faults`, in their order, each at a random point between 5 and 95 % of the results."""
    points = sorted(chance.sample(range(line.total // 20, line.total * 19 // 20), len(faults)))
    line.start_agent()
    for point, fault in zip(points, faults, strict=True):
        line.await_accepted(point)
        time.sleep(chance.uniform(0, 0.005))
        fault(line, chance)
    return line.finish()
