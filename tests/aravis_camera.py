"""A GigE Vision camera on the loopback interface: aravis' own, in a process that can be killed and started again."""

import ctypes
import fcntl
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Self

SERIAL = f"ZSAD{os.getpid()}"  # another process may run one too
CAMERA_ID = f"Aravis-Fake-{SERIAL}"
FRAME_PERIOD_US = 0x138  # its register
PROGRAM = f"""
import ctypes, sys, threading
aravis, gobject = ctypes.CDLL("libaravis-0.8.so.0"), ctypes.CDLL("libgobject-2.0.so.0")
aravis.arv_gv_fake_camera_new.restype = ctypes.c_void_p
camera = ctypes.c_void_p(aravis.arv_gv_fake_camera_new(b"127.0.0.1", b"{SERIAL}"))
gobject.g_object_set(camera, b"gvsp-lost-ratio", ctypes.c_double(float(sys.argv[1])), ctypes.c_void_p(None))
aravis.arv_gv_fake_camera_get_fake_camera.restype = ctypes.c_void_p
registers = ctypes.c_void_p(aravis.arv_gv_fake_camera_get_fake_camera(camera))
aravis.arv_fake_camera_write_register(registers, {FRAME_PERIOD_US}, int(1e6 / float(sys.argv[2])))
assert aravis.arv_gv_fake_camera_is_running(camera)
print("runs", flush=True)
threading.Event().wait()
"""


def why_not() -> str | None:
    """Why no such camera can run here."""
    try:
        ctypes.CDLL("libaravis-0.8.so.0")
    except OSError as error:
        return f"needs libaravis-0.8-0: {error}"
    return None


class AravisCamera:
    """Runs from `__enter__` to `__exit__`. One at a time on this machine: GigE Vision has one port."""

    def __init__(self, lost_ratio: float = 0.0, *, fps: float = 25.0) -> None:
        """`lost_ratio`: share of the packets that it leaves out."""
        self._command = ["-c", PROGRAM, str(lost_ratio), str(fps)]

    def __enter__(self) -> Self:
        self._lock = Path(tempfile.gettempdir(), "zsad-gige-vision-port").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.plug()
        return self

    def plug(self) -> None:
        self._process = subprocess.Popen([sys.executable, *self._command], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "runs\n"

    def unplug(self) -> None:
        """It sends no more, as if the cable is pulled."""
        self._process.kill()
        self._process.wait()

    def __exit__(self, *_: object) -> None:
        self.unplug()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._lock.close()
