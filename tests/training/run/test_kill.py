"""A run that is killed at any point and restarted gives the same files as an uninterrupted run."""

import random
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from small_run import make_data, run_small
from two_processes import FORKSERVER

torch = pytest.importorskip("torch")

from safetensors.torch import load_file

SIGKILLED = -9
OPTIMISATION = {"epochs": 3, "steps_per_epoch": 6, "save_every_steps": 1, "ema_decay": 0.9, "schedule": "cosine"}
SHORTER = OPTIMISATION | {"epochs": 2, "steps_per_epoch": 3}

Start = Callable[..., BaseProcess]


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Start:
    """Starts a run in its own process, forked from one that has already imported torch."""
    data = make_data(tmp_path_factory.mktemp("data"))

    def begin(out: Path, optimisation: dict[str, object] = OPTIMISATION) -> BaseProcess:
        process = FORKSERVER.Process(target=run_small, args=(data, out, optimisation, 0.2))
        process.start()
        return process

    return begin


def wait_for(process: BaseProcess, condition: Callable[[], bool]) -> None:
    while process.is_alive() and not condition():
        time.sleep(0.0005)


def kill(process: BaseProcess) -> None:
    """Kills the process. On a busy machine it may have ended before, but only with exit code 0."""
    process.kill()
    process.join()
    assert process.exitcode in (SIGKILLED, 0)


def kill_while_writing(process: BaseProcess, file: Path) -> bool:
    """Kills the process while it writes `file`; gives whether the file is incomplete."""
    wait_for(process, file.exists)
    kill(process)
    return file.exists()


def kill_in_a_step(process: BaseProcess, saved: Path, seconds: float) -> None:
    """Kills the process some time after its first save."""
    before = saved.stat().st_mtime_ns if saved.exists() else 0
    wait_for(process, lambda: saved.exists() and saved.stat().st_mtime_ns > before)
    time.sleep(seconds)
    kill(process)


def test_a_run_killed_in_a_step_ends_like_an_uninterrupted_one(start: Start, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    unbroken, saved = start(whole, SHORTER), cut / "resume.pt"
    kill_in_a_step(start(cut, SHORTER), saved, 0.02)
    saved.with_name("resume.pt.partial").write_bytes(saved.read_bytes()[:5000])  # as after a kill during the write
    assert_ends_alike(start(cut, SHORTER), unbroken, cut, whole)


@pytest.mark.chaos
def test_a_run_killed_at_any_point_ends_like_an_uninterrupted_one(start: Start, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    unbroken = start(whole)

    killed_early = start(cut)
    wait_for(killed_early, (cut / "log.csv").exists)
    kill(killed_early)
    rng = random.Random(0)
    torn = 0
    for file in ("resume.pt", None, "best.safetensors", "resume.pt", None, "resume.pt"):
        if file is None:
            kill_in_a_step(start(cut), cut / "resume.pt", rng.uniform(0, 0.05))
        else:
            partial = cut / f"{file}.partial"
            partial.unlink(missing_ok=True)
            torn += kill_while_writing(start(cut), partial)
    assert torn  # at least one kill was during a write
    assert_ends_alike(start(cut), unbroken, cut, whole)


def assert_ends_alike(last: BaseProcess, unbroken: BaseProcess, cut: Path, whole: Path) -> None:
    for process in (last, unbroken):
        process.join()
        assert process.exitcode == 0

    assert (cut / "log.csv").read_bytes() == (whole / "log.csv").read_bytes()
    expected, found = (load_file(folder / "best.safetensors") for folder in (whole, cut))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    expected, found = (torch.load(folder / "resume.pt", weights_only=True) for folder in (whole, cut))
    for part in ("detector", "average", "optimiser", "schedule"):
        torch.testing.assert_close(found[part], expected[part], rtol=0, atol=0, msg=part)
