"""Fixtures for every test."""

import ctypes
import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from mosquitto_broker import MosquittoBroker
from tiny_bundle_maker import make_tiny_bundle

# Threads in busy-wait loops make small models a hundred times slower on a shared machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Some containers forbid compiled files. Each agent that a test starts would then compile its modules again: a third
# of the time of its start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# No test sends usage data, also if one imports OpenVINO before `zsad_core.openvino_offline` does.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
# Freed memory stays with the test process. Else the kernel maps and zeroes every large array again. Agents keep less.
if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
    mallopt(-1, 2**30)  # M_TRIM_THRESHOLD, bytes
    mallopt(-3, 2**25)  # M_MMAP_THRESHOLD, bytes


def pytest_collection_finish() -> None:
    """Excludes imported modules and collected tests from garbage collection: conversions take half the time."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """Makes captured logs valid UTF-8, which pytest-xdist needs. File names in them may be invalid."""
    report = yield
    report.sections = [(title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections]
    return report


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small real bundle; see `tiny_bundle_maker`."""
    return make_tiny_bundle(tmp_path_factory.mktemp("bundle") / "darkness")


@pytest.fixture
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., MosquittoBroker]]:
    """Starts brokers: `mosquitto(persistent=True, password=("user", "secret"))`; see `MosquittoBroker`."""
    with ExitStack() as stack:

        def start(**settings: object) -> MosquittoBroker:
            broker = MosquittoBroker(tmp_path_factory.mktemp("mosquitto"), **settings)  # type: ignore[arg-type]
            return stack.enter_context(broker)

        yield start


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if mount is None or os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs root and the right to mount a tmpfs, for a disk that can be full")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)
