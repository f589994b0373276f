"""Randomly changed bundles: each is refused with a BundleError, or is equal to the signed bundle."""

import json
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_attacks import copy_bundle, make_key, rehash, sign_folder, trusted, zip_folder
from chaos_record import record
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from zsad_core.bundle import MANIFEST, MODEL_BIN, MODEL_XML, PROMPTS, SIGNATURE, Bundle, load_bundle
from zsad_core.errors import BundleError

SHORT, LONG = 120, 2_500  # examples of each attack
HANGS_AFTER_S = 60
KEYS = (trusted(make_key(1)),)

# Values for numeric fields of a .zip or .npy: limits of ranges, markers of zip64, signatures.
WORDS = [b"\0" * 4, b"\xff" * 4, b"\xff\xff\xff\x7f", b"\1\0\0\0", b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6", b"../a"]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["../x", "\0", "model.xml", "0" * 64, "\ud800", "object"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


class Workshop:
    """A signed bundle, and a folder for its mutations."""

    def __init__(self, tiny_bundle: Path, folder: Path) -> None:
        self.whole = load_bundle(sign_folder(copy_bundle(tiny_bundle, folder / "whole"), make_key(1)), KEYS)
        self.zipped = zip_folder(self.whole.path, folder / "whole.zip").read_bytes()
        self.zip = folder / "changed.zip"
        self.folder = folder / "changed"

    def file(self, name: str) -> bytes:
        return (self.whole.path / name).read_bytes()

    def restore(self) -> Path:
        shutil.copytree(self.whole.path, self.folder, dirs_exist_ok=True)
        return self.folder


@pytest.fixture(scope="module")
def workshop(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tiny_bundle, tmp_path_factory.mktemp("fuzz"))


def changed(data: st.DataObject, content: bytes) -> bytes:
    """Removes, inserts or overwrites one to four pieces of `content`."""
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        kind = data.draw(st.sampled_from(["over", "word", "cut", "insert", "end", "twice"]))
        piece = data.draw(st.sampled_from(WORDS) if kind == "word" else st.binary(min_size=1, max_size=6))
        length = data.draw(st.integers(0, 200)) if kind in ("cut", "twice") else len(piece)
        if kind in ("over", "word"):
            content = content[:at] + piece + content[at + length :]
        elif kind == "cut":
            content = content[:at] + content[at + length :]
        elif kind == "insert":
            content = content[:at] + piece + content[at:]
        elif kind == "twice":
            content = content[: at + length] + content[at:]
        else:
            content = content[:at]
    return content


def zip_is_changed(data: st.DataObject, workshop: Workshop) -> Path:
    workshop.zip.write_bytes(changed(data, workshop.zipped))
    return workshop.zip


def a_file_is_changed(data: st.DataObject, workshop: Workshop) -> Path:
    name = data.draw(st.sampled_from([MANIFEST, SIGNATURE, MODEL_XML, MODEL_BIN, PROMPTS]))
    (workshop.restore() / name).write_bytes(changed(data, workshop.file(name)))
    return workshop.folder


def a_file_is_changed_with_its_hash(data: st.DataObject, workshop: Workshop) -> Path:
    name = data.draw(st.sampled_from([MODEL_XML, MODEL_BIN, PROMPTS, PROMPTS]))
    (workshop.restore() / name).write_bytes(changed(data, workshop.file(name)))
    return rehash(workshop.folder)


def a_value_of_the_manifest_is_changed(data: st.DataObject, workshop: Workshop) -> Path:
    manifest: Any = json.loads(workshop.file(MANIFEST))
    inside = manifest
    while True:
        key = data.draw(st.sampled_from(list(inside) if isinstance(inside, dict) else list(range(len(inside)))))
        if not (isinstance(inside[key], dict | list) and inside[key] and data.draw(st.booleans())):
            break
        inside = inside[key]
    inside[key] = data.draw(VALUES)
    (workshop.restore() / MANIFEST).write_text(json.dumps(manifest), errors="surrogatepass")
    return workshop.folder


ATTACKS = [
    zip_is_changed,
    a_file_is_changed,
    a_file_is_changed_with_its_hash,
    a_value_of_the_manifest_is_changed,
]


@contextmanager
def fail_on_hang() -> Iterator[None]:
    def tell(number: int, frame: object) -> None:
        raise AssertionError(f"still loading after {HANGS_AFTER_S} s")

    before = signal.signal(signal.SIGALRM, tell)
    signal.alarm(HANGS_AFTER_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def attempt(path: Path, keys: Any) -> Bundle | None:
    """The bundle; None if it is refused with a BundleError."""
    with fail_on_hang():
        try:
            return load_bundle(path, keys)
        except BundleError as error:
            assert str(error).strip()
            return None


@pytest.mark.parametrize("examples", [SHORT, pytest.param(LONG, marks=pytest.mark.chaos)])
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_randomly_changed_bundle_is_refused_or_equals_the_signed_one(
    workshop: Workshop, attack: Callable[[st.DataObject, Workshop], Path], examples: int
) -> None:
    counts: Counter[str] = Counter()

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=examples == SHORT,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def run(data: st.DataObject) -> None:
        path = attack(data, workshop)
        vouched, whole = attempt(path, KEYS), workshop.whole
        counts["tried"] += 1
        counts["accepted"] += vouched is not None
        if vouched is not None:
            assert vouched.manifest == whole.manifest
            assert (vouched.sha256, vouched.model_xml, vouched.model_bin, vouched.signed_by) == (
                whole.sha256,
                whole.model_xml,
                whole.model_bin,
                whole.signed_by,
            )
        unsigned = attempt(path, ())
        if unsigned is not None and unsigned.prompt_bank is not None:
            assert all(np.isfinite(array).all() for array in unsigned.prompt_bank.embeddings.values())
        counts["accepted unsigned"] += unsigned is not None

    started_s = time.monotonic()
    run()
    assert counts["tried"] >= examples
    assert counts["accepted"] < counts["tried"] / 2  # else the attack itself is wrong
    if examples == LONG:
        note = f"{counts['accepted']} equal the signed bundle, {counts['accepted unsigned']} load without keys"
        record(
            f"bundle fuzz: {attack.__name__.replace('_', ' ')}",
            tried=counts["tried"],
            lost=0,
            doubled=0,
            recover_s=None,
            note=f"{note}; no other exception, {time.monotonic() - started_s:.0f} s",
        )
