import ssl
from pathlib import Path

import pytest
from certificate_maker import Authority, Pair, write_key
from cryptography.hazmat.primitives.asymmetric import ec

from zsad_agent.cli.check import find_faults
from zsad_agent.config import MqttConfig, TlsConfig, load_settings
from zsad_agent.mqtt import Publisher, faulty_key, make_context
from zsad_agent.mqtt.credentials import meaning
from zsad_agent.spool import Spool
from zsad_core.errors import ConfigError


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def pair(authority: Authority) -> Pair:
    return authority.sign("line3")


def test_certificate_and_host_name_are_checked_and_old_tls_is_off(authority: Authority, pair: Pair) -> None:
    for config in (TlsConfig(), TlsConfig(ca_file=authority.cert, cert_file=pair.cert, key_file=pair.key)):
        context = make_context(config)
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_only_the_named_authority_is_trusted(authority: Authority) -> None:
    (trusted,) = make_context(TlsConfig(ca_file=authority.cert)).get_ca_certs()
    assert (("commonName", "plant-ca"),) in trusted["subject"]


BROKEN = "-----BEGIN CERTIFICATE-----\nbm8=\n-----END CERTIFICATE-----\n"
BROKEN_KEY = "-----BEGIN PRIVATE KEY-----\nbm8=\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    ("key", "content", "said"),
    [
        ("ca_file", None, "cannot be read: No such file"),
        ("ca_file", "", "has no PEM block that ends in CERTIFICATE"),
        ("ca_file", BROKEN, "has no valid certificate"),
        ("cert_file", None, "cannot be read: No such file"),
        ("cert_file", "no certificate", "has no PEM block that ends in CERTIFICATE"),
        ("cert_file", BROKEN, "has no valid certificate"),
        ("key_file", None, "cannot be read: No such file"),
        ("key_file", BROKEN, "has no PEM block that ends in PRIVATE KEY"),
        ("key_file", BROKEN_KEY, "is not valid PEM"),
        ("key_file", "other", "is not the key of"),
        ("key_file", "passphrase", "has a passphrase"),
    ],
)
def test_unusable_file_is_a_config_error_at_start_and_in_check(
    tmp_path: Path, authority: Authority, pair: Pair, key: str, content: str | None, said: str
) -> None:
    files = {"ca_file": authority.cert, "cert_file": pair.cert, "key_file": pair.key}
    if content is None:
        files[key].unlink()
    elif content in ("other", "passphrase"):
        write_key(pair.key, ec.generate_private_key(ec.SECP256R1()), b"secret" if content == "passphrase" else None)
    else:
        files[key].write_text(content)
    expected = f"mqtt.tls.{key}: {files[key]} {said}"
    with pytest.raises(ConfigError) as caught:
        make_context(TlsConfig(**files))
    assert str(caught.value).startswith(expected)
    assert faulty_key(caught.value) == key
    with pytest.raises(ConfigError), Spool(tmp_path / "spool", max_results=1) as spool:
        Publisher(MqttConfig(broker="mqtts://h", tls=TlsConfig(**files)), "line3", spool)

    agent_yaml = tmp_path / "agent.yaml"
    lines = "".join(f"    {name}: {path}\n" for name, path in files.items())
    agent_yaml.write_text(f"source:\n  camera: 0\nmqtt:\n  broker: mqtts://h\n  tls:\n{lines}")
    (fault,) = find_faults(load_settings(agent_yaml))
    assert fault.startswith(f"{agent_yaml}:{6 + list(files).index(key)}: mqtt.tls.{key}: {expected}")


def test_failure_without_tls_gets_no_explanation_about_tls() -> None:
    assert meaning(ConnectionRefusedError(111, "Connection refused"), "h") is None
    assert meaning(TimeoutError("timed out"), "h") is None
    assert meaning("failed to receive on socket: [Errno 104] Connection reset by peer", "h") is None
