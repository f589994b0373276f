from pathlib import Path

import pytest
from certificate_maker import Authority

from zsad_agent.cli.check import faults_in
from zsad_agent.config import is_loopback, load_settings, split_listen
from zsad_core.errors import ConfigError


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "agent.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "evidence", "history"),
    [
        ("", False, False),
        ("web: {listen: off}", False, False),
        ("web: {listen: '127.0.0.1:8080'}", True, True),
        ("web: {listen: '127.0.0.1:8080'}\nevidence: {enabled: false}\nhistory: {enabled: false}", False, False),
        ("evidence: {enabled: true, max_days: 3}\nhistory: {enabled: true}", True, True),
        ("web: {listen: '127.0.0.1:8080'}\nevidence: {max_days: 3}", True, True),
    ],
)
def test_page_that_is_on_keeps_evidence_and_history_unless_the_config_says_otherwise(
    text: str, evidence: bool, history: bool, tmp_path: Path
) -> None:
    config = load_settings(write(tmp_path, text)).config
    assert (config.keeps_evidence, config.keeps_history) == (evidence, history)


@pytest.mark.parametrize(
    ("listen", "host", "port", "loopback"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080, True),
        ("127.9.9.9:0", "127.9.9.9", 0, True),
        ("localhost:65535", "localhost", 65535, True),
        ("[::1]:80", "::1", 80, True),
        ("[::]:80", "::", 80, False),
        ("0.0.0.0:80", "0.0.0.0", 80, False),
        ("line3.factory.example:80", "line3.factory.example", 80, False),
        ("localhost.evil.example:80", "localhost.evil.example", 80, False),
    ],
)
def test_listen_address_is_read(listen: str, host: str, port: int, loopback: bool, tmp_path: Path) -> None:
    read = load_settings(write(tmp_path, f"web: {{listen: '{listen}'}}")).config.web.listen
    assert split_listen(read) == (host, port) and is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("web", "fault"),
    [
        ("listen: '8080'", "web.listen: .*expected off or host:port"),
        ("listen: '127.0.0.1:65536'", "web.listen: "),
        ("listen: '::1:80'", "web.listen: "),
        ("listen: 'http://127.0.0.1:80'", "web.listen: "),
        ("certificate: /x", "web: .*certificate and key go together"),
        ("certificate: /x, key: /y, generate_certificate: true", "generate_certificate and certificate are both set"),
        ("session_h: 0", "web.session_h: "),
        ("webhooks: [{url: 'ftp://x'}]", "web.webhooks.0.url: "),
        ("webhooks: [{url: 'http://x/'}]", "webhooks are sent only while the page is on: set listen"),
        ("webhooks: [{url: 'http://u:geheim@x/'}]", "credentials do not belong in the URL"),
        ("webhooks: [{url: 'http://x/', verdicts: []}]", "web.webhooks.0.verdicts: "),
        ("webhooks: [{url: 'http://x/', verdicts: [bad]}]", "web.webhooks.0.verdicts.0: "),
    ],
)
def test_wrong_settings_of_the_page_are_named(web: str, fault: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=fault) as refused:
        load_settings(write(tmp_path, f"web: {{{web}}}"))
    assert "geheim" not in str(refused.value)


def test_check_names_a_certificate_that_cannot_be_used(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    one, other = authority.sign("one"), authority.sign("other")
    text = "source: {{source: line.avi}}\nweb:\n  listen: 127.0.0.1:0\n  certificate: {}\n  key: {}\n"
    good = faults_in(write(tmp_path, text.format(one.cert, one.key)), {})
    assert not [fault for fault in good if "web" in fault]
    for certificate, key in ((one.cert, other.key), (tmp_path / "none", one.key), (one.cert, tmp_path / "agent.yaml")):
        (fault,) = [
            fault for fault in faults_in(write(tmp_path, text.format(certificate, key)), {}) if "web.cert" in fault
        ]
        assert "agent.yaml:4: web.certificate: " in fault and "cannot be used" in fault
