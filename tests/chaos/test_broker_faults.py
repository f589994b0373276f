"""A faulty broker, and a network that drops all packets: no result is lost, and the fault is reported."""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bad_broker import BadBroker, Fault
from chaos_record import record
from judge import Judgement
from line import FAST, Line, bring_broker_back, write_small_video
from namespace import Namespace

LONG_RESULTS = 10_000


def paced(fps: int) -> str:
    """Settings that make the results slow enough for all faults to occur while they are made."""
    return FAST + f"source:\n  fps: {fps}\nmqtt:\n  keepalive_s: 5\n"


PACED = paced(200)
FAULTS: tuple[Fault, ...] = ("refuses", "mute", "acknowledges nothing")
SMALL_PACKETS = "max_packet_size 8000"  # above the size of results, below that of overlays of 256 x 256 pixels


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_video(tmp_path_factory.mktemp("video") / "parts.avi")


@pytest.fixture
def network() -> Iterator[Namespace]:
    with Namespace() as namespace:
        yield namespace


def check(found: Judgement, total: int) -> None:
    assert found.clean, f"lost {found.lost[:5]}, altered {found.altered[:5]}, out of order {found.disordered[:5]}"
    assert found.received >= total


def record_fault(fault: str, line: Line, found: Judgement, tried: int, *, anew: bool = True) -> None:
    record(
        fault,
        tried=tried,
        lost=len(found.lost),
        doubled=found.doubled,
        recover_s=line.recoveries_s(anew=anew) or None,
        note=f"{found.received} results, {len(found.disordered)} out of order",
    )


def replace_broker(line: Line, fault: Fault, *, wait_s: float) -> BadBroker:
    """Replaces the good broker by a faulty one, until `wait_s` after the agent's first connection."""
    line.broker.stop()
    with BadBroker(line.broker.port, fault) as bad:
        assert line.witness.wait_for(lambda: bad.connects > 0, 60)
        time.sleep(wait_s)
    bring_broker_back(line)
    return bad


@pytest.mark.parametrize("fault", ["refuses", "acknowledges nothing"])
def test_results_arrive_after_a_faulty_broker_is_replaced(
    fault: Fault, tmp_path: Path, tiny_bundle: Path, video: Path
) -> None:
    with Line(tmp_path, tiny_bundle, video, 500, settings=PACED) as line:
        line.start_agent()
        line.await_accepted(50)
        bad = replace_broker(line, fault, wait_s=0.3)
        found = line.finish()
    check(found, 500)
    assert (bad.publishes > 0) == (fault == "acknowledges nothing")
    assert line.log.count(" back") <= 2, line.log  # a change is logged once, however often it tries to connect


def test_a_broker_that_hangs_loses_no_result(tmp_path: Path, tiny_bundle: Path, video: Path) -> None:
    with Line(tmp_path, tiny_bundle, video, 500, settings=PACED) as line:
        line.start_agent()
        line.await_accepted(50)
        line.broker.freeze()
        line.await_accepted(250)
        line.broker.thaw()
        found = line.finish()
    check(found, 500)


def test_an_overlay_above_the_brokers_limit_makes_no_reconnect_loop(tmp_path: Path, tiny_bundle: Path) -> None:
    video = write_small_video(tmp_path / "large.avi", 20, side=256)
    with Line(tmp_path, tiny_bundle, video, 300, settings="source:\n  fps: 100\n", broker_lines=SMALL_PACKETS) as line:
        line.start_agent()
        found = line.finish()
        connections = max(result.connection for result in line.results)
    check(found, 300)
    assert connections <= 3, line.log  # the agent learns the limit from it and sends no larger overlay


def test_a_network_that_drops_all_packets_loses_no_result(
    tmp_path: Path, tiny_bundle: Path, video: Path, network: Namespace
) -> None:
    with Line(tmp_path, tiny_bundle, video, 600, settings=PACED, network=network) as line:
        line.start_agent()
        line.await_accepted(50)
        network.black_hole()
        before = len(line.results)
        line.await_accepted(250)
        during = len(line.results) - before
        network.heal()
        found = line.finish()
    check(found, 600)
    assert during < 100  # results that were being sent when the network failed


@pytest.mark.chaos
@pytest.mark.parametrize("fault", FAULTS)
def test_10000_results_arrive_despite_faulty_brokers(
    fault: Fault, tmp_path: Path, tiny_bundle: Path, video: Path
) -> None:
    """The last fault is longer than the agent waits for an acknowledgement (30 s)."""
    waits_s = (0.5, 3.0, 45.0) if fault == "acknowledges nothing" else (0.5, 3.0, 12.0)
    with Line(tmp_path, tiny_bundle, video, LONG_RESULTS, settings=paced(100)) as line:
        line.start_agent()
        line.await_accepted(200)
        for wait_s in waits_s:
            bad = replace_broker(line, fault, wait_s=wait_s)
            line.await_recovery()
        found = line.finish()
    record_fault(f"broker {fault}", line, found, len(waits_s))
    check(found, LONG_RESULTS)
    if fault == "acknowledges nothing":
        assert bad.publishes > 0 and "nothing was acknowledged" in line.log


@pytest.mark.chaos
def test_10000_results_arrive_despite_a_broker_that_hangs(tmp_path: Path, tiny_bundle: Path, video: Path) -> None:
    times_s = (0.5, 3.0, 20.0)
    with Line(tmp_path, tiny_bundle, video, LONG_RESULTS, settings=PACED) as line:
        line.start_agent()
        for number, time_s in enumerate(times_s):
            line.await_accepted(500 + 1500 * number)
            line.broker.freeze()
            time.sleep(time_s)
            line.fault_ends_s.append(time.time())
            line.broker.thaw()
            line.await_recovery(anew=False)
        found = line.finish()
    record_fault("broker hangs (SIGSTOP) for 0.5, 3, 20 s", line, found, len(times_s), anew=False)
    check(found, LONG_RESULTS)


@pytest.mark.chaos
def test_10000_results_arrive_despite_a_packet_size_limit(tmp_path: Path, tiny_bundle: Path) -> None:
    video = write_small_video(tmp_path / "large.avi", 20, side=256)
    settings = "source:\n  fps: 400\n"
    with Line(tmp_path, tiny_bundle, video, LONG_RESULTS, settings=settings, broker_lines=SMALL_PACKETS) as line:
        line.start_agent()
        found = line.finish()
        connections = max(result.connection for result in line.results)
    record_fault(f"packet limit of 8000 bytes, below the size of overlays; {connections} connections", line, found, 1)
    check(found, LONG_RESULTS)
    assert connections <= 3, line.log


@pytest.mark.chaos
def test_10000_results_arrive_despite_a_network_that_drops_all_packets(
    tmp_path: Path, tiny_bundle: Path, video: Path, network: Namespace
) -> None:
    chance = random.Random(3)
    times_s = (0.3, 1.0, 3.0, 8.0, 20.0)
    with Line(tmp_path, tiny_bundle, video, LONG_RESULTS, settings=paced(100), network=network) as line:
        line.start_agent()
        for number, time_s in enumerate(times_s):
            line.await_accepted(500 + 500 * number + chance.randrange(200))
            network.black_hole()
            time.sleep(time_s)
            line.fault_ends_s.append(time.time())
            network.heal()
            line.await_recovery(anew=False)
        found = line.finish()
    record_fault("network drops all packets for 0.3, 1, 3, 8, 20 s", line, found, len(times_s), anew=False)
    check(found, LONG_RESULTS)
