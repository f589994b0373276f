"""A training command in two processes that share its work: forked with torch in memory, or started by torchrun."""

import contextlib
import importlib
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mosquitto_broker import free_port

ROOT = Path(__file__).parents[1]
FORKSERVER = multiprocessing.get_context("forkserver")  # one per session; it imports torch once
FORKSERVER.set_forkserver_preload(["training_preloaded"])
STARTED_BY = ["fork", pytest.param("torchrun", marks=pytest.mark.chaos)]


def run_two(command: str, flags: list[str], folder: Path, *, started_by: str) -> str:
    """Runs the command; gives the stdout of both processes.

    Args:
        command: `train` or `distill`.
        flags: the command's.
        folder: for the output.
        started_by: one of `STARTED_BY`.
    """
    if started_by == "torchrun":
        torchrun = ["torch.distributed.run", "--nproc_per_node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0"]
        script = str(ROOT / "training" / f"{command}.py")
        done = subprocess.run(
            [sys.executable, "-m", *torchrun, script, *flags], capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout
    port = free_port()
    outputs = [folder / f"stdout-{rank}" for rank in range(2)]
    processes = [
        FORKSERVER.Process(target=_run_one, args=(f"zsad_training.{command}", flags, rank, port, output))
        for rank, output in enumerate(outputs)
    ]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(240)
            assert process.exitcode == 0
    finally:
        for process in processes:
            process.kill()
    return "".join(output.read_text() for output in outputs)


def _run_one(module: str, flags: list[str], rank: int, port: int, output: Path) -> None:
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in variables.items()}
    with output.open("w") as file, contextlib.redirect_stdout(file):
        code = importlib.import_module(module).main(flags)
    sys.exit(code)
