import pytest

from zsad_agent.control import CommandError, Nonces, ReplayGuard
from zsad_agent.control.freshness import MAX_SEEN_IDS, NONCE_S
from zsad_agent.spool import Stamp

NOW_S = 1_800_000_000.0
HOUR_S, DAY_S = 3600.0, 86_400.0
AGE_S = 30.0


class Device:
    """A device with its clocks, over restarts of the agent and reboots. Senders have the true time `now_s`."""

    def __init__(self) -> None:
        self.now_s = NOW_S
        self.boot_s, self.boot_id = 1000.0, "boot-1"
        self.wall_ahead_s = 0.0
        self.guard = ReplayGuard({}, forgotten_up_to_s=None, anchor=None, started=self.stamp())
        self.advance(1)

    def stamp(self) -> Stamp:
        return Stamp(wall_s=self.now_s + self.wall_ahead_s, boot_s=self.boot_s, boot_id=self.boot_id)

    def advance(self, seconds: float) -> None:
        self.now_s += seconds
        self.boot_s += seconds

    def restart(self) -> None:
        kept = self.guard
        self.guard = ReplayGuard(
            kept.seen,
            forgotten_up_to_s=kept.forgotten_up_to_s(self.stamp()),
            anchor=kept.anchor,
            started=self.stamp(),
        )

    def reboot(self) -> None:
        self.boot_s, self.boot_id = 5.0, self.boot_id + "+"
        self.restart()

    def send(self, command_id: str, sent_s: float | None = None) -> None:
        sent_s = self.now_s if sent_s is None else sent_s
        self.guard.check(command_id, sent_s, self.stamp(), AGE_S)
        self.guard.accept(command_id, sent_s, self.stamp(), AGE_S)

    def refuses(self, command_id: str, sent_s: float | None = None) -> str:
        with pytest.raises(CommandError) as caught:
            self.send(command_id, sent_s)
        return str(caught.value)


@pytest.fixture
def device() -> Device:
    return Device()


@pytest.mark.parametrize("ahead_s", [-AGE_S, 0.0, AGE_S])
def test_fresh_command_is_accepted(device: Device, ahead_s: float) -> None:
    device.send("first")
    device.advance(100)
    device.send("a", device.now_s + ahead_s)


@pytest.mark.parametrize(
    ("sent_s", "said"), [(-31.5, r"31.5 s ago"), (31.5, r"31.5 s in the future"), (1e300, "e+"), (float("inf"), "inf")]
)
def test_old_and_future_commands_are_refused_with_the_time_difference(device: Device, sent_s: float, said: str) -> None:
    assert said in (text := device.refuses("a", device.now_s + sent_s)) and "compare them" in text


def test_known_id_is_a_replay_also_after_a_restart_or_reboot(device: Device) -> None:
    device.send("a")
    for again in (lambda: None, device.restart, device.reboot):
        again()
        assert "already received" in device.refuses("a", device.now_s)


def test_without_stored_ids_commands_sent_before_the_start_are_refused(device: Device) -> None:
    assert "may be a replay" in device.refuses("a", NOW_S)
    device.send("b")
    assert "may be a replay" in device.refuses("a", NOW_S)


@pytest.mark.parametrize("back_s", [40.0, 2 * HOUR_S, 365 * DAY_S])
@pytest.mark.parametrize("begin_again", [Device.restart, Device.reboot, lambda device: None])
def test_recorded_commands_are_refused_after_the_clock_is_set_back(
    device: Device, back_s: float, begin_again: object
) -> None:
    """Neither a command that was accepted nor one that the device never received."""
    device.send("accepted")
    recorded_s = device.now_s
    device.advance(back_s)
    device.send("later")
    device.wall_ahead_s = -back_s
    begin_again(device)  # type: ignore[operator]
    assert "replay" in device.refuses("accepted", recorded_s)
    assert "replay" in device.refuses("never arrived", recorded_s + 1)
    assert "replay" in device.refuses("never arrived", recorded_s - 1)


def test_old_commands_are_refused_after_the_clock_was_set_back_and_then_forward(device: Device) -> None:
    device.send("a")
    recorded_s = device.now_s
    device.advance(100)
    device.send("b")
    device.advance(1000)
    device.wall_ahead_s = -2 * HOUR_S - 1100
    device.restart()
    device.wall_ahead_s = recorded_s - device.now_s
    assert "replay" in device.refuses("a", recorded_s)


@pytest.mark.parametrize("anchored", [True, False])
@pytest.mark.parametrize("jump_s", [-10 * DAY_S, -2 * HOUR_S, -100.0, 100.0, 2 * HOUR_S, 10 * DAY_S])
def test_valid_commands_are_accepted_after_the_clock_jumps_while_the_agent_runs(
    device: Device, jump_s: float, anchored: bool
) -> None:
    if anchored:
        device.send("before")
    device.wall_ahead_s = jump_s
    for number in range(5):
        device.advance(70)
        device.send(f"during {number}")
    recorded_s = device.now_s
    device.wall_ahead_s = 0.0
    for number in range(5):
        device.advance(70)
        device.send(f"after {number}")
        device.refuses("during 4", recorded_s)


@pytest.mark.parametrize("anchored", [True, False])
def test_senders_with_wrong_clocks_do_not_block_senders_with_correct_clocks(device: Device, anchored: bool) -> None:
    if anchored:
        device.send("before")
    device.wall_ahead_s = 2 * HOUR_S
    for number in range(3):
        device.advance(70)
        device.send(f"ahead {number}", device.now_s + 2 * HOUR_S)
    device.wall_ahead_s = 0.0
    device.send("honest")
    device.restart()
    device.advance(1)
    device.send("honest again")
    device.advance(2 * HOUR_S)
    for number in range(3):
        assert "already received" in device.refuses(f"ahead {number}")


def test_commands_are_accepted_when_the_clock_is_corrected_after_the_boot(device: Device) -> None:
    """A device without a clock battery starts in the past."""
    device.send("before")
    device.advance(7 * DAY_S)
    device.wall_ahead_s = -7 * DAY_S
    device.reboot()
    device.advance(20)
    device.wall_ahead_s = 0.0
    device.send("after")
    device.advance(100)
    device.send("and on")


def test_valid_commands_are_accepted_with_a_slow_oscillator_and_a_corrected_clock(device: Device) -> None:
    device.send("before")
    device.now_s += 30 * DAY_S  # 130 s fewer than the oscillator counted
    device.boot_s += 30 * DAY_S + 130
    device.send("after")


def test_wrong_stored_time_is_corrected_by_a_command_with_a_nonce(device: Device) -> None:
    device.wall_ahead_s = 3650 * DAY_S
    device.guard = ReplayGuard({}, forgotten_up_to_s=None, anchor=None, started=device.stamp())
    device.advance(1)
    device.send("wrong", device.now_s + 3650 * DAY_S)  # the sender's clock was wrong too
    device.wall_ahead_s = 0.0
    device.restart()
    assert "command_nonce" in device.refuses("honest")
    device.advance(1)
    sent_s = device.now_s
    assert device.guard.correct(sent_s, device.stamp(), AGE_S)
    assert "may be a replay" in device.refuses("earlier", sent_s - 1)
    device.advance(1)
    device.send("honest")
    device.restart()
    device.advance(1)
    device.send("honest too")
    assert "already received" in device.refuses("wrong")


def test_wrong_time_in_a_command_with_a_nonce_is_not_used(device: Device) -> None:
    device.send("a")
    before = device.guard.anchor
    for ahead_s in (-DAY_S, DAY_S, 0.5):
        assert not device.guard.correct(device.now_s + ahead_s, device.stamp(), AGE_S)
    assert device.guard.anchor == before


def test_ids_are_bounded_and_deleted_ones_stay_refused(device: Device) -> None:
    start_s = device.now_s
    for number in range(MAX_SEEN_IDS + 1):
        device.advance(0.001)
        device.send(str(number))
    assert len(device.guard.seen) == MAX_SEEN_IDS
    assert "may be a replay" in device.refuses("0", start_s + 0.001)
    device.advance(200)
    device.send("later")
    assert list(device.guard.seen) == ["later"]
    device.wall_ahead_s = -200
    assert "replay" in device.refuses("1000", start_s + 1.001)


def test_boot_clock_that_runs_backwards_is_treated_as_another_boot(device: Device) -> None:
    device.send("a")
    device.boot_s = 0.0
    device.advance(1)
    device.send("b")
    device.wall_ahead_s = -100
    assert "replay" in device.refuses("c", device.now_s - 100)


class Clock:
    now_s = 0.0


def test_nonce_is_accepted_once_with_an_id_until_there_are_two_newer_ones() -> None:
    clock = Clock()
    nonces = Nonces(lambda: clock.now_s)
    first = nonces.current()
    assert nonces.current() == first and nonces.valid == (first,)
    nonces.use(first, "a", nonces.valid)
    nonces.use(first, "b", nonces.valid)
    with pytest.raises(CommandError, match="already received"):
        nonces.use(first, "a", nonces.valid)
    clock.now_s = NONCE_S
    second = nonces.current()
    assert second != first
    with pytest.raises(CommandError, match="already received"):
        nonces.use(first, "a", nonces.valid)
    nonces.use(first, "c", nonces.valid)
    valid = nonces.valid
    clock.now_s = 2 * NONCE_S
    nonces.current()
    nonces.use(first, "d", valid)  # it arrived in time and waited in the queue
    for old in (first, "", "0" * 16):
        with pytest.raises(CommandError, match="may be a replay"):
            nonces.use(old, "e", nonces.valid)


def test_another_run_has_other_nonces() -> None:
    assert Nonces().current() != Nonces().current()
