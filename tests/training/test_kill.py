"""A run that is killed wherever it is, and started again until it ends, leaves what an unbroken one leaves."""

import multiprocessing
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from small_run import make_data, run_small

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402

SIGKILLED = -9
OPTIMISATION = {"steps_per_epoch": 6, "save_every_steps": 1, "ema_decay": 0.9, "schedule": "cosine"}


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Callable[[Path], multiprocessing.Process]:
    """Starts a run in its own process; these are forked from one that has torch in memory already."""
    data = make_data(tmp_path_factory.mktemp("data"))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["small_run", "small_model", "zsad_training.trainer"])

    def begin(out: Path) -> multiprocessing.Process:
        process = context.Process(target=run_small, args=(data, out, OPTIMISATION, 0.2))
        process.start()
        return process

    return begin


def kill_while_writing(process: multiprocessing.Process, file: Path) -> None:
    file.unlink(missing_ok=True)
    while process.is_alive() and not file.exists():
        time.sleep(0.0005)
    process.kill()
    process.join()


def kill_after(process: multiprocessing.Process, seconds: float) -> None:
    process.join(seconds)
    process.kill()
    process.join()


def test_a_run_that_is_killed_anywhere_ends_as_an_unbroken_one(start, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    unbroken = start(whole)
    began = time.monotonic()
    unbroken.join()
    seconds = time.monotonic() - began
    assert unbroken.exitcode == 0

    rng = random.Random(0)
    torn = 0
    for file in (None, "resume.pt.partial", None, "best.safetensors.partial", "resume.pt.partial", None):
        process = start(cut)
        if file is None:
            kill_after(process, rng.uniform(0.3, 0.8) * seconds)
        else:
            kill_while_writing(process, cut / file)
            torn += (cut / file).exists()
        assert process.exitcode == SIGKILLED
    assert torn  # at least one kill came amid a file
    last = start(cut)
    last.join()
    assert last.exitcode == 0

    assert (cut / "log.csv").read_bytes() == (whole / "log.csv").read_bytes()
    expected, found = (load_file(folder / "best.safetensors") for folder in (whole, cut))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    expected, found = (torch.load(folder / "resume.pt", weights_only=True) for folder in (whole, cut))
    for part in ("detector", "average", "optimiser", "schedule"):
        torch.testing.assert_close(found[part], expected[part], rtol=0, atol=0, msg=part)
