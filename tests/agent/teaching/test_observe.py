import numpy as np
import pytest
from taught_fakes import ColourNetworks, PlainDetector, good_part

from zsad_agent.teaching import Observer
from zsad_agent.teaching import observe as observe_module
from zsad_agent.teaching.observe import BLOCK, Memory, Search
from zsad_core.errors import DeviceError
from zsad_core.part import PartModel


def unit(*shape: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors.astype(np.float16).astype(np.float32)  # as a profile has them


def test_distances_are_those_of_numpy_for_any_number_of_tokens() -> None:
    search = Search(rows=50, width=24, queries=16)
    vectors = unit(50, 24)
    for shape in ((16,), (8, 8), (5, 7), (1,)):
        tokens = unit(*shape, 24, seed=1)
        found = search.distances(tokens, Memory(vectors, 50))
        assert found.shape == shape
        assert np.allclose(found, 1 - (tokens @ vectors.T).max(axis=-1), atol=1e-6)
    assert search.time_ms() > 0


def test_smaller_memory_and_another_product_need_no_other_graph() -> None:
    search = Search(rows=50, width=24, queries=16)
    tokens = unit(16, 24, seed=1)
    for vectors in (unit(50, 24), unit(3, 24, seed=2), unit(50, 24).astype(np.float16)):
        expected = 1 - (tokens @ vectors.astype(np.float32).T).max(axis=-1)
        assert np.allclose(search.distances(tokens, Memory(vectors, 50)), expected, atol=1e-6)


@pytest.mark.parametrize("count", [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 300])
def test_every_vector_of_a_large_memory_is_found_and_none_is_copied(count: int) -> None:
    search = Search(rows=2 * BLOCK + 300, width=24, queries=16)
    vectors = unit(count, 24).astype(np.float16)
    memory = Memory(vectors, search.rows)
    assert np.shares_memory(memory.vectors, vectors) == (count >= BLOCK)
    assert np.allclose(search.distances(vectors.astype(np.float32), memory), 0, atol=1e-3)
    tokens = unit(20, 24, seed=1)
    expected = 1 - (tokens @ vectors.astype(np.float32).T).max(axis=-1)
    assert np.allclose(search.distances(tokens, memory), expected, atol=1e-6)


def test_scales_of_equal_size_share_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[int] = []

    class Counted(Search):
        def __init__(self, *, rows: int, width: int, queries: int) -> None:
            compiled.append(rows)
            super().__init__(rows=rows, width=width, queries=queries)

    monkeypatch.setattr(observe_module, "Search", Counted)
    observer = Observer(PlainDetector(), ColourNetworks("a-whole", "a-tiles"))  # type: ignore[arg-type]
    width, rows = (getattr(observer.scales["a-whole"], name) for name in ("width", "memory"))
    memories = {name: observer.memory(name, unit(3, width)) for name in ("a-whole", "a-tiles")}
    observer.memory("a-whole", unit(3, width), rows=7)
    assert compiled == [rows, 7]
    seen = observer.observe(good_part(0), "lid", PartModel(mode="frame", goods=3), memories)
    for name, memory in memories.items():
        observer.distances(seen, name, memory)
    assert compiled == [rows, 7]  # the first picture compiles nothing


def test_nan_is_an_error_and_not_a_good_part() -> None:
    search = Search(rows=4, width=8, queries=4)
    tokens = unit(4, 8)
    tokens[2] = np.nan
    with pytest.raises(DeviceError, match="NaN"):
        search.distances(tokens, Memory(unit(4, 8, seed=1), 4))
