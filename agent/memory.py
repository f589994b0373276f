"""What the process holds of the machine's memory."""

import ctypes
import gc


def give_back_memory() -> None:
    """Gives the kernel what was freed and the allocator kept. Takes some 10 ms; for after what is done once.

    Compiling a model leaves tens of MB so, which nothing needs again. Without effect on a libc that is not GNU's.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
