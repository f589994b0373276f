"""The profile file: written, read, and refused when anything in it differs."""

import io
import json
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from profile_maker import BUNDLE, make_profile

from zsad_agent.teaching import KeptPicture, decode_profile, encode_profile, read_profile, write_profile
from zsad_agent.teaching import profile as profile_module
from zsad_core.errors import ProfileError


def with_digest(body: bytes) -> bytes:
    return body + sha256(body).hexdigest().encode()


def rewritten(content: bytes, change: Callable[[dict[str, bytes]], None]) -> bytes:
    """The profile with changed members and a digest that fits, as an attacker or a newer version writes it."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, member)
        archive.comment = b"0" * 64
    return with_digest(buffer.getvalue()[:-64])


def with_facts(**changes: object) -> Callable[[dict[str, bytes]], None]:
    def change(members: dict[str, bytes]) -> None:
        members["profile.json"] = json.dumps(json.loads(members["profile.json"]) | changes).encode()

    return change


def with_member(name: str, member: bytes) -> Callable[[dict[str, bytes]], None]:
    """Replaces a member, and its hash."""

    def change(members: dict[str, bytes]) -> None:
        members[name] = member
        facts = json.loads(members["profile.json"])
        facts["members"][name] = sha256(member).hexdigest()
        members["profile.json"] = json.dumps(facts).encode()

    return change


def npy(array: np.ndarray, *, allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


def test_a_profile_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "1.profile"
    made = make_profile()
    written = write_profile(made, path)
    read = read_profile(path)
    assert read.sha256 == written.sha256 == sha256(path.read_bytes()).hexdigest()
    assert (read.product, read.levels, read.goods_scores, read.goods) == (
        made.product,
        made.levels,
        made.goods_scores,
        made.goods,
    )
    assert (read.part, read.bundle, read.made_at, read.asked_rate) == (
        made.part,
        made.bundle,
        made.made_at,
        made.asked_rate,
    )
    np.testing.assert_array_equal(read.scales["vit-whole"].vectors, made.scales["vit-whole"].vectors)
    assert read.scales["vit-whole"].spread == made.scales["vit-whole"].spread
    assert (read.zero_shot_weight, read.background) == (made.zero_shot_weight, made.background)
    assert made.ignored is not None and read.ignored is not None
    np.testing.assert_array_equal(read.ignored, made.ignored)
    assert read.goods[1].image().shape == (24, 24, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["1.profile"]


def test_the_same_profile_gives_the_same_file() -> None:
    assert encode_profile(make_profile()) == encode_profile(make_profile())


def test_every_cut_is_refused() -> None:
    content = encode_profile(make_profile(goods=1))
    for length in [*range(0, len(content), 7), len(content) - 1]:
        with pytest.raises(ProfileError, match=r"mine\.profile: .*teach the product again"):
            decode_profile(content[:length], "mine.profile")


def test_every_flipped_byte_is_refused() -> None:
    content = encode_profile(make_profile(goods=1))
    for place in range(0, len(content)):
        changed = bytearray(content)
        changed[place] ^= 0x10
        with pytest.raises(ProfileError, match=r"mine\.profile: .*rollback"):
            decode_profile(bytes(changed), "mine.profile")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            with_facts(format_version=2, needs_agent="0.9.0"),
            "profile format 2, this agent reads 1. It needs zsad-agent 0.9.0",
        ),
        (with_facts(format_version="1"), "format_version"),
        (with_facts(product="../../etc"), "product"),
        (with_facts(goods_scores=[float("nan")]), "goods_scores"),
        (with_facts(levels=[]), "levels"),
        (with_facts(goods=["a"] * 61), "goods"),
        (with_facts(ignored_hw=[5, 6]), r"array \(4, 6\)"),
        (lambda members: members.pop("vit-whole.npy"), "members are not those"),
        (lambda members: members.update(extra=b""), "members are not those"),
        (lambda members: members.pop("profile.json"), "profile.json"),
        (
            with_member("vit-whole.npy", npy(np.zeros((5, 9), np.float16))),
            r"array \(5, 9\) of float16, expected \(5, 8\)",
        ),
        (with_member("vit-whole.npy", npy(np.full((5, 8), np.nan, np.float16))), "not finite"),
        (with_member("vit-whole.npy", npy(np.array([[None] * 8] * 5), allow_pickle=True)), "of object"),
        (with_member("vit-whole.npy", npy(np.zeros((5, 8), np.float16)) + b"more"), "expected"),
        (with_member("vit-whole.npy", b"no array"), "magic"),
    ],
)
def test_a_foreign_profile_is_refused(change: Callable[[dict[str, bytes]], None], told: str) -> None:
    with pytest.raises(ProfileError, match=rf"mine\.profile: .*{told}"):
        decode_profile(rewritten(encode_profile(make_profile()), change), "mine.profile")


def test_a_profile_of_an_earlier_agent_fits_no_bundle() -> None:
    def drop(members: dict[str, bytes]) -> None:
        facts = json.loads(members["profile.json"])
        del facts["background"]
        members["profile.json"] = json.dumps(facts).encode()

    content = encode_profile(make_profile())
    assert decode_profile(content, "mine.profile").fits(BUNDLE.sha256)
    assert not decode_profile(content, "mine.profile").fits("cd" * 32)
    assert not decode_profile(rewritten(content, drop), "mine.profile").fits(BUNDLE.sha256)


def test_unknown_keys_of_a_newer_agent_are_ignored() -> None:
    read = decode_profile(rewritten(encode_profile(make_profile()), with_facts(news=1)), "mine.profile")
    assert read.product == "nut"


@pytest.mark.parametrize("content", [b"", b"PK", b"\xff\xd8\xff" * 100, with_digest(b"PK\3\4" + bytes(500))], ids=len)
def test_another_file_is_refused(content: bytes) -> None:
    with pytest.raises(ProfileError, match=r"mine\.profile: "):
        decode_profile(content, "mine.profile")


def test_kept_pictures_are_shrunk_until_the_file_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = len(encode_profile(make_profile(goods=3, side=1200)))
    monkeypatch.setattr(profile_module, "MAX_BYTES", whole // 2)
    content = encode_profile(make_profile(goods=3, side=1200))
    assert len(content) <= whole // 2
    sides = {good.image().shape[0] for good in decode_profile(content, "x").goods}
    assert len(sides) == 1 and 224 <= sides.pop() < 1024


def test_memories_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile_module, "MAX_BYTES", 1500)
    with pytest.raises(ProfileError, match=r"the profile of nut has [0-9]+ bytes, at most 1500 fit"):
        encode_profile(make_profile())


def test_a_kept_picture_has_at_most_1024_pixels_a_side() -> None:
    kept = KeptPicture.of("a.png", np.full((500, 3000, 3), 90, np.uint8))
    assert kept.image().shape == (171, 1024, 3)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"no\.profile: the profile cannot be read: No such file.*rollback"):
        read_profile(tmp_path / "no.profile")
