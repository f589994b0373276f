import shutil
import stat
import zipfile
from pathlib import Path

import pytest
from bundle_attacks import copy_bundle, zip_folder

from zsad_convert.bundle import rewrite_bundle
from zsad_convert.cli import main
from zsad_core.bundle import (
    MANIFEST,
    MODEL_BIN,
    SIGNATURE,
    check_profile_signature,
    is_signed,
    load_bundle,
    read_trusted_keys,
)


@pytest.fixture(params=["folder", "zip", "zip of the folder"])
def bundle(request, tiny_bundle, tmp_path) -> Path:
    folder = copy_bundle(tiny_bundle, tmp_path / "b" / "small")
    (folder / "NOTES.txt").write_text("any other file")
    if request.param == "folder":
        return folder
    if request.param == "zip":
        return zip_folder(folder, tmp_path / "b.zip")
    return Path(shutil.make_archive(str(tmp_path / "around"), "zip", folder.parent, folder.name))


def keygen(tmp_path: Path, name: str, *flags: object) -> Path:
    assert main(["keygen", "--out", str(tmp_path / name), *map(str, flags)]) == 0
    return tmp_path / f"{name}.key"


def sign(bundle: Path, key: Path, *flags: object) -> int:
    return main(["sign", str(bundle), "--key", str(key), *map(str, flags)])


def test_signed_bundle_loads_with_the_public_key_and_keeps_its_files(bundle, tmp_path):
    before = load_bundle(bundle)
    assert sign(bundle, keygen(tmp_path, "line")) == 0
    after = load_bundle(bundle, read_trusted_keys([tmp_path / "line.pub"]))
    assert (after.sha256, after.model_bin) == (before.sha256, before.model_bin)
    names = [path.name for path in bundle.iterdir()] if bundle.is_dir() else zipfile.ZipFile(bundle).namelist()
    assert sum(name.endswith("NOTES.txt") for name in names) == 1


def test_a_profile_is_signed_beside_its_file(tmp_path, capsys):
    profile = tmp_path / "nut.profile"
    profile.write_bytes(b"what was taught")
    assert sign(profile, keygen(tmp_path, "line")) == 0
    check_profile_signature(profile.read_bytes(), profile, read_trusted_keys([tmp_path / "line.pub"]))
    assert sign(tmp_path / "none.profile", tmp_path / "line.key") != 0
    assert "none.profile: No such file" in capsys.readouterr().err


def test_signing_again_replaces_the_signature(bundle, tmp_path):
    for name in ("first", "second"):
        assert sign(bundle, keygen(tmp_path, name)) == 0
    second = read_trusted_keys([tmp_path / "second.pub"])
    assert load_bundle(bundle, second).signed_by == second[0].key_id


def test_a_rewritten_manifest_drops_the_signature(bundle, tmp_path):
    sign(bundle, keygen(tmp_path, "line"))
    manifest = (load_bundle(bundle).manifest.model_dump_json() + " ").encode()
    rewrite_bundle(bundle, {MANIFEST: manifest}, bundle)
    assert not is_signed(bundle)
    load_bundle(bundle)


def test_only_the_owner_can_read_the_private_key_and_no_file_is_overwritten(tmp_path, capsys):
    key = keygen(tmp_path, "line")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert b"PRIVATE" not in (tmp_path / "line.pub").read_bytes()
    before = key.read_bytes()
    assert main(["keygen", "--out", str(tmp_path / "line")]) == 2
    assert "already exists" in capsys.readouterr().err
    assert key.read_bytes() == before
    (tmp_path / "half.pub").touch()
    assert main(["keygen", "--out", str(tmp_path / "half")]) == 2
    assert not (tmp_path / "half.key").exists()


def test_key_with_a_passphrase_needs_it(tiny_bundle, tmp_path, capsys):
    bundle = copy_bundle(tiny_bundle, tmp_path / "b")
    (tmp_path / "pass").write_text("correct horse\n")
    (tmp_path / "wrong").write_text("battery staple\n")
    key = keygen(tmp_path, "line", "--passphrase-file", tmp_path / "pass")
    assert b"ENCRYPTED" in key.read_bytes()
    assert sign(bundle, key) == 2
    assert "--passphrase-file" in capsys.readouterr().err
    assert sign(bundle, key, "--passphrase-file", tmp_path / "wrong") == 2
    assert "wrong passphrase" in capsys.readouterr().err
    assert not is_signed(bundle)
    assert sign(bundle, key, "--passphrase-file", tmp_path / "pass") == 0
    load_bundle(bundle, read_trusted_keys([tmp_path / "line.pub"]))


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "No such file"), (b"", "not a PEM"), (b"-----BEGIN PRIVATE KEY-----", "cannot be read")],
)
def test_an_invalid_key_file_is_an_error(tiny_bundle, tmp_path, capsys, content, said):
    if content is not None:
        (tmp_path / "bad.key").write_bytes(content)
    assert sign(tiny_bundle, tmp_path / "bad.key") == 2
    assert said in capsys.readouterr().err


def test_signing_with_the_public_key_is_an_error(tiny_bundle, tmp_path, capsys):
    keygen(tmp_path, "line")
    assert sign(tiny_bundle, tmp_path / "line.pub") == 2
    assert "Name the .key" in capsys.readouterr().err


def test_a_broken_bundle_is_not_signed(tiny_bundle, tmp_path, capsys):
    bundle = copy_bundle(tiny_bundle, tmp_path / "b")
    (bundle / MODEL_BIN).write_bytes(b"other")
    assert sign(bundle, keygen(tmp_path, "line")) == 1
    assert "was changed" in capsys.readouterr().err
    assert not (bundle / SIGNATURE).exists()
