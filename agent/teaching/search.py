"""Nearest neighbours in a memory by one matrix product in OpenVINO.

The memory is an input of the compiled graph: switching the product compiles nothing.
"""

import time
from typing import Any

import numpy as np

from zsad_core.errors import DeviceError
from zsad_core.openvino_offline import import_openvino, openvino_core


class Memory:
    """The vectors of one scale, ready for the search."""

    def __init__(self, vectors: np.ndarray, rows: int) -> None:
        """Takes float [M, C] vectors of unit length, M from 1 to `rows`. The first one fills the rows that are left."""
        self.vectors = np.empty((rows, vectors.shape[1]), np.float32)
        self.vectors[: len(vectors)] = vectors
        self.vectors[len(vectors) :] = vectors[0]
        self.tensor = import_openvino().Tensor(self.vectors, shared_memory=True)

    def without(self, left_out: np.ndarray) -> "Memory":
        """A copy without the vectors where bool [M] is True, which must leave one."""
        return Memory(self.vectors[: len(left_out)][~left_out], len(self.vectors))


class Search:
    """The compiled search of one scale. For one thread at a time."""

    def __init__(self, *, rows: int, width: int, queries: int) -> None:
        """Compiles the search.

        Args:
            rows: most vectors of a memory.
            width: of a vector.
            queries: tokens of one tile, searched at a time: their similarities stay in the processor's cache.

        Raises:
            DeviceError: OpenVINO cannot compile it.
        """
        self._queries = np.zeros((queries, width), np.float32)
        self.rows = rows
        try:
            self._request = _compile(rows, width, queries).create_infer_request()
            self._request.set_input_tensor(0, import_openvino().Tensor(self._queries, shared_memory=True))
        except RuntimeError as error:
            raise DeviceError(f"the search in the memory cannot be compiled: {error}") from error

    def time_ms(self) -> float:
        """Measures the time for the tokens of one tile."""
        memory = Memory(np.ones((1, self._queries.shape[1]), np.float32), self.rows)
        times_s = []
        for _ in range(4):  # the first one also creates the kernels
            started_s = time.perf_counter()
            self.distances(np.ones_like(self._queries), memory)
            times_s.append(time.perf_counter() - started_s)
        return 1000 * min(times_s)

    def distances(self, tokens: np.ndarray, memory: Memory) -> np.ndarray:
        """float32 [...]: 1 - cosine of each token's nearest vector, in [0, 2].

        Args:
            tokens: float [..., C], unit length.
            memory: of this scale.

        Raises:
            DeviceError: the search fails, or a token is not a number.
        """
        flat = tokens.reshape(-1, tokens.shape[-1])
        found = np.empty(len(flat), np.float32)
        count = len(self._queries)
        try:
            self._request.set_input_tensor(1, memory.tensor)
            for start in range(0, len(flat), count):
                part = flat[start : start + count]
                self._queries[: len(part)] = part
                self._request.infer()
                found[start : start + count] = self._request.get_output_tensor().data[: len(part)]
        except RuntimeError as error:
            raise DeviceError(f"the search in the memory failed: {error}") from error
        if not np.isfinite(found).all():
            raise DeviceError(f"the search in the memory gave {int((~np.isfinite(found)).sum())} values that are NaN")
        return np.clip(1 - found, 0, 2).reshape(tokens.shape[:-1])


def _compile(rows: int, width: int, queries: int) -> Any:
    """The compiled graph: queries [Q, C], vectors [M, C] -> [Q], the highest product of each query."""
    ov = import_openvino()
    import openvino.opset13 as ops

    tokens, vectors = ops.parameter([queries, width], np.float32), ops.parameter([rows, width], np.float32)
    products = ops.matmul(tokens, vectors, transpose_a=False, transpose_b=True)
    highest = ops.reduce_max(products, np.array([1]), keep_dims=False)
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}  # bf16 is as coarse as the distances
    return openvino_core().compile_model(ov.Model([highest], [tokens, vectors]), "CPU", options)
