import subprocess
import sys
from pathlib import Path

import pytest
from bundle_attacks import (
    change_manifest,
    copy_bundle,
    make_key,
    rehash,
    sign_folder,
    trusted,
    write_public_key,
    zip_folder,
)
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from tiny_bundle_maker import make_tiny_bundle

from zsad_core.bundle import (
    MANIFEST,
    MODEL_BIN,
    MODEL_XML,
    PROMPTS,
    SIGNATURE,
    load_bundle,
    read_trusted_keys,
    sign_manifest,
)
from zsad_core.bundle.signature import check_signature
from zsad_core.errors import BundleError, ConfigError

OURS, THEIRS = make_key(1), make_key(2)
KEYS = (trusted(OURS),)


@pytest.fixture
def signed(tiny_bundle, tmp_path) -> Path:
    return sign_folder(copy_bundle(tiny_bundle, tmp_path / "signed"), OURS)


def test_signed_folder_and_zip_name_the_key(signed, tmp_path):
    for path in (signed, zip_folder(signed, tmp_path / "b.zip")):
        assert load_bundle(path, KEYS).signed_by == KEYS[0].key_id
        assert load_bundle(path, (trusted(THEIRS), *KEYS)).signed_by == KEYS[0].key_id
        assert load_bundle(path).signed_by is None


def test_without_keys_unsigned_and_badly_signed_bundles_are_accepted(signed):
    (signed / SIGNATURE).write_bytes(b"nothing of the kind")
    load_bundle(signed)
    (signed / SIGNATURE).unlink()
    load_bundle(signed)


def test_with_keys_an_unsigned_bundle_is_refused_with_advice(tiny_bundle, tmp_path):
    for path in (tiny_bundle, zip_folder(tiny_bundle, tmp_path / "b.zip")):
        with pytest.raises(BundleError, match=r"not signed.*zsad-convert sign"):
            load_bundle(path, KEYS)


def test_an_untrusted_key_is_named_with_the_trusted_ones(signed):
    sign_folder(signed, THEIRS)
    with pytest.raises(
        BundleError, match=f"signed with key {trusted(THEIRS).key_id}, the trusted keys are {KEYS[0].key_id}"
    ):
        load_bundle(signed, KEYS)


def test_another_keys_id_does_not_help(signed):
    forged = sign_manifest((signed / MANIFEST).read_bytes(), THEIRS)
    (signed / SIGNATURE).write_bytes(forged.replace(trusted(THEIRS).key_id.encode(), KEYS[0].key_id.encode()))
    with pytest.raises(BundleError, match="does not fit"):
        load_bundle(signed, KEYS)


@pytest.mark.parametrize("name", [MANIFEST, SIGNATURE, MODEL_XML, MODEL_BIN, PROMPTS])
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_one_flipped_byte_anywhere_in_any_file_is_refused(signed, tmp_path, name, kind):
    whole = (signed / name).read_bytes()
    for position in {0, len(whole) // 3, len(whole) // 2, len(whole) - 2, len(whole) - 1}:
        if name == SIGNATURE and position == len(whole) - 1:
            continue  # the end of the line, which a text editor may add or remove
        (signed / name).write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(BundleError):
            load_bundle(signed if kind == "folder" else zip_folder(signed, tmp_path / "b.zip"), KEYS)


@pytest.mark.parametrize("name", [MODEL_XML, MODEL_BIN, PROMPTS])
def test_a_file_changed_together_with_its_hash_is_refused_by_the_signature(signed, name):
    (signed / name).write_bytes((signed / name).read_bytes() + b" ")
    rehash(signed)
    with pytest.raises(BundleError, match="changed after it was signed"):
        load_bundle(signed, KEYS)


@pytest.mark.parametrize("names", [[MANIFEST], [SIGNATURE], [MODEL_XML], [PROMPTS], [MANIFEST, MODEL_XML, PROMPTS]])
def test_files_of_two_signed_bundles_cannot_be_mixed(signed, tmp_path, names):
    other = make_tiny_bundle(tmp_path / "other", output_scale=0.5, input_hw=(48, 48))
    (other / PROMPTS).write_bytes((other / PROMPTS).read_bytes() + b"\0")
    sign_folder(change_manifest(rehash(other), version="2"), OURS)
    for name in names:
        (signed / name).write_bytes((other / name).read_bytes())
    with pytest.raises(BundleError):
        load_bundle(signed, KEYS)


def test_the_signature_is_checked_before_the_manifest_is_parsed(signed):
    (signed / MANIFEST).write_bytes(b"[" * 1000)
    with pytest.raises(BundleError, match="changed after it was signed"):
        load_bundle(signed, KEYS)


def test_a_signature_of_the_same_bytes_for_another_purpose_is_refused():
    manifest = b"{}"
    elsewhere = f"ed25519 {KEYS[0].key_id} {OURS.sign(manifest).hex()}\n".encode()
    with pytest.raises(BundleError, match="does not fit"):
        check_signature(manifest, elsewhere, KEYS, "b")
    assert check_signature(manifest, sign_manifest(manifest, OURS), KEYS, "b") == KEYS[0].key_id


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"ed25519", b"ed25519 0 0", b"x" * 513, b"\xff" * 512])
def test_a_malformed_signature_file_is_refused(signed, content):
    (signed / SIGNATURE).write_bytes(content)
    with pytest.raises(BundleError, match=SIGNATURE):
        load_bundle(signed, KEYS)


def test_trusted_keys_are_read_from_pem(tmp_path):
    paths = [write_public_key(tmp_path / "a.pub", OURS), write_public_key(tmp_path / "b.pub", THEIRS)]
    assert [key.key_id for key in read_trusted_keys(paths)] == [KEYS[0].key_id, trusted(THEIRS).key_id]
    assert read_trusted_keys([]) == ()


def test_every_unusable_key_is_named_with_its_fault(tmp_path):
    curve = ec.generate_private_key(ec.SECP256R1()).public_key()
    private = OURS.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    big = rsa.generate_private_key(65537, 2048).public_key()
    files = {
        "text.pub": (b"no key", "not a PEM file"),
        "empty.pub": (b"", "not a PEM file"),
        "curve.pub": (curve.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), "not an Ed25519 key"),
        "rsa.pub": (big.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), "not an Ed25519 key"),
        "private.pub": (private, "is a private key"),
        "long.pub": (b"-" * 20_000, "too large for a key"),
    }
    for name, (content, _) in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_trusted_keys([*(tmp_path / name for name in files), tmp_path / "none.pub", tmp_path])
    told = str(caught.value).splitlines()
    expected = [
        *((name, fault) for name, (_, fault) in files.items()),
        ("none.pub", "No such file"),
        ("", "not a regular"),
    ]
    assert len(told) == len(expected)
    for line, (name, fault) in zip(told, expected, strict=True):
        assert name in line
        assert fault in line


def test_cryptography_is_imported_only_when_a_key_is_used(tiny_bundle):
    program = f"""
import sys
from pathlib import Path
from zsad_core.bundle import load_bundle
import zsad_agent.model.bundle_store, zsad_convert.sign
load_bundle(Path({str(tiny_bundle)!r}))
assert not [name for name in sys.modules if name.startswith("cryptography")]
"""
    subprocess.run([sys.executable, "-c", program], check=True)
