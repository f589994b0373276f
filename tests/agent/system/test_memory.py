import mmap
import platform
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from zsad_agent.system import let_go_of_mapped

# Threads that each hold some memory; then how many heaps glibc says it has.
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

# Buffers of a frame of 1920 x 1080, one after the other; then how many pages had to be given for each.
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
def test_memory_of_one_frame_is_there_for_the_next() -> None:
    pages = subprocess.run([sys.executable, "-c", FRAMES], check=True, capture_output=True, text=True).stdout
    assert float(pages) < 100  # of 1,519


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of GNU's allocator")
def test_threads_share_one_heap() -> None:
    def heaps(how: str) -> int:
        command = [sys.executable, "-c", HEAPS, how]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.count("<heap nr=")

    assert heaps("usual") > 1
    assert heaps("small") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_pages_of_files_mapped_below_the_folder_are_let_go_and_read_again(tmp_path: Path) -> None:
    def resident_of(file: Path) -> int:
        return sum(region.rss for region in psutil.Process().memory_maps(grouped=False) if region.path == str(file))

    size = 2**20
    inside, outside = tmp_path / "cache of models" / "model" / "a.blob", tmp_path / "other.blob"
    inside.parent.mkdir(parents=True)
    for file in (inside, outside):
        file.write_bytes(b"7" * size)
    with inside.open("rb") as first, outside.open("rb") as second:
        mapped = [mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) for file in (first, second)]
    assert [bytes(view) == b"7" * size for view in mapped] == [True, True]
    assert (resident_of(inside), resident_of(outside)) == (size, size)
    let_go_of_mapped(tmp_path / "cache of models")
    assert (resident_of(inside), resident_of(outside)) == (0, size)
    assert mapped[0][:] == b"7" * size
