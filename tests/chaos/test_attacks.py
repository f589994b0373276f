"""Attacks on the broker connection, with a real mosquitto, real certificates and the shipped ACL. All are refused."""

import logging
import re
import shutil
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from certificate_maker import Authority, Pair
from chaos_record import record
from mosquitto_broker import MosquittoBroker
from mqtt_listener import MqttListener, wait_until
from paho.mqtt.enums import CallbackAPIVersion
from result_maker import accept
from result_maker import make_result as result

from zsad_agent.config import MqttConfig, TlsConfig
from zsad_agent.mqtt import BrokerState, Publisher
from zsad_agent.spool import Spool

BrokerFactory = Callable[..., MosquittoBroker]
ACL = Path(__file__).parents[2] / "systemd" / "mosquitto-acl.example"
DAY = timedelta(days=1)
BASE = "zsad/line3"
SECRET, WRONG_SECRET = "correct-horse-battery", "wrong-staple"
USERS = {"line3": SECRET, "line4": "secret-4", "dashboard": "secret-d", "operator": "secret-o"}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@contextmanager
def publishing(broker: MosquittoBroker, folder: Path, **settings: Any) -> Iterator[Publisher]:
    url = f"mqtts://localhost:{broker.port}" if "tls" in settings else broker.url
    with (
        Spool(folder / "spool.sqlite3", max_results=1000) as spool,
        Publisher(
            MqttConfig(broker=url, **settings), "line3", spool, reconnect_min_s=0.05, reconnect_max_s=0.1
        ) as publisher,
    ):
        yield publisher


def seqs(listener: MqttListener) -> list[int]:
    return [message["seq"] for message in listener.results()]


def tls_broker(mosquitto: BrokerFactory, folder: Path, authority: Authority, pair: Pair, **settings: Any) -> Any:
    """A broker with a copy of `pair` as its certificate; `install` replaces the certificate."""
    install(pair, folder)
    extra = settings.pop("extra", "")
    files = f"cafile {authority.cert}\ncertfile {folder}/broker.crt\nkeyfile {folder}/broker.key\n"
    return mosquitto(extra=files + extra, **settings)


def install(pair: Pair, folder: Path, name: str = "broker") -> None:
    shutil.copy(pair.cert, folder / f"{name}.crt")
    shutil.copy(pair.key, folder / f"{name}.key")


def watching(broker: MosquittoBroker, authority: Authority, pair: Pair | None = None, **settings: Any) -> MqttListener:
    context = ssl.create_default_context(cafile=str(authority.cert))
    if pair is not None:
        context.load_cert_chain(pair.cert, pair.key)
    return MqttListener(broker.port, tls=context, **settings)


def example_lines(replaced: dict[str, str]) -> str:
    """The mosquitto.conf lines from the ACL example's comments, with the test's paths and without the listener."""
    lines = re.findall(r"^#     (.+)$", ACL.read_text(), re.MULTILINE)
    assert "allow_anonymous false" in lines
    kept = [line for line in lines if not line.startswith(("listener", "require_cert", "use_identity", "password"))]
    return "\n".join(f"{key} {replaced.get(key, value)}" for key, _, value in (line.partition(" ") for line in kept))


@pytest.mark.parametrize("mutual", [False, True])
@pytest.mark.parametrize(("protocol", "logged"), [("auto", "p5"), ("5", "p5"), ("3.1.1", "p2")])
def test_results_and_commands_are_sent_over_tls_and_mutual_tls(
    mosquitto: BrokerFactory, tmp_path: Path, authority: Authority, protocol: str, logged: str, mutual: bool
) -> None:
    agent = authority.sign("line3", hosts=["line3"])
    extra = "require_certificate true\nuse_identity_as_username true\n" if mutual else ""
    broker = tls_broker(mosquitto, tmp_path, authority, authority.sign("server"), extra=extra)
    tls = TlsConfig(ca_file=authority.cert, **({"cert_file": agent.cert, "key_file": agent.key} if mutual else {}))
    got: list[bytes] = []
    with watching(broker, authority, agent if mutual else None) as listener:
        with publishing(broker, tmp_path, tls=tls, protocol=protocol) as publisher:
            publisher.subscribe(f"{BASE}/cam0/trigger", got.append)
            for seq in range(50):
                accept(publisher, result(seq), b"x" * 100_000)
            assert publisher.flush(20) == 0
            wait_until(lambda: "cam0/trigger (QoS 1)" in broker.log)
            listener.publish(f"{BASE}/cam0/trigger", b"x" * 60_000)  # several TLS records
            wait_until(lambda: got == [b"x" * 60_000])
            assert publisher.fault is None
        listener.wait_for(lambda: listener.payloads(f"{BASE}/available") == [b"online", b"offline"])
        assert sorted(seqs(listener)) == list(range(50))  # the spool's results are sent among the live ones
    assert re.search(rf"as zsad-agent-line3 \({logged}, c1, k30{', u.line3.' if mutual else ''}\)", broker.log)


def broker_certificates(authority: Authority, folder: Path) -> dict[str, tuple[Pair, str]]:
    stranger = Authority(folder, "stranger-ca")
    return {
        "expired": (authority.sign("expired", valid_from=-2 * DAY, valid_to=-DAY / 24), "has expired"),
        "not yet valid": (authority.sign("early", valid_from=DAY / 24, valid_to=DAY), "not valid yet"),
        "wrong host": (authority.sign("other", hosts=["other.plant", "127.0.0.1"]), "for another host than localhost"),
        "unknown authority": (stranger.sign("foreign"), "unknown authority"),
        "self-signed": (authority.sign("self", self_signed=True), "self-signed"),
    }


@pytest.mark.parametrize("attack", ["expired", "not yet valid", "wrong host", "unknown authority", "self-signed"])
def test_a_broker_with_an_invalid_certificate_gets_no_result_until_it_is_valid(
    mosquitto: BrokerFactory, tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture, attack: str
) -> None:
    caplog.set_level(logging.DEBUG)
    good = authority.sign("server")
    bad, said = broker_certificates(authority, tmp_path)[attack]
    password = secret_file(tmp_path)
    broker = tls_broker(mosquitto, tmp_path, authority, good, users=USERS)
    tls = TlsConfig(ca_file=authority.cert)
    with publishing(broker, tmp_path, tls=tls, username="line3", password_file=password) as publisher:
        accept(publisher, result(0), None)
        assert publisher.flush(10) == 0
        broker.kill()
        install(bad, tmp_path)
        before = broker.log.count("as zsad-agent-line3")
        broker.start()
        tries = broker.log.count("New connection")
        accept(publisher, result(1), None)
        wait_until(lambda: publisher.state is BrokerState.UNTRUSTED)
        assert said in (publisher.fault or "")
        wait_until(lambda: broker.log.count("New connection") >= tries + 4)  # it keeps trying
        attempts = broker.log.count("New connection") - tries
        assert broker.log.count("as zsad-agent-line3") == before
        assert publisher.flush(0) == 1
        assert caplog.text.count(" untrusted: ") == 1
        broker.kill()
        install(good, tmp_path)  # the certificate was replaced on disk
        broker.start()
        started_s = time.monotonic()
        with watching(broker, authority, credentials=("dashboard", "secret-d")) as listener:
            assert publisher.flush(10) == 0
            recovered_s = time.monotonic() - started_s
            accept(publisher, result(2), None)
            listener.wait_for(lambda: 2 in seqs(listener))
            unsent = publisher.flush(10)
        assert_no_secret(caplog.text, publisher.fault)
    record(
        f"broker certificate: {attack}",
        tried=attempts,
        lost=unsent,
        doubled=0,
        recover_s=[recovered_s],
        note=f"{attempts} of {attempts} connections refused",
    )


def test_a_plaintext_broker_on_the_tls_port_gets_no_mqtt_packet(
    mosquitto: BrokerFactory, tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    broker = mosquitto()
    tls = TlsConfig(ca_file=authority.cert)
    settings = {"username": "line3", "password_file": secret_file(tmp_path)}
    with publishing(broker, tmp_path, tls=tls, **settings) as publisher:
        accept(publisher, result(0), None)
        wait_until(lambda: publisher.state is BrokerState.UNTRUSTED)
        assert "does not speak TLS on this port" in (publisher.fault or "")
        wait_until(lambda: broker.log.count("New connection") >= 5)
        assert publisher.flush(0) == 1
        assert_no_secret(caplog.text, publisher.fault)
    assert "zsad-agent-line3" not in broker.log
    attempts = broker.log.count("New connection")
    note = f"{attempts} of {attempts} connections refused"
    record("plaintext broker on the TLS port", tried=attempts, lost=0, doubled=0, recover_s=None, note=note)


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        ("none", "asks for a client certificate: set mqtt.tls.cert_file"),
        ("unknown authority", "does not know the authority that signed our certificate"),
        ("expired", "our certificate, mqtt.tls.cert_file, has expired"),
    ],
)
def test_an_agent_with_an_invalid_client_certificate_connects_after_it_was_replaced(
    mosquitto: BrokerFactory, tmp_path: Path, authority: Authority, attack: str, said: str
) -> None:
    pairs = {
        "unknown authority": Authority(tmp_path, "stranger-ca").sign("stranger"),
        "expired": authority.sign("old", valid_from=-2 * DAY, valid_to=-DAY / 24),
    }
    extra = "require_certificate true\nuse_identity_as_username true\n"
    broker = tls_broker(mosquitto, tmp_path, authority, authority.sign("server"), extra=extra)
    tls = TlsConfig(ca_file=authority.cert)
    if attack in pairs:
        install(pairs[attack], tmp_path, "agent")
        tls = TlsConfig(ca_file=authority.cert, cert_file=tmp_path / "agent.crt", key_file=tmp_path / "agent.key")
    with publishing(broker, tmp_path, tls=tls) as publisher:
        accept(publisher, result(0), None)
        wait_until(lambda: publisher.state is BrokerState.UNTRUSTED)
        assert said in (publisher.fault or "")
        wait_until(lambda: broker.log.count("New connection") >= 5)
        attempts = broker.log.count("New connection")
        assert publisher.flush(0) == 1
        assert "as zsad-agent-line3" not in broker.log
        if attack in pairs:
            install(authority.sign("line3"), tmp_path, "agent")
            assert publisher.flush(10) == 0
    note = f"{attempts} of {attempts} connections refused"
    record(f"client certificate: {attack}", tried=attempts, lost=0, doubled=0, recover_s=None, note=note)


def secret_file(folder: Path, secret: str = SECRET) -> Path:
    path = folder / "password"
    path.write_text(secret + "\n")
    path.chmod(0o600)
    return path


def assert_no_secret(*texts: object) -> None:
    shown = " ".join(map(str, texts))
    assert not [secret for secret in (*USERS.values(), WRONG_SECRET) if secret in shown]


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_wrong_password_is_never_shown_and_a_corrected_file_is_read_without_a_restart(
    mosquitto: BrokerFactory, tmp_path: Path, caplog: pytest.LogCaptureFixture, protocol: str
) -> None:
    caplog.set_level(logging.DEBUG)
    broker = mosquitto(users=USERS)
    path = secret_file(tmp_path, WRONG_SECRET)
    config = MqttConfig(broker=broker.url, username="line3", password_file=path, protocol=protocol)  # type: ignore[arg-type]
    with publishing(broker, tmp_path, username="line3", password_file=path, protocol=protocol) as publisher:
        accept(publisher, result(0), None)
        wait_until(lambda: broker.log.count("New connection") >= 5)
        assert publisher.state is BrokerState.REFUSED
        assert_no_secret(caplog.text, publisher.fault, repr(config), config.model_dump_json(), vars(publisher))
        assert caplog.text.count(" refused: ") == 1
        attempts = broker.log.count("New connection")
        path.unlink()
        wait_until(lambda: "cannot be read" in (publisher.fault or ""))  # a fault does not end the publisher
        secret_file(tmp_path)
        with MqttListener(broker.port, credentials=("dashboard", "secret-d")) as listener:
            assert publisher.flush(10) == 0
            accept(publisher, result(1), None)
            listener.wait_for(lambda: 1 in seqs(listener))
        assert_no_secret(caplog.text, vars(publisher))
    note = f"{attempts} of {attempts} connections refused"
    record(f"wrong password, MQTT {protocol}", tried=attempts, lost=0, doubled=0, recover_s=None, note=note)


def test_the_password_is_read_from_a_systemd_credential(
    mosquitto: BrokerFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = mosquitto(users=USERS)
    secret_file(tmp_path)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with publishing(broker, tmp_path, username="line3", password_credential="password") as publisher:
        wait_until(lambda: publisher.connected)


COMMANDS = [f"{BASE}/{suffix}" for suffix in ("cam0/trigger", "cam0/threshold/set", "bundle/set", "reload/set")]
TOLD = [
    f"{BASE}/{suffix}"
    for suffix in ("available", "stats", "cam0/result", "cam0/status", "cam0/heatmap", "cam0/threshold/state")
]


def forge(broker: MosquittoBroker, credentials: tuple[str, str] | None, topics: list[str], protocol: int) -> int:
    """Publishes on each topic, and sets a will; gives the number of attempts that the broker did not refuse.

    MQTT 3.1.1 does not report a refusal: there the test checks what arrives.
    """
    taken: list[int] = []
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="foreign", protocol=protocol)  # type: ignore[arg-type]
    client.will_set(f"{BASE}/available", b"forged", qos=1, retain=True)
    if credentials is not None:
        client.username_pw_set(*credentials)
    answers: list[object] = []
    client.on_publish = lambda *args: (answers.append(args[3]), taken.extend([1] if args[3].value < 0x80 else []))[0]
    admissions: list[bool] = []
    client.on_connect = lambda *args: admissions.append(args[3] == 0)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    try:
        wait_until(lambda: admissions)
        assert admissions[0] == (credentials is not None)
        if not admissions[0]:
            return 0
        for topic in topics:
            client.publish(topic, b"forged", qos=1, retain=True)
        wait_until(lambda: len(answers) == len(topics))
        sock = client.socket()
        assert sock is not None
        sock.close()  # the broker then publishes the will
    finally:
        client.loop_stop()
    return len(taken)


@pytest.mark.parametrize("protocol", [5, 4])
@pytest.mark.parametrize("attacker", ["line4", "dashboard", "anonymous", "operator"])
def test_the_acl_stops_other_clients_from_publishing_on_the_agents_topics(
    mosquitto: BrokerFactory, tmp_path: Path, attacker: str, protocol: int
) -> None:
    broker = acl_broker(mosquitto, tmp_path)
    credentials = None if attacker == "anonymous" else (attacker, USERS[attacker])
    topics = TOLD if attacker == "operator" else TOLD + COMMANDS
    got: list[bytes] = []
    with (
        MqttListener(broker.port, credentials=("dashboard", "secret-d")) as dashboard,
        publishing(broker, tmp_path, username="line3", password_file=secret_file(tmp_path)) as publisher,
    ):
        for topic in COMMANDS:
            publisher.subscribe(topic, got.append)
        wait_until(lambda: broker.log.count(" (QoS 1)") >= 1 + len(COMMANDS))
        taken = forge(broker, credentials, topics, protocol)
        assert protocol == 4 or taken == 0
        with MqttListener(broker.port, credentials=("operator", "secret-o")) as operator:
            for topic in COMMANDS:
                operator.publish(topic, b"genuine")
        accept(publisher, result(1), b"jpeg")
        publisher.set_retained("cam0/threshold/state", b"0.5")
        assert publisher.flush(10) == 0
        dashboard.wait_for(lambda: {f"{BASE}/cam0/heatmap", f"{BASE}/cam0/threshold/state"} <= set(dashboard.topics))
        wait_until(lambda: got == [b"genuine"] * len(COMMANDS))
        assert b"forged" not in [payload for _, payload in dashboard.messages]
        assert seqs(dashboard) == [1]
        assert publisher.fault is None
        lost, doubled = publisher.spool_stats.entries, len(seqs(dashboard)) - 1
    tried = 1 if credentials is None else len(topics) + 1  # the connection, or each message and the will
    what = "connections" if credentials is None else "messages"
    name = f"other client {attacker}, MQTT {'5' if protocol == 5 else '3.1.1'}"
    record(name, tried=tried, lost=lost, doubled=doubled, recover_s=None, note=f"{tried} of {tried} {what} refused")


def acl_broker(mosquitto: BrokerFactory, folder: Path) -> MosquittoBroker:
    """A broker with the example's lines, without TLS."""
    acl = folder / "zsad.acl"
    shutil.copy(ACL, acl)
    acl.chmod(0o600)
    lines = [line for line in example_lines({"acl_file": str(acl)}).splitlines() if "/etc/mosquitto/certs" not in line]
    lines = [line for line in lines if not line.startswith("allow_anonymous")]
    lines.append("max_queued_messages 100000")  # without a limit, mosquitto 2.0.11 disconnects after a denied message
    return mosquitto(users=USERS, extra="\n".join(lines))


def test_another_devices_user_receives_nothing_of_this_device(mosquitto: BrokerFactory, tmp_path: Path) -> None:
    broker = acl_broker(mosquitto, tmp_path)
    with (
        MqttListener(broker.port, credentials=("dashboard", "secret-d")) as dashboard,
        MqttListener(broker.port, credentials=("line4", "secret-4")) as spy,
    ):
        with publishing(broker, tmp_path, username="line3", password_file=secret_file(tmp_path)) as publisher:
            accept(publisher, result(1), b"jpeg")
            assert publisher.flush(10) == 0
        dashboard.wait_for(lambda: b"offline" in dashboard.payloads(f"{BASE}/available"))
        assert spy.messages == []


def test_an_agent_with_another_devices_user_keeps_its_results_until_the_acl_allows_them(
    mosquitto: BrokerFactory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = acl_broker(mosquitto, tmp_path)
    secret = secret_file(tmp_path, USERS["line4"])
    with (
        MqttListener(broker.port, credentials=("dashboard", "secret-d")) as dashboard,
        publishing(broker, tmp_path, username="line4", password_file=secret) as publisher,
    ):
        for seq in range(5):
            accept(publisher, result(seq), None)
        wait_until(lambda: "broker refuses results: Not authorized" in (publisher.fault or ""))
        assert f"broker refuses {BASE}/available: Not authorized" in (publisher.fault or "")
        assert publisher.spool_stats.entries == 5
        assert seqs(dashboard) == []
        with (tmp_path / "zsad.acl").open("a") as acl:
            acl.write(f"user line4\ntopic write {BASE}/#\n")
        broker.reload()
        assert publisher.flush(20) == 0
        dashboard.wait_for(lambda: sorted(set(seqs(dashboard))) == [0, 1, 2, 3, 4])
    assert_no_secret(caplog.text)


def test_an_agent_whose_client_id_another_user_takes_reconnects_without_loss(
    mosquitto: BrokerFactory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = acl_broker(mosquitto, tmp_path)
    with (
        MqttListener(broker.port, credentials=("dashboard", "secret-d")) as dashboard,
        publishing(broker, tmp_path, username="line3", password_file=secret_file(tmp_path)) as publisher,
    ):
        wait_until(lambda: publisher.connected)
        thief = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="zsad-agent-line3")
        thief.username_pw_set("line4", "secret-4")
        thief.connect("127.0.0.1", broker.port)
        for seq in range(20):
            thief.loop(0.02)
            accept(publisher, result(seq), None)
        thief.disconnect()
        assert publisher.flush(10) == 0
        dashboard.wait_for(lambda: sorted(set(seqs(dashboard))) == list(range(20)))
    assert "already connected, closing old connection" in broker.log
    assert " lost: " in caplog.text


def test_the_common_name_of_the_client_certificate_is_the_acls_user(
    mosquitto: BrokerFactory, tmp_path: Path, authority: Authority
) -> None:
    acl = tmp_path / "zsad.acl"
    shutil.copy(ACL, acl)
    acl.chmod(0o600)
    install(authority.sign("server"), tmp_path)
    paths = {
        "cafile": str(authority.cert),
        "certfile": str(tmp_path / "broker.crt"),
        "keyfile": str(tmp_path / "broker.key"),
        "acl_file": str(acl),
    }
    lines = [line for line in example_lines(paths).splitlines() if not line.startswith("allow_anonymous")]
    lines.append("max_queued_messages 100000")
    extra = "\n".join([*lines, "require_certificate true", "use_identity_as_username true"])
    broker = mosquitto(extra=extra, anonymous=False)
    agent, foreign = authority.sign("line3"), authority.sign("line4")
    with watching(broker, authority, authority.sign("dashboard")) as dashboard:
        tls = TlsConfig(ca_file=authority.cert, cert_file=agent.cert, key_file=agent.key)
        with publishing(broker, tmp_path, tls=tls) as publisher:
            accept(publisher, result(1), None)
            assert publisher.flush(10) == 0
        with watching(broker, authority, foreign) as thief:
            thief.publish(f"{BASE}/cam0/result", b'{"seq": 666}')
        dashboard.wait_for(lambda: b"offline" in dashboard.payloads(f"{BASE}/available"))
        assert seqs(dashboard) == [1]
