"""The process: the environment of OpenCV and pydantic, memory, age, exit code, and the energy of the machine.

Imports neither OpenCV nor pydantic.
"""

import atexit
import ctypes
import gc
import io
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from zsad_core.errors import ConfigError, ProductError, ZsadError

FAILED, USAGE = 1, 2  # exit codes


def note_hangups() -> Callable[[], bool]:
    """Keeps SIGHUP from ending the process. Returns a function: whether one came since its last call."""
    came: list[int] = []

    def taken() -> bool:
        if not came:
            return False
        came.clear()  # one that comes now belongs to the same reload
        return True

    signal.signal(signal.SIGHUP, lambda number, _: came.append(number))
    atexit.register(signal.signal, signal.SIGHUP, signal.SIG_IGN)  # the interpreter would restore the default
    return taken


def prepare_environment(stale_after_s: float | None = None) -> None:
    """Call it before `cv2` and `pydantic` are imported. Variables that the user has set stay.

    `stale_after_s`: longest wait for a frame of a V4L2 camera, rounded up to whole seconds; None: OpenCV's 10 s.
    """
    if stale_after_s is not None:
        os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", str(math.ceil(stale_after_s)))
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", "100000000")  # as `MAX_PIXELS` of zsad_core.picture
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")  # its warnings repeat on every attempt; ours are logged once
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # FFmpeg's messages hold the URL with its credentials
    # pydantic would search every installed package for plugins
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of malloc.h
_KEPT_BYTES = 8 * 2**20  # a bit more than a frame of 1920 x 1080; with less, each frame is mapped and zeroed again


def keep_memory_small() -> None:
    """Makes GNU's allocator share one arena among threads and keep at most 8 MB. Call it before threads start.

    It saves 20 to 30 MB (docs/measurements.md). No effect with another libc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)  # an explicit value also stops their automatic growth
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


@contextmanager
def quick_imports(*, freeze: bool = True) -> Iterator[None]:
    """Python's garbage collector does not run during the imports in this block, in any thread.

    The collector would visit all objects of the modules many times, for 90 ms in total.

    Args:
        freeze: later it skips what the block made. Modules live until the process ends; a model does not.
    """
    gc.disable()
    try:
        yield
        if freeze:
            gc.freeze()
    finally:
        gc.enable()


def give_back_memory() -> None:
    """Returns freed memory to the kernel, such as tens of MB after a model was compiled. Takes about 10 ms.

    No effect with a libc other than GNU's.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def process_age_s() -> float:
    """Seconds since the kernel started this process."""
    started_ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started_ticks / os.sysconf("SC_CLK_TCK")


def status_mb(key: str, pid: int | None = None) -> float:
    """A line of a process's status, such as VmRSS, in MB; NaN if it is missing. `pid` None: this process."""
    for line in Path(f"/proc/{pid or 'self'}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return round(int(line.split()[1]) / 1024, 1)
    return float("nan")


class EnergyMeter:
    """Joules that all processor packages used (RAPL), for all processes."""

    def __init__(self, powercap: Path = Path("/sys/class/powercap")) -> None:
        # `intel-rapl:0` is a package, also on AMD; `intel-rapl:0:0` is a part of it and would be counted twice
        self._zones = [zone for zone in sorted(powercap.glob("*-rapl:*")) if zone.name.count(":") == 1]
        self._before_uj = self._read_uj()

    def since_last_j(self) -> float | None:
        """Joules since the previous call, or since the constructor; None if the machine does not report them."""
        now_uj = self._read_uj()
        before_uj, self._before_uj = self._before_uj, now_uj
        if now_uj is None or before_uj is None:
            return None
        spent_uj = 0
        for zone, before, now in zip(self._zones, before_uj, now_uj, strict=True):
            wraps = now < before  # the counter wraps at the end of its range
            spent_uj += now - before + (int((zone / "max_energy_range_uj").read_text()) if wraps else 0)
        return spent_uj / 1e6

    def _read_uj(self) -> list[int] | None:
        try:
            return [int((zone / "energy_uj").read_text()) for zone in self._zones] or None
        except (OSError, ValueError):  # on many systems only root can read it
            return None


def guarded(program: str, command: Callable[[], int]) -> int:
    """The exit code of a command. Errors that a user can cause become one line per fault on stderr."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file name may have characters that the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    prepare_environment()
    try:
        return command()
    except SystemExit as exit_request:  # argparse, after --help or a usage error
        return exit_request.code if isinstance(exit_request.code, int) else USAGE
    except BrokenPipeError:  # the reader of stdout has ended: `zsad-agent score … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (ZsadError, OSError) as error:
        return _report(program, error, USAGE if isinstance(error, ConfigError | ProductError) else FAILED)
    except KeyboardInterrupt:
        return _report(program, "interrupted", FAILED)


def _report(program: str, error: object, code: int) -> int:
    for line in str(error).splitlines():
        print(f"{program}: {line}", file=sys.stderr)
    return code
