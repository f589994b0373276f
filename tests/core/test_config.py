from pathlib import Path
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from zsad_core.config import StrictModel, read_yaml, validate
from zsad_core.errors import ConfigError


class Inner(StrictModel):
    rate_hz: Annotated[float, Field(gt=0, le=100)] = 1.0
    path: Path | None = None


class Outer(StrictModel):
    count: int
    inner: Inner = Inner()
    many: tuple[Inner, ...] = ()


def faults(tmp_path: Path, text: str) -> list[str]:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        values, lines = read_yaml(file)
        validate(Outer, values, str(file), lines)
    return [line.removeprefix(str(file)) for line in str(caught.value).splitlines()]


def test_values_are_typed_and_defaults_are_kept(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("count: 3\ninner: {path: /a/b}\nmany:\n  - rate_hz: 2\n")
    values, lines = read_yaml(file)
    assert validate(Outer, values, str(file), lines) == Outer(
        count=3, inner=Inner(path=Path("/a/b")), many=(Inner(rate_hz=2.0),)
    )


def test_every_fault_is_named_with_line_key_value_and_what_is_allowed(tmp_path):
    found = faults(tmp_path, "count: many\ninner:\n  rate_hz: 500\n  rat: 1\nmany:\n  - rate_hz: -1\n")
    assert found == [
        ":1: count: got 'many'. Input should be a valid integer",
        ":3: inner.rate_hz: got 500. Input should be less than or equal to 100",
        ":4: inner.rat: unknown key. Known here: path, rate_hz",
        ":6: many.0.rate_hz: got -1. Input should be greater than 0",
    ]


def test_a_missing_key_is_named(tmp_path):
    assert faults(tmp_path, "inner: {}\n") == [": count: missing, and it has no default"]


@pytest.mark.parametrize("text", ["count: '3'", "count: 3.5", "count: true", "count: 2026-11-22", "count: .nan"])
def test_nothing_is_converted_silently(tmp_path, text):
    assert faults(tmp_path, text)[0].startswith(":1: count: got")


@pytest.mark.parametrize("text", ["[1, 2]", "just text", "3"])
def test_a_file_without_keys_is_refused(tmp_path, text):
    assert "expected keys and values" in faults(tmp_path, text)[0]


def test_a_key_given_twice_is_refused(tmp_path):
    assert faults(tmp_path, "count: 1\ncount: 2\n") == [":2: key 'count' is given twice"]


def test_broken_yaml_is_named_with_its_line(tmp_path):
    assert faults(tmp_path, "count: 1\ninner: {path\n")[0].startswith(":3:")


def test_credentials_of_a_url_are_not_shown(tmp_path):
    (found,) = faults(tmp_path, "count: rtsp://admin:secret@10.0.0.7/stream\n")
    assert "secret" not in found and "rtsp://***@10.0.0.7/stream" in found


def test_an_unreadable_file_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ConfigError):
        read_yaml(tmp_path / "binary.yaml")


@given(st.text(max_size=80) | st.binary(max_size=80).map(lambda raw: raw.decode("latin-1")))
def test_any_text_gives_a_config_or_a_config_error(text: str):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "c.yaml"
        file.write_text(text, encoding="utf-8")
        try:
            values, lines = read_yaml(file)
            validate(Outer, values, str(file), lines)
        except ConfigError as error:
            assert str(error).startswith(str(file))


@pytest.mark.parametrize("text", ["? [a, b]\n: 1\n", "? {a: b}\n: 1\n", "count: !!map [a]\n", "inner: !!map x\n"])
def test_keys_that_are_not_scalars_and_false_mappings_are_named_with_their_line(tmp_path, text):
    assert faults(tmp_path, text)[0].startswith(":1: expected a ")


@pytest.mark.parametrize(
    ("value", "said"), [(r'"/a\0b"', "must not hold the character NUL"), (r'"/a\ud800b"', "must be UTF-8")]
)
def test_text_that_cannot_be_a_file_name_is_named(tmp_path, value, said):
    (found,) = faults(tmp_path, f"count: 1\nmany:\n  - path: {value}\n")
    assert found.startswith(":3: many.0.path: got '/a") and found.endswith(said)


def test_an_empty_section_is_left_out_and_an_empty_key_is_named(tmp_path):
    assert validate(Outer, {"count": 1, "inner": None}, "flags") == Outer(count=1)
    assert faults(tmp_path, "count:\n")[0].startswith(":1: count: has no value. Give it one or leave the key out.")
