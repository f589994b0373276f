import gc
import platform
import subprocess
import sys

import pytest

from zsad_agent.system import quick_imports

# Threads that each hold some memory; then the number of heaps that glibc reports.
HEAPS = """
import ctypes, sys, threading
from zsad_agent.system import keep_memory_small

if sys.argv[1] == "small":
    keep_memory_small()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
barrier = threading.Barrier(6)

def hold():
    barrier.wait()
    libc.malloc(5000)
    barrier.wait()

threads = [threading.Thread(target=hold) for _ in range(6)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
libc.fdopen.restype = ctypes.c_void_p
out = libc.fdopen(1, b"w")
libc.malloc_info(0, ctypes.c_void_p(out))
libc.fflush(ctypes.c_void_p(out))
"""

# Allocates buffers of a frame of 1920 x 1080 one after the other, and prints the new pages for each.
FRAMES = """
import ctypes, resource
from zsad_agent.system import keep_memory_small

keep_memory_small()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
frame = 1920 * 1080 * 3

def take(count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        block = ctypes.c_void_p(libc.malloc(frame))
        ctypes.memset(block, 1, frame)
        libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

take(2)
print(take(50) / 50)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of GNU's allocator")
def test_memory_of_one_frame_is_reused_for_the_next() -> None:
    pages = subprocess.run([sys.executable, "-c", FRAMES], check=True, capture_output=True, text=True).stdout
    assert float(pages) < 100  # of 1,519


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of GNU's allocator")
def test_threads_share_one_heap() -> None:
    def heaps(how: str) -> int:
        command = [sys.executable, "-c", HEAPS, how]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.count("<heap nr=")

    assert heaps("usual") > 1
    assert heaps("small") == 1


def test_garbage_collection_stops_only_during_the_imports_even_if_one_fails() -> None:
    try:
        with quick_imports():
            assert not gc.isenabled()
        assert gc.isenabled() and gc.get_freeze_count() > 10_000
        gc.unfreeze()
        with pytest.raises(ImportError), quick_imports():
            raise ImportError
        with quick_imports(freeze=False):  # a model that is replaced later must be freed
            assert not gc.isenabled()
        assert gc.isenabled() and not gc.get_freeze_count()
    finally:
        gc.unfreeze()
