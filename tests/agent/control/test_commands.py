import json

import pytest

from zsad_agent.control import CommandError, Key
from zsad_agent.control.command import NumberCommand, parse_command, shown

NOW_S = 1_800_000_000.0


def payload(**fields: object) -> bytes:
    return json.dumps({"id": "a", "sent_at": NOW_S} | fields).encode()


@pytest.mark.parametrize("value", [0, 1, 0.0, 0.4, 1.0])
def test_threshold_is_a_number_from_zero_to_one(value: float) -> None:
    taken = parse_command(payload(value=value), Key.THRESHOLD, plain=False)
    assert taken == NumberCommand(value=float(value), id="a", sent_at=NOW_S)


@pytest.mark.parametrize("value", [None, ""])
@pytest.mark.parametrize("key", [Key.THRESHOLD, Key.PRODUCT, Key.PAUSED, Key.BUNDLE])
def test_null_and_an_empty_text_mean_the_config_s_value(key: Key, value: object) -> None:
    assert parse_command(payload(value=value), key, plain=False).value is None


@pytest.mark.parametrize(
    ("sent_at", "seconds"),
    [
        (0, 0.0),
        ("1800000000", 1_800_000_000.0),
        (1_800_000_000.5, 1_800_000_000.5),
        ("1970-01-01T00:00:01Z", 1.0),
        ("1970-01-01T02:00:01.250+02:00", 1.25),
    ],
)
def test_time_of_sending_is_iso_with_a_zone_or_seconds(sent_at: object, seconds: float) -> None:
    assert parse_command(payload(value=1, sent_at=sent_at), Key.THRESHOLD, plain=False).sent_at_s == seconds


@pytest.mark.parametrize(
    ("given", "key", "reason"),
    [
        (b"", Key.THRESHOLD, "the message is empty"),
        (b" \n", Key.SNAPSHOT, "the message is empty"),
        (b"\xff\xfe", Key.PRODUCT, "not UTF-8"),
        (b"x" * 4097, Key.PRODUCT, "4097 bytes, at most 4096"),
        (b"{", Key.THRESHOLD, "not JSON"),
        (b"[" * 4000, Key.THRESHOLD, "not JSON"),
        (b'{"value": ' + b"[" * 500 + b"]" * 500 + b', "id": "a", "sent_at": 0}', Key.PRODUCT, "got a list"),
        (b"0.4", Key.THRESHOLD, "expected {"),
        (b'{"value": NaN, "id": "a", "sent_at": 0}', Key.THRESHOLD, "NaN is not a number"),
        (b'{"value": 1e999, "id": "a", "sent_at": 0}', Key.THRESHOLD, "number from 0 to 1"),
        (b'{"value": 0.1, "value": 0.9, "id": "a", "sent_at": 0}', Key.THRESHOLD, "given twice"),
        (payload(value=-0.1), Key.THRESHOLD, "number from 0 to 1"),
        (payload(value=1.01), Key.THRESHOLD, "number from 0 to 1"),
        (payload(value=-0.0), Key.THRESHOLD, "number from 0 to 1"),
        (payload(value=10**400), Key.THRESHOLD, "number from 0 to 1"),
        (payload(value="0.4"), Key.THRESHOLD, "number from 0 to 1"),
        (payload(value=True), Key.THRESHOLD, "number from 0 to 1"),
        (payload(value=1), Key.PAUSED, "true, false or null"),
        (payload(value="on"), Key.PAUSED, "true, false or null"),
        (payload(value=7), Key.PRODUCT, "a name of at most 200"),
        (payload(value="x" * 201), Key.PRODUCT, "a name of at most 200"),
        (payload(value="a\nb"), Key.BUNDLE, "printable"),
        (payload(value="\ud800"), Key.PRODUCT, "printable"),
        (payload(), Key.THRESHOLD, "value is missing: expected a number from 0 to 1"),
        (payload(value=1, colour="red"), Key.THRESHOLD, "unknown key 'colour'"),
        (payload(value=1, id=None), Key.THRESHOLD, "id is missing: expected a text"),
        (payload(value=1, id=5), Key.THRESHOLD, "id: expected a text"),
        (payload(value=1, id="x" * 65), Key.THRESHOLD, "id: expected a text"),
        (payload(value=1, sent_at=None), Key.THRESHOLD, "sent_at is missing: expected a time"),
        (b'{"value": 1, "id": "a"}', Key.THRESHOLD, "sent_at is missing: expected a time"),
        (b'{"value": 1, "nonce": "n"}', Key.THRESHOLD, "id is missing: expected a text"),
        (payload(value=1, nonce=7), Key.THRESHOLD, "nonce: expected command_nonce of"),
        (payload(value=1, nonce=""), Key.THRESHOLD, "nonce: expected command_nonce of"),
        (payload(value=1, nonce="n", sent_at="yesterday"), Key.THRESHOLD, "sent_at: expected a time"),
        (payload(value=1, sent_at=True), Key.THRESHOLD, "sent_at: expected a time"),
        (payload(value=1, sent_at=10**400), Key.THRESHOLD, "sent_at: expected a time"),
        (payload(value=1, sent_at="yesterday"), Key.THRESHOLD, "sent_at: expected a time"),
        (payload(value=1, sent_at="2026-11-22T10:28:03"), Key.THRESHOLD, "sent_at: expected a time with its zone"),
    ],
)
def test_invalid_command_is_refused_with_the_reason(given: bytes, key: Key, reason: str) -> None:
    with pytest.raises(CommandError) as caught:
        parse_command(given, key, plain=False)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 400 and str(caught.value).isprintable()


def test_refusal_has_the_command_s_id() -> None:
    with pytest.raises(CommandError) as caught:
        parse_command(payload(value=7, id="mine"), Key.THRESHOLD, plain=False)
    assert caught.value.command_id == "mine"


ANYTHING = [None, True, False, "", "off", 0, -7.5, 10**400, [], [1, "x"], {"a": {}}]


@pytest.mark.parametrize("key", [Key.SNAPSHOT, Key.RELOAD])
def test_snapshot_and_reload_accept_any_value(key: Key) -> None:
    for fields in ({}, *({"value": value} for value in ANYTHING)):
        taken = parse_command(payload(**fields), key, plain=False)
        assert (taken.value, taken.id, taken.sent_at_s) == (None, "a", NOW_S)


@pytest.mark.parametrize("key", [Key.SNAPSHOT, Key.RELOAD])
@pytest.mark.parametrize("given", [b"", b" \n", b"\x00", b"\xff\xfe", b"PRESS", b"[1]", b"null", b"0" * 4096])
def test_snapshot_and_reload_accept_any_payload_with_plain(key: Key, given: bytes) -> None:
    taken = parse_command(given, key, plain=True)
    assert (taken.value, taken.id) == (None, None)
    with pytest.raises(CommandError):
        parse_command(given, key, plain=False)


def test_command_with_a_nonce_needs_no_time() -> None:
    taken = parse_command(b'{"value": 0.4, "id": "a", "nonce": "n"}', Key.THRESHOLD, plain=False)
    assert (taken.nonce, taken.sent_at_s) == ("n", None)
    assert parse_command(payload(value=0.4, nonce="n"), Key.THRESHOLD, plain=False).sent_at_s == NOW_S


@pytest.mark.parametrize(
    ("given", "key", "value"),
    [
        (b"0.4", Key.THRESHOLD, 0.4),
        (b"null", Key.THRESHOLD, None),
        (b"bottle", Key.PRODUCT, "bottle"),
        (b'"bottle"', Key.PRODUCT, "bottle"),
        (b"null", Key.PRODUCT, None),
        (b"v2.zip", Key.BUNDLE, "v2.zip"),
        (b"ON", Key.PAUSED, True),
        (b"OFF", Key.PAUSED, False),
        (b"true", Key.PAUSED, True),
        (b"null", Key.PAUSED, None),
    ],
)
def test_bare_value_is_accepted_only_with_plain(given: bytes, key: Key, value: object) -> None:
    taken = parse_command(given, key, plain=True)
    assert (taken.value, taken.id, taken.sent_at_s) == (value, None, None)
    with pytest.raises(CommandError):
        parse_command(given, key, plain=False)


@pytest.mark.parametrize(
    ("given", "key"),
    [(b"", Key.THRESHOLD), (b"1.5", Key.THRESHOLD), (b"bottle", Key.THRESHOLD), (b"maybe", Key.PAUSED)],
)
def test_bare_value_of_the_wrong_type_is_refused(given: bytes, key: Key) -> None:
    with pytest.raises(CommandError):
        parse_command(given, key, plain=True)


def test_object_is_checked_fully_also_with_plain() -> None:
    with pytest.raises(CommandError, match="id is missing: expected"):
        parse_command(b'{"value": 0.4}', Key.THRESHOLD, plain=True)


@pytest.mark.parametrize("given", [b"\x00\n\x1b[31m" * 300, "é" * 900, "\ud800" * 900])
def test_shown_payload_is_one_short_printable_line(given: bytes | str) -> None:
    assert shown(given).isprintable()
    assert len(shown(given)) <= 203
