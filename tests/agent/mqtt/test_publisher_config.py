"""Credentials and addresses that the publisher accepts or refuses."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from mqtt_listener import MqttListener, wait_until
from publisher_tools import BrokerFactory, publishing, seqs
from result_maker import accept
from result_maker import make_result as result

from zsad_agent.config import MqttConfig, TlsConfig
from zsad_agent.mqtt import BrokerState, Publisher, make_context, read_password
from zsad_agent.spool import Spool
from zsad_core.errors import ConfigError


def test_refused_credentials_are_a_fault_that_does_not_show_the_secret(
    mosquitto: BrokerFactory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = mosquitto(password=("line3", "the right one"))
    secret = tmp_path / "password"
    secret.write_text("the wrong one\n")
    secret.chmod(0o600)
    with publishing(broker.url, tmp_path, username="line3", password_file=secret) as publisher:
        accept(publisher, result(0), None)
        wait_until(lambda: broker.log.count("not authorised") >= 3)
        wait_until(lambda: publisher.state is BrokerState.REFUSED)
        assert publisher.alive
        fault = publisher.fault or ""
    assert f"127.0.0.1:{broker.port}" in fault
    assert "authori" in fault
    assert len(caplog.records) == 1
    assert "refused" in caplog.text
    assert "the wrong one" not in caplog.text + fault

    secret.write_text("the right one\n")
    with (
        MqttListener(broker.port, credentials=("line3", "the right one")) as listener,
        publishing(broker.url, tmp_path, username="line3", password_file=secret) as publisher,
    ):
        assert publisher.flush(60) == 0
        listener.wait_for(lambda: seqs(listener.results()) == [0])


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool(tmp_path / "spool.sqlite3", max_results=10) as spool:
        yield spool


def test_embedded_is_not_an_address(spool: Spool) -> None:
    with pytest.raises(ValueError, match="EmbeddedBroker"):
        Publisher(MqttConfig(broker="embedded"), "line3", spool)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        (b"", "no password"),
        (b"\n", "no password"),
        (b"\xef\xbb\xbf\r\n", "no password"),
        (b"\xff\xfe", "not UTF-8. Save it as UTF-8"),
        ("secret".encode("utf-16"), "not UTF-8. Save it as UTF-8"),
        ("secret".encode("utf-16-le"), "not UTF-8. Save it as UTF-8"),
    ],
)
def test_password_file_without_a_password_is_a_config_error(
    spool: Spool, tmp_path: Path, content: bytes | None, said: str
) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=f"mqtt.password_file: {file}: .*{said}"):
        Publisher(MqttConfig(username="line3", password_file=file), "line3", spool)


def test_pipe_or_device_in_place_of_a_secret_is_an_error_and_does_not_hang(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/null")):
        with pytest.raises(ConfigError, match=f"mqtt.password_file: {path}: cannot be read: not a regular file"):
            read_password(MqttConfig(username="line3", password_file=path))
        with pytest.raises(ConfigError, match=f"mqtt.tls.ca_file: {path} cannot be read: not a regular file"):
            make_context(TlsConfig(ca_file=path))


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\r", b"\r\n\r\n", b"\nnotes\n"])
def test_password_is_the_first_line_without_byte_order_mark_and_line_end(
    tmp_path: Path, mark: bytes, end: bytes
) -> None:
    file = tmp_path / "password"
    config = MqttConfig(username="line3", password_file=file)
    for password in ("secret", " a\u2028b\u0085\u00e4\t ", "x" * 65_535):
        file.write_bytes(mark + password.encode() + end)
        assert read_password(config) == password
    file.write_bytes(mark + b"x" * 65_536 + end)
    with pytest.raises(ConfigError, match="1 to 65535 bytes"):
        read_password(config)


def test_password_credential_without_systemd_is_a_config_error(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(ConfigError, match=r"mqtt\.password_credential is mqtt, but systemd .*LoadCredential=mqtt:"):
        Publisher(MqttConfig(username="line3", password_credential="mqtt"), "line3", spool)


def test_username_without_a_password_is_allowed(mosquitto: BrokerFactory, tmp_path: Path) -> None:
    with publishing(mosquitto().url, tmp_path, username="line3") as publisher:
        assert publisher.connected


def test_password_without_username_is_a_config_error(spool: Spool, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no mqtt\.username"):
        Publisher(MqttConfig(password_file=tmp_path / "password"), "line3", spool)


def test_password_file_that_every_user_can_read_gives_a_warning(
    spool: Spool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "password"
    file.write_text("secret")
    file.chmod(0o644)
    Publisher(MqttConfig(username="line3", password_file=file), "line3", spool)
    assert str(file) in caplog.text
    assert "secret" not in caplog.text
