"""Changes a model's weights in the memory of a running process, as a faulty memory module does."""

from pathlib import Path

import numpy as np

RUN = 64  # consecutive floats that are all weights: no other memory looks like this
CHANGED = 16  # floats of a run
MIN_REGION_BYTES = 65_536


def flip_weights(pid: int, model_bin: bytes, runs: int = 100) -> int:
    """Changes parts of about `runs` runs of float32 weights, and returns how many.

    Args:
        pid: of this process or a child.
        model_bin: float16 weights of the bundle that it has loaded.
        runs: at least.
    """
    weights = np.frombuffer(model_bin[: len(model_bin) // 2 * 2], np.float16).astype(np.float32)
    weights = np.unique(weights[np.isfinite(weights) & (np.abs(weights) > 1e-3) & (np.abs(weights) < 4)])
    found: list[tuple[int, np.ndarray]] = []
    with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
        for start, end in _heap(pid):
            try:
                memory.seek(start)
                floats = np.frombuffer(memory.read((end - start) // 4 * 4), np.float32)
            except OSError:  # freed in the meantime
                continue
            sums = np.cumsum(np.isin(floats, weights))
            found += [
                (start + 4 * int(at + 1), floats[at + 1 : at + 1 + CHANGED])
                for at in np.flatnonzero(sums[RUN:] - sums[:-RUN] == RUN)[::RUN]
            ]
        chosen = found[:: max(1, len(found) // runs)]
        for address, values in chosen:
            memory.seek(address)
            memory.write((-8 * values).tobytes())
    return len(chosen)


def _heap(pid: int) -> list[tuple[int, int]]:
    """Start and end of the larger writable regions that belong to no file."""
    regions = []
    for fields in (line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines()):
        start, end = (int(address, 16) for address in fields[0].split("-"))
        if "w" in fields[1] and end - start >= MIN_REGION_BYTES and (len(fields) < 6 or fields[5] == "[heap]"):
            regions.append((start, end))
    return regions
