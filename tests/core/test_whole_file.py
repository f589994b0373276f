import os

import pytest

from zsad_core.whole_file import whole_file


@pytest.mark.parametrize("in_cache", [False, True])
def test_the_file_gets_its_name_when_it_is_complete(tmp_path, in_cache):
    path = tmp_path / "table.json"
    path.write_text("old")
    with whole_file(path, in_cache=in_cache) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "table.json"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="disk full"), whole_file(path) as partial:
        partial.write_text("half")
        raise RuntimeError("disk full")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_processes_write_different_unfinished_files_in_a_cache(tmp_path, monkeypatch):
    path = tmp_path / "answer.bin"
    with whole_file(path, in_cache=True) as first:
        monkeypatch.setattr(os, "getpid", lambda: -1)
        with whole_file(path, in_cache=True) as second:
            assert first != second
            second.write_bytes(b"2")
        first.write_bytes(b"1")
    assert path.read_bytes() == b"1"
