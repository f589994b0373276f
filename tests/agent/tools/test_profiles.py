"""The command profiles, and what teach-in keeps of goods with the same names and of commands that run at once."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from bundle_attacks import make_key, write_public_key
from taught_parts import write_parts
from teach_tools import output, profiles, teach

from zsad_agent.teaching import ProfileStore
from zsad_core.bundle import sign_manifest, sign_profile

pytestmark = pytest.mark.usefixtures("folders")


def test_profiles_are_listed_shown_rolled_back_exported_imported_and_removed(
    bundle: Path, parts: Path, tmp_path: Path, store: ProfileStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert profiles("list") == 0
    assert "nothing was taught yet" in capsys.readouterr().out
    teach(bundle, parts / "good")
    teach(bundle, parts / "good", "--bad", parts / "bad")
    capsys.readouterr()

    assert profiles("list") == 0
    assert "version 2" in (told := capsys.readouterr().out) and "20 goods" in told and "recall 100%" in told
    assert profiles("list", "--json") == 0
    shown = output(capsys)
    assert (shown["product"], shown["version"], shown["versions"], shown["fault"]) == ("nut", 2, [1, 2], None)
    assert profiles("show", "nut") == 0
    assert "bad parts found: 4 of 4" in (told := capsys.readouterr().out) and "earlier agent" not in told
    now = store.current("nut")
    assert now is not None
    store.add(replace(now, background=None))
    assert profiles("show", "nut") == 0
    assert "made by an earlier agent: it is made again" in capsys.readouterr().out
    assert profiles("rollback", "nut") == 0

    assert profiles("rollback", "nut") == 0
    assert profiles("rollback", "nut") == 1
    assert "there is no earlier one" in capsys.readouterr().err
    assert store.entry("nut").number == 1

    file = tmp_path / "nut.profile"
    assert profiles("export", "nut", file) == 0
    assert profiles("remove", "nut") == 0
    assert profiles("show", "nut") == 1
    assert profiles("remove", "nut") == 1
    assert profiles("import", file) == 0
    assert store.entry("nut").fault is None and store.has("nut")

    file.write_bytes(file.read_bytes()[:-1])
    capsys.readouterr()
    assert profiles("import", file) == 1
    assert "nut.profile: the profile was cut" in capsys.readouterr().err


def test_a_damaged_profile_is_listed_as_a_fault(
    bundle: Path, parts: Path, store: ProfileStore, capsys: pytest.CaptureFixture[str]
) -> None:
    teach(bundle, parts / "good")
    store.path_of("nut").write_bytes(b"PK")
    capsys.readouterr()
    assert profiles("list") == 1
    assert "nut" in (told := capsys.readouterr().out) and "FAULT" in told and "was cut" in told


def test_profiles_needs_an_action(capsys: pytest.CaptureFixture[str]) -> None:
    assert profiles() == 2
    assert "ACTION" in capsys.readouterr().err


def test_a_product_that_is_not_taught_is_said_with_those_that_are(
    bundle: Path, parts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teach(bundle, parts / "good")
    for words in (["show", "bolt"], ["show", "bolt", "--json"], ["remove", "bolt"], ["export", "bolt", "file"]):
        capsys.readouterr()
        assert profiles(*words) == 1
        told = capsys.readouterr()
        assert "product 'bolt' is not taught; taught are: nut" in told.err and not told.out
    assert profiles("list", "--profiles", "nowhere") == 1
    assert "nowhere: no such folder" in capsys.readouterr().err


def test_a_device_with_trusted_keys_imports_signed_profiles_alone(
    bundle: Path, parts: Path, tmp_path: Path, store: ProfileStore, capsys: pytest.CaptureFixture[str]
) -> None:
    teach(bundle, parts / "good")
    file, config = tmp_path / "nut.profile", tmp_path / "agent.yaml"
    assert profiles("export", "nut", file) == profiles("remove", "nut") == 0
    key, stranger = make_key(1), make_key(2)
    write_public_key(tmp_path / "line.pub", key)
    config.write_text(f"inference: {{trusted_keys: [{tmp_path}/line.pub]}}\n")
    load = ["import", file, "--config", config]
    capsys.readouterr()
    assert profiles(*load) == 1
    assert "nut.profile.sig: No such file or directory. inference.trusted_keys is set" in capsys.readouterr().err
    sign_profile(file, stranger)
    assert profiles(*load) == 1
    assert "nut.profile: signed with key" in capsys.readouterr().err
    signature = sign_profile(file, key)
    content = file.read_bytes()
    file.write_bytes(content + b" ")
    assert profiles(*load) == 1
    assert "the signature does not fit" in capsys.readouterr().err
    signature.write_bytes(sign_manifest(content, key))  # what signs a bundle signs no profile
    file.write_bytes(content)
    assert profiles(*load) == 1
    assert store.products() == []
    sign_profile(file, key)
    assert profiles(*load) == 0
    assert store.products() == ["nut"]


def test_goods_of_several_folders_with_the_same_names_are_all_learned(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_parts(tmp_path / "one", range(5))
    write_parts(tmp_path / "two", range(40, 45))
    for number in range(5):
        (tmp_path / f"two/{40 + number}.png").rename(tmp_path / f"two/{number:02}.png")
    teach(bundle, "--source", f"{tmp_path}/*/*.png", "--json")
    report = output(capsys)
    assert (report["goods"], report["left_out"]) == (10, [])


def test_a_command_names_its_own_profile_when_another_runs_at_once(
    bundle: Path, parts: Path, store: ProfileStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    add = ProfileStore.add

    def overtaken(store: ProfileStore, profile: object) -> object:
        stored = add(store, profile)  # type: ignore[arg-type]
        monkeypatch.undo()
        monkeypatch.setenv("STATE_DIRECTORY", str(store.folder.parent))
        teach(bundle, parts / "good", "--json")
        return stored

    monkeypatch.setattr(ProfileStore, "add", overtaken)
    teach(bundle, parts / "good", "--json")
    second, first = map(json.loads, capsys.readouterr().out.splitlines())
    assert [Path(report["profile"]).name for report in (first, second)] == ["1.profile", "2.profile"]
    kept = {profile.sha256 for profile in store.kept("nut")}
    assert kept == {first["sha256"], second["sha256"]} and len(kept) == 2
    assert Path(first["sheet"]) != Path(second["sheet"]) and Path(first["sheet"]).is_file()
