"""Malicious bundles. None of them is loaded, and none takes much time or memory."""

import io
import json
import os
import struct
import time
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bundle_attacks import copy_bundle, rehash, zip_folder

from zsad_core.bundle import MANIFEST, MODEL_BIN, MODEL_XML, PROMPTS, PromptBank, load_bundle
from zsad_core.bundle.files import MAX_DIRECTORY_BYTES, MAX_MEMBERS
from zsad_core.bundle.format import MAX_PROMPT_VALUES
from zsad_core.errors import BundleError

MAX_SECONDS, MAX_BYTES = 20.0, 100_000_000  # far above the needs of these tests on a busy machine, far below a zip bomb
SHAPE = (2, 2, 8)


@pytest.fixture
def copy(tiny_bundle, tmp_path) -> Path:
    return copy_bundle(tiny_bundle, tmp_path / "bundle")


@pytest.fixture
def archive(copy, tmp_path) -> Path:
    return zip_folder(copy, tmp_path / "bundle.zip")


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    tracemalloc.start()
    started_s = time.process_time()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MAX_BYTES
    assert time.process_time() - started_s < MAX_SECONDS


def add(archive: Path, member: zipfile.ZipInfo | str, content: bytes = b"x") -> None:
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # for a duplicate name
        file.writestr(member, content)


def of_kind(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


@pytest.mark.parametrize(
    "name",
    ["../evil", "a/../../evil", "/etc/cron.d/evil", "..", "a\\..\\evil", "\\evil", "C:evil", "C:/evil", "c:\\evil"],
)
def test_a_zip_with_a_name_that_leads_out_is_refused(archive, name):
    add(archive, name)
    with pytest.raises(BundleError, match="leads out of the folder"):
        load_bundle(archive)


@pytest.mark.parametrize("mode", [0o120777, 0o010644, 0o020644, 0o060644, 0o140755])
def test_a_zip_with_a_link_pipe_device_or_socket_is_refused(archive, mode):
    add(archive, of_kind("extra", mode), b"/etc/shadow")
    with pytest.raises(BundleError, match="a link or a device"):
        load_bundle(archive)


@pytest.mark.parametrize("name", [MANIFEST, MODEL_BIN, "NOTES.txt"])
def test_a_zip_with_a_name_twice_is_refused(archive, name):
    add(archive, name)
    add(archive, name)
    with pytest.raises(BundleError, match=f"'{name}' occurs"):
        load_bundle(archive)


def test_an_encrypted_zip_is_refused(archive):
    whole = bytearray(archive.read_bytes())
    at = 0
    while (at := whole.find(b"PK\1\2", at)) >= 0:
        whole[at + 8] |= 1
        at += 4
    archive.write_bytes(whole)
    with pytest.raises(BundleError, match=r"is encrypted\. Zip the bundle again"):
        load_bundle(archive)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compression_without_bounded_reading_is_refused(copy, tmp_path, method):
    with zipfile.ZipFile(tmp_path / "b.zip", "w", method) as file:
        for path in copy.iterdir():
            file.write(path, path.name)
    with pytest.raises(BundleError, match="compression other than deflate"):
        load_bundle(tmp_path / "b.zip")


def test_a_bomb_in_an_unread_file_is_refused_by_its_ratio(archive):
    add(archive, "bomb", bytes(20_000_000))
    with pytest.raises(BundleError, match=r"inflates .* bytes to 20000000"):
        load_bundle(archive)


@pytest.mark.parametrize("name", [MANIFEST, MODEL_XML, MODEL_BIN])
def test_a_member_that_inflates_to_more_than_the_directory_says_is_refused(copy, tmp_path, name):
    archive = tmp_path / "bundle.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in copy.iterdir():
            content = path.read_bytes()
            file.writestr(path.name, content + bytes(30_000_000) if path.name == name else content)
    stated = (copy / name).stat().st_size
    whole = bytearray(archive.read_bytes())
    checksum = zlib.crc32((copy / name).read_bytes() + b"\0")
    for signature, crc_at, size_at, name_at in ((b"PK\3\4", 14, 22, 30), (b"PK\1\2", 16, 24, 46)):
        at = whole.find(signature)
        while whole[at + name_at : at + name_at + len(name)] != name.encode():
            at = whole.find(signature, at + 4)
        struct.pack_into("<I", whole, at + crc_at, checksum)
        struct.pack_into("<I", whole, at + size_at, stated + 1)
    archive.write_bytes(whole)
    with pytest.raises(BundleError):
        load_bundle(archive)


def test_a_member_that_is_shorter_than_the_directory_says_is_refused(copy, tmp_path):
    archive = zip_folder(copy, tmp_path / "b.zip")
    whole = bytearray(archive.read_bytes())
    at = whole.find(b"PK\1\2")
    struct.pack_into("<I", whole, at + 24, struct.unpack_from("<I", whole, at + 24)[0] + 100)
    archive.write_bytes(whole)
    with pytest.raises(BundleError):
        load_bundle(archive)


def test_a_zip_with_too_many_members_is_refused(archive):
    with zipfile.ZipFile(archive, "a") as file:
        for number in range(MAX_MEMBERS):
            file.writestr(f"{number}", b"")
    with pytest.raises(BundleError, match=f"at most {MAX_MEMBERS} are read"):
        load_bundle(archive)


def test_a_directory_with_a_huge_declared_size_is_not_read(archive):
    whole = archive.read_bytes()
    end = bytearray(whole[whole.rfind(b"PK\5\6") :])
    padding = bytes(MAX_DIRECTORY_BYTES + 1_000)
    struct.pack_into("<II", end, 12, MAX_DIRECTORY_BYTES + 1, len(whole))
    archive.write_bytes(whole + padding + end)
    with pytest.raises(BundleError, match="directory has"):
        load_bundle(archive)


def test_a_zip_inside_the_zip_is_ignored(archive, tmp_path):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as file:
        file.writestr("../evil", b"x")
    add(archive, "inner.zip", inner.getvalue())
    load_bundle(archive)
    assert not (tmp_path / "evil").exists()


def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_not(copy, tmp_path):
    (copy / MODEL_BIN).rename(tmp_path / "elsewhere")
    (copy / MODEL_BIN).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="a link out of the bundle"):
        load_bundle(copy)
    (copy / MODEL_BIN).unlink()
    (tmp_path / "elsewhere").rename(copy / "weights")
    (copy / MODEL_BIN).symlink_to("weights")
    load_bundle(copy)
    (tmp_path / "current").symlink_to(copy)
    load_bundle(tmp_path / "current")


def test_links_in_a_circle_and_links_to_nothing_are_refused(copy):
    (copy / MODEL_BIN).unlink()
    (copy / MODEL_BIN).symlink_to(MODEL_BIN)
    with pytest.raises(BundleError, match="cannot be read"):
        load_bundle(copy)
    (copy / MODEL_BIN).unlink()
    (copy / MODEL_BIN).symlink_to("nothing")
    with pytest.raises(BundleError, match="cannot be read"):
        load_bundle(copy)


@pytest.mark.parametrize("name", [MANIFEST, MODEL_BIN])
def test_a_pipe_device_or_folder_instead_of_a_file_is_refused_without_waiting(copy, name):
    (copy / name).unlink()
    os.mkfifo(copy / name)
    with pytest.raises(BundleError, match="not a regular file"):
        load_bundle(copy)
    (copy / name).unlink()
    (copy / name).symlink_to("/dev/zero")
    with pytest.raises(BundleError, match="a link out"):
        load_bundle(copy)
    (copy / name).unlink()
    (copy / name).mkdir()
    with pytest.raises(BundleError):
        load_bundle(copy)


@pytest.mark.parametrize(("name", "size"), [(MANIFEST, 4_000_001), (MODEL_XML, 64_000_001), (MODEL_BIN, 2_000_000_001)])
def test_a_file_that_is_too_large_is_refused_by_its_size(copy, name, size):
    with (copy / name).open("r+b") as file:
        file.truncate(size)
    with pytest.raises(BundleError, match=f"{name}: {size} bytes, at most"):
        load_bundle(copy)


@pytest.mark.parametrize(
    ("fact", "value"),
    [
        ("input_hw", [10**9, 10**9]),
        ("map_hw", [8193, 1]),
        ("prompt_shape", [MAX_PROMPT_VALUES, 2]),
        ("prompt_shape", [-1, 2, 8]),
        ("prompt_shape", [0]),
    ],
)
def test_a_manifest_that_asks_for_too_much_memory_is_refused(copy, fact, value):
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest["model"][fact] = value
    (copy / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"model|prompt_shape"):
        load_bundle(copy)


LAUGHS = "".join(f'<!ENTITY a{level} "{f"&a{level - 1};" * 10}">' for level in range(1, 12))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("<net ", f'<!DOCTYPE net [<!ENTITY a0 "ha">{LAUGHS}]><net x="&a11;" ', "document type"),
        ("<net ", '<!DOCTYPE net [<!ENTITY e SYSTEM "file:///etc/passwd">]><net x="&e;" ', "document type"),
        ("<net ", '<!DOCTYPE net SYSTEM "http://127.0.0.1:1/x.dtd"><net ', "document type"),
        ("<layers>", "<layers>" + "<a>" * 100_000 + "</a>" * 100_000, "deeper than"),
        ("</net>", "", "not well-formed XML"),
        ('<?xml version="1.0"?>', '<?xml version="1.0" encoding="utf-7"?>', "not well-formed XML"),
        ('<?xml version="1.0"?>', '<?xml version="1.0" encoding="no such"?>', "not well-formed XML"),
    ],
)
def test_an_unsafe_model_xml_is_refused(copy, before, after, said):
    text = (copy / MODEL_XML).read_text()
    assert before in text
    (copy / MODEL_XML).write_text(text.replace(before, after, 1))
    with pytest.raises(BundleError, match=said):
        load_bundle(rehash(copy))


def prompts_with(bundle: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(bundle / PROMPTS, "w", method) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return rehash(bundle)


def npy(header: str, values: bytes = bytes(128)) -> bytes:
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header) + 1) + header.encode("latin-1") + b"\n" + values


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000)}", "expected finite float32"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 2)}", "expected finite float32"),
        ("{'descr': '>f4', 'fortran_order': False, 'shape': (2, 2, 8)}", "expected finite float32"),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (2, 2, 8)}", "got object"),
        ("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2, 2, 8)}", "expected finite float32"),
        ("{'descr': 'nonsense', 'fortran_order': False, 'shape': (2, 2, 8)}", "cannot be read"),
        ("(" * 3000, "cannot be read"),
        ("__import__('os').system('touch /tmp/evil')", "cannot be read"),
        ("", "cannot be read"),
    ],
)
def test_prompts_with_a_wrong_header_are_refused(copy, header, said):
    with pytest.raises(BundleError, match=said):
        load_bundle(prompts_with(copy, {"object.npy": npy(header), "bottle.npy": npy(header)}))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_prompts_with_nan_or_infinity_are_refused(copy, value):
    array = np.zeros(SHAPE, np.float32)
    array[1, 1, 7] = value
    with (copy / PROMPTS).open("wb") as file:
        np.savez(file, object=array, bottle=array)
    with pytest.raises(BundleError, match="NaN or infinity"):
        load_bundle(rehash(copy))


def test_prompts_that_inflate_like_a_bomb_are_refused(copy):
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2, 8)}"
    bomb = npy(header, bytes(20_000_000))
    with pytest.raises(BundleError, match="inflates"):
        load_bundle(prompts_with(copy, {"object.npy": bomb}, zipfile.ZIP_DEFLATED))
    with pytest.raises(BundleError, match="at most"):
        load_bundle(prompts_with(copy, {"object.npy": bomb[:500_000]}, zipfile.ZIP_DEFLATED))


def test_a_duplicate_product_in_the_prompts_is_refused(copy):
    array = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2, 8)}")
    load_bundle(prompts_with(copy, dict.fromkeys(("object.npy", "bottle.npy"), array)))
    members = dict.fromkeys(("object.npy", "object", "bottle.npy"), array)
    with pytest.raises(BundleError, match="'object' occurs twice"):
        load_bundle(prompts_with(copy, members))


def test_deflated_arrays_in_fortran_order_are_read_as_by_numpy(tmp_path):
    array = np.asfortranarray(np.arange(32, dtype=np.float32).reshape(SHAPE))
    np.savez_compressed(tmp_path / "p.npz", object=array)
    np.testing.assert_array_equal(PromptBank.load(tmp_path / "p.npz", SHAPE)["object"], array)
