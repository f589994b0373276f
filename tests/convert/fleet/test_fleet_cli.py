import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from bundle_attacks import copy_bundle, make_key, sign_folder, zip_folder
from mosquitto_broker import free_port
from profile_maker import make_profile

from zsad_agent.teaching import write_profile
from zsad_convert.fleet import Broker, read_item
from zsad_convert.fleet.cli import EXAMPLES, main, parser
from zsad_core.bundle import load_bundle, sign_profile
from zsad_core.errors import ConfigError, ZsadError


def test_examples_of_the_help_are_parsed() -> None:
    lines = re.findall(r"^  zsad-fleet (.+)$", EXAMPLES, flags=re.MULTILINE)
    assert len(lines) == 5
    for line in lines:
        parser().parse_args(shlex.split(line))


def test_command_loads_neither_torch_nor_the_agent() -> None:
    program = (
        "import sys; from zsad_convert.fleet import cli; cli.parser(); "
        "assert not {'torch', 'zsad_agent', 'openvino'} & {name.partition('.')[0] for name in sys.modules}"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_bundle_is_checked_and_signed_before_it_is_rolled_out(tiny_bundle: Path, tmp_path: Path) -> None:
    unsigned = zip_folder(tiny_bundle, tmp_path / "new.zip")
    with pytest.raises(ConfigError, match=r"not signed\. Sign it with zsad-convert sign, or give --allow-unsigned"):
        read_item(unsigned, "https://store/x", allow_unsigned=False)
    item = read_item(unsigned, "https://store/x/", allow_unsigned=True)
    assert (item.url, item.in_use) == ("https://store/x/new.zip", load_bundle(unsigned).sha256)
    signed = zip_folder(sign_folder(copy_bundle(tiny_bundle, tmp_path / "signed"), make_key(1)), tmp_path / "a b.zip")
    item = read_item(signed, "https://store", allow_unsigned=False)
    assert item.command("rollout") == {
        "action": "fetch",
        "kind": "bundle",
        "sha256": item.sha256,
        "bytes": signed.stat().st_size,
        "url": "https://store/a%20b.zip",
    }
    assert item.command("rollback") == {"action": "rollback", "kind": "bundle", "sha256": item.in_use}
    with pytest.raises(ConfigError, match="a folder"):
        read_item(tiny_bundle, None, allow_unsigned=True)
    signed.write_bytes(signed.read_bytes()[:500])
    with pytest.raises(ZsadError, match="not a bundle folder"):
        read_item(signed, None, allow_unsigned=True)


def test_profile_travels_with_its_signature(tmp_path: Path) -> None:
    profile = write_profile(make_profile("nut"), tmp_path / "nut.profile")
    with pytest.raises(ConfigError, match="not signed"):
        read_item(tmp_path / "nut.profile", "https://store", allow_unsigned=False)
    sign_profile(tmp_path / "nut.profile", make_key(1))
    item = read_item(tmp_path / "nut.profile", "https://store", allow_unsigned=False)
    assert (item.in_use, item.product) == (profile.sha256, "nut")
    assert item.command("rollout")["signature"].startswith("ed25519 ")
    assert item.command("rollback") == {
        "action": "rollback", "kind": "profile", "sha256": profile.sha256, "product": "nut"
    }  # fmt: skip
    (tmp_path / "bad.profile").write_bytes(b"PK")
    with pytest.raises(ZsadError, match="not a profile"):
        read_item(tmp_path / "bad.profile", "https://store", allow_unsigned=True)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ("list --broker http://host", 2, "expected mqtt://host"),
        ("list --broker mqtt://me:secret@host", 2, "the user as --username"),
        ("list --broker mqtt://host --ca-file ca.pem", 2, "--ca-file needs mqtts://"),
        ("list --broker mqtt://host --password-file none", 2, "--password-file needs --username"),
        ("list --broker mqtt://[bad", 2, "Invalid IPv6 URL"),
        ("list --broker mqtt://a..b", 2, "label"),
        ("rollout none.zip --store https://me:secret@store", 2, "without user, password"),
        ("rollout none.zip --store https://store/?token=secret", 2, "without user, password"),
        ("list --broker mqtt://127.0.0.1:{port}", 1, "cannot be reached"),
        ("list --broker mqtts://host --ca-file /none.pem", 2, "No such file"),
        ("list --broker mqtt://host --username me --password-file /none", 2, "No such file"),
        ("status none.zip", 2, "there is no such rollout"),
        ("rollout none.zip --store https://store", 2, "none.zip: cannot be read"),
    ],
)
def test_fault_of_the_user_is_one_line(
    words: str,
    code: int,
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words.format(port=free_port()).split()) == code
    told = capsys.readouterr().err
    assert told.startswith("zsad-fleet: ") and text in told and told.count("\n") == 1 and "secret" not in told


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "0", "1e999"])
@pytest.mark.parametrize("flag", ["--answer-s", "--wait-s"])
def test_times_that_never_come_are_bad_usage(flag: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["rollout", "x.zip", "--store", "https://s", f"{flag}={text}"])
    assert ended.value.code == 2 and f"{flag}: '{text}': expected a number of seconds" in capsys.readouterr().err


def test_wrong_waves_are_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["rollout", "x.zip", "--store", "https://s", "--wave", "rest,1"])
    assert ended.value.code == 2 and "sizes from 1, and rest at the end" in capsys.readouterr().err


def test_broker_that_refuses_the_password_is_named(mosquitto, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    broker = mosquitto(password=("me", "secret"))
    (tmp_path / "password").write_text("wrong\n")
    made = Broker(broker.url, "zsad", username="me", password_file=tmp_path / "password", ca_file=None)
    with pytest.raises(ZsadError, match="refuses the connection: Not authorized"), made:
        pass
