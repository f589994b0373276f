"""Random config files, addresses and image files.

Each is accepted or gives one of our errors, in bounded time and memory, without secrets in the text.
"""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from chaos_record import record
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from zsad_agent.config import SourceConfig, load_settings
from zsad_agent.sources import make_source
from zsad_core.errors import ConfigError, SourceError
from zsad_core.redaction import redacted

LONGEST_S = 20.0  # limit for one input; the slowest takes 2 s on an idle machine
MAX_TEXT = 50_000  # limit for an error's text
PICTURE_PEAK_BYTES = 1_000_000_000
SECRET = "s3cr3tw0rd"

WHOLE = """\
device_id: line3
cameras:
  - {name: top, camera: 0, product: bottle, region_xywh: [0, 0, 640, 480]}
  - &side
    name: side
    source: rtsp://user:s3cr3tw0rd@10.0.0.5/ch1
    decision: {threshold: 0.4, debounce_k: 2, debounce_n: 3}
inference:
  bundle: /srv/bundle
  device: CPU
mqtt:
  broker: mqtts://broker:8883
  username: line3
  tls: {ca_file: /etc/ca.pem}
control:
  enabled: true
  max_age_s: 30.0
spool: {max_results: 1000, max_age_h: 1.5}
log_level: INFO
"""
SCALARS = st.sampled_from(
    [
        *('!!int ""', "!!bool x", "!!timestamp x", "!!float _", "!!binary x", "!!python/name:os.system", "2026-99-99"),
        *("1:59:59", ".nan", ".inf", "0x", "9" * 5000, "*side", "&side [*side]", "{<<: *side}", "{<<: [a]}", "? a"),
        *("=", "~", '"\\ud800"', '"\\0"', "[" * 400, "{a: " * 200, "- " * 200, "|", ">", "'", "%YAML 3.0", "---"),
        *("\t", "\u2028"),
    ]
)
LINES = WHOLE.splitlines(keepends=True)


@st.composite
def changed_yaml(draw: st.DrawFn) -> bytes:
    """The complete config with lines reordered, removed or repeated, and with replaced values."""
    lines = draw(st.lists(st.sampled_from(LINES), max_size=30) | st.just(LINES))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(lines)))
        key = draw(st.sampled_from(["camera", "source", "mqtt", "threshold", "cameras", "a", "<<"]))
        indent = " " * draw(st.integers(0, 4))
        lines = [*lines[:at], f"{indent}{key}: {draw(SCALARS | st.text(max_size=20))}\n", *lines[at:]]
    return "".join(lines).encode("utf-8", "surrogatepass")


@st.composite
def changed_bytes(draw: st.DrawFn) -> bytes:
    data = bytearray(WHOLE.encode())
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 30))] = draw(st.binary(max_size=8) | SCALARS.map(str.encode))
    return bytes(data)


CONFIGS = st.binary(max_size=500) | st.text(max_size=500).map(lambda text: text.encode("utf-8", "replace"))
CONFIGS = CONFIGS | changed_yaml() | changed_bytes()


def hypothesis_settings(examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=examples < 1000,
        suppress_health_check=list(HealthCheck),
    )


def judge_config(path: Path, content: bytes) -> str:
    """`accepted` or `refused`."""
    path.write_bytes(content)
    started_s = time.monotonic()
    try:
        load_settings(path)
        outcome = "accepted"
    except ConfigError as error:
        assert str(path) in str(error) or "command line" in str(error)
        assert len(str(error)) < MAX_TEXT
        outcome = "refused"
    assert time.monotonic() - started_s < LONGEST_S
    return outcome


def fuzz_configs(folder: Path, examples: int) -> Counter[str]:
    counts: Counter[str] = Counter()

    @hypothesis_settings(examples)
    @given(content=CONFIGS)
    def run(content: bytes) -> None:
        counts[judge_config(folder / "agent.yaml", content)] += 1

    run()
    return counts


def test_a_random_config_file_is_accepted_or_refused(tmp_path: Path) -> None:
    counts = fuzz_configs(tmp_path, 150)
    assert counts["refused"] > 50


@pytest.mark.chaos
def test_many_random_config_files_are_accepted_or_refused(tmp_path: Path) -> None:
    counts = fuzz_configs(tmp_path, 5_000)
    print(f"config files: {dict(counts)}")
    note = f"{counts['accepted']} accepted, {counts['refused']} refused with the key; no other error"
    record("fuzzed config files", tried=counts.total(), lost=0, doubled=0, recover_s=None, note=note)


def yaml_bomb(levels: int, link: str) -> bytes:
    """A few lines with aliases that expand to 10 ** `levels` values."""
    lines = ["a0: &a0 {x: 1}"]
    for level in range(1, levels + 1):
        inner = ", ".join([f"*a{level - 1}"] * 10)
        lines.append(f"a{level}: &a{level} {link.format(inner)}")
    return "\n".join(lines).encode()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(yaml_bomb(9, "[{}]"), "with aliases expanded", id="billion laughs"),
        pytest.param(yaml_bomb(9, "{{<<: [{}]}}"), "with aliases expanded", id="merges"),
        pytest.param(b"a: &a [*a]", "alias to a section that contains it", id="endless"),
        pytest.param(b"a: &a {b: *a}", "alias to a section that contains it", id="endless mapping"),
        pytest.param(b"[" * 200_000, "not valid YAML", id="deep"),
        pytest.param(b"a: " + b"[" * 100 + b"]" * 100, "levels deep", id="deep and closed"),
        pytest.param(b"x" * 300_000, "more than 250000 bytes", id="long"),
        pytest.param(b"\n".join(b"k%d: 1" % index for index in range(9000)), "faults more", id="many faults"),
        pytest.param(b"mqtt:\n  broker: " + b"x" * 100_000, "…", id="long value"),
        pytest.param(b'mqtt:\n  in_flight: !!int ""', "not valid YAML", id="empty number"),
        pytest.param(b"mqtt:\n  in_flight: !!bool x", "not valid YAML", id="wrong tag"),
        pytest.param(b"mqtt:\n  in_flight: !!timestamp x", "not valid YAML", id="no time"),
    ],
)
def test_a_yaml_bomb_is_refused_in_time_with_a_short_text(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "agent.yaml").write_bytes(content)
    started_s = time.monotonic()
    with pytest.raises(ConfigError, match=said) as caught:
        load_settings(tmp_path / "agent.yaml")
    assert time.monotonic() - started_s < LONGEST_S
    assert len(str(caught.value)) < MAX_TEXT


def test_a_secret_in_a_too_deep_config_is_not_shown(tmp_path: Path) -> None:
    deep = WHOLE.encode() + b"a: " + b"[" * 300 + b"]" * 300
    (tmp_path / "agent.yaml").write_bytes(deep)
    with pytest.raises(ConfigError) as caught:
        load_settings(tmp_path / "agent.yaml")
    assert SECRET not in str(caught.value)


ADDRESS_TEXT = st.text("abc019:/@?#%[]&=.-_~*\\ \n\té\u2028", max_size=12)
NO_AT_AFTER = st.text("abc019:/%[].-_", max_size=20)  # variants of the part after the credentials


@st.composite
def addresses(draw: st.DrawFn) -> str:
    """A URL with a password, in valid and in mistyped forms."""
    scheme = draw(st.sampled_from(["rtsp", "rtsps", "http", "https", "RTSP", "ftp", "mqtt", "rtsp+x", "x"]))
    slashes = draw(st.sampled_from(["://", "://", ":/", ":///"]))
    password = draw(ADDRESS_TEXT) + SECRET + draw(ADDRESS_TEXT)
    return f"{scheme}{slashes}{draw(st.sampled_from(['user', '', 'us/er', 'a@b']))}:{password}@{draw(NO_AT_AFTER)}"


@st.composite
def tokens(draw: st.DrawFn) -> str:
    return f"http://host/{draw(st.text('abc/.', max_size=9))}?token={draw(ADDRESS_TEXT)}{SECRET}{draw(ADDRESS_TEXT)}"


NAMES = st.text("abc019./~?[]!{}-\\é\n", max_size=40) | st.text(max_size=40) | st.just("a" * 5000)
NAMES = NAMES.filter(lambda name: SECRET not in name)
NUMBERS = st.text("0123456789٣²", min_size=1, max_size=6) | st.just("9" * 5000)
DEVICES = st.text("abc/.019", max_size=9).map("/dev/v4l/".__add__)


def fuzz_sources(examples: int) -> Counter[str]:
    counts: Counter[str] = Counter()

    def judge(key: str, text: str) -> None:
        texts = []
        try:
            source = make_source(SourceConfig.model_validate({key: text}))
            texts.append(source.description)
            counts["accepted"] += 1
        except ValidationError:  # an empty source is a fault of `load_settings`
            counts["refused"] += 1
        except (ConfigError, SourceError) as error:
            texts.append(str(error))
            counts["refused"] += 1
        assert not any(SECRET in shown for shown in texts), texts

    @hypothesis_settings(examples)
    @given(source=addresses() | tokens() | NAMES, camera=NUMBERS | DEVICES | addresses() | NAMES)
    def run(source: str, camera: str) -> None:
        if "**" not in source and not source.startswith("/"):  # would search the whole disk
            judge("source", source)
        judge("camera", camera)
        assert SECRET not in redacted(source)

    run()
    return counts


def test_an_address_gives_only_our_errors_and_never_shows_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert fuzz_sources(300).total() > 300


@pytest.mark.chaos
def test_many_addresses_give_only_our_errors_and_never_show_their_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    counts = fuzz_sources(20_000)
    print(f"sources: {dict(counts)}")
    note = f"{counts['accepted']} accepted, {counts['refused']} refused; no password in a text"
    record("fuzzed cameras, paths and URLs", tried=counts.total(), lost=0, doubled=0, recover_s=None, note=note)


def fuzz_pictures(folder: Path, seed: int, count: int) -> dict[str, int]:
    command = [sys.executable, str(Path(__file__).with_name("picture_fuzzer.py")), str(folder), str(seed), str(count)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120 + count / 10, check=False)
    assert ended.returncode == 0, f"exit {ended.returncode} at {ended.stderr[-2000:]}"
    counts: dict[str, int] = json.loads(ended.stdout)
    return counts


def test_a_random_image_file_is_read_or_refused_with_bounded_memory(tmp_path: Path) -> None:
    counts = fuzz_pictures(tmp_path, seed=1, count=600)
    assert counts["read"] > 50 and counts["refused"] > 100
    assert counts["peak_bytes"] < PICTURE_PEAK_BYTES


@pytest.mark.chaos
def test_many_random_image_files_are_read_or_refused_with_bounded_memory(tmp_path: Path) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    counts = fuzz_pictures(tmp_path, seed, count=40_000)
    print(f"pictures, seed {seed}: {counts}")
    assert counts["peak_bytes"] < PICTURE_PEAK_BYTES
    note = f"{counts['read']} read, {counts['refused']} refused; at most {counts['peak_bytes'] / 1e6:.0f} MB of memory"
    tried = counts["read"] + counts["refused"]
    record("mutated image files", tried=tried, lost=0, doubled=0, recover_s=None, note=note)
