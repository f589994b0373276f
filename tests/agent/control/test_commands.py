import json

import pytest

from zsad_agent.control import Command, CommandError, Key, SeenIds
from zsad_agent.control.command import MAX_SEEN_IDS, NumberCommand, check_fresh, parse_command, shown

NOW_S = 1_800_000_000.0


def payload(**fields: object) -> bytes:
    return json.dumps({"id": "a", "sent_at": NOW_S} | fields).encode()


def command(command_id: str = "a", sent_at_s: float = NOW_S) -> Command:
    return NumberCommand(value=None, id=command_id, sent_at=sent_at_s)


def nothing_seen() -> SeenIds:
    return SeenIds({}, forgotten_up_to_s=0.0)


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
        (payload(value=10**400), Key.THRESHOLD, "number from 0 to 1"),
        (payload(value="0.4"), Key.THRESHOLD, "number from 0 to 1"),
        (payload(value=True), Key.THRESHOLD, "number from 0 to 1"),
        (payload(value=1), Key.PAUSED, "true, false or null"),
        (payload(value="on"), Key.PAUSED, "true, false or null"),
        (payload(value=7), Key.PRODUCT, "a name of at most 200"),
        (payload(value="x" * 201), Key.PRODUCT, "a name of at most 200"),
        (payload(value="a\nb"), Key.BUNDLE, "printable"),
        (payload(value="\ud800"), Key.PRODUCT, "printable"),
        (payload(value=False), Key.SNAPSHOT, "no value"),
        (payload(), Key.THRESHOLD, "value is missing: expected a number from 0 to 1"),
        (payload(value=1, colour="red"), Key.THRESHOLD, "unknown key 'colour'"),
        (payload(value=1, id=None), Key.THRESHOLD, "id is missing: expected a text"),
        (payload(value=1, id=5), Key.THRESHOLD, "id: expected a text"),
        (payload(value=1, id="x" * 65), Key.THRESHOLD, "id: expected a text"),
        (payload(value=1, sent_at=None), Key.THRESHOLD, "sent_at is missing: expected a time"),
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


@pytest.mark.parametrize("key", [Key.SNAPSHOT, Key.RELOAD])
@pytest.mark.parametrize("fields", [{}, {"value": None}, {"value": True}, {"value": ""}])
def test_snapshot_and_reload_need_no_value(key: Key, fields: dict[str, object]) -> None:
    assert parse_command(payload(**fields), key, plain=False).value in (None, True)


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
        (b"PRESS", Key.SNAPSHOT, "PRESS"),
        (b"true", Key.RELOAD, "true"),
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


def test_object_is_checked_fully_with_plain_too() -> None:
    with pytest.raises(CommandError, match="id is missing: expected"):
        parse_command(b'{"value": 0.4}', Key.THRESHOLD, plain=True)


@pytest.mark.parametrize("age_s", [-30.0, 0.0, 30.0])
def test_fresh_command_is_accepted(age_s: float) -> None:
    check_fresh(command(), now_s=NOW_S + age_s, max_age_s=30.0, seen=nothing_seen())


@pytest.mark.parametrize(("age_s", "said"), [(31.5, r"31\.5 s ago"), (-31.5, r"31\.5 s in the future"), (1e300, "e")])
def test_old_and_future_commands_are_refused_with_the_time_difference(age_s: float, said: str) -> None:
    with pytest.raises(CommandError, match=rf"sent .*{said}.*clocks .* may differ"):
        check_fresh(command(), now_s=NOW_S + age_s, max_age_s=30.0, seen=nothing_seen())


def test_known_id_is_a_replay() -> None:
    seen = nothing_seen()
    seen.add("a", NOW_S, now_s=NOW_S, keep_s=60.0)
    check_fresh(command("b"), now_s=NOW_S, max_age_s=30.0, seen=seen)
    with pytest.raises(CommandError, match="a replay"):
        check_fresh(command("a", NOW_S + 1), now_s=NOW_S, max_age_s=30.0, seen=seen)


def test_replay_is_refused_after_its_id_was_deleted_and_the_clock_set_back() -> None:
    seen = nothing_seen()
    seen.add("a", NOW_S, now_s=NOW_S, keep_s=60.0)
    seen.add("b", NOW_S + 100, now_s=NOW_S + 100, keep_s=60.0)
    assert list(seen.sent_at_s) == ["b"]
    with pytest.raises(CommandError, match="may be a replay"):
        check_fresh(command("a", NOW_S), now_s=NOW_S, max_age_s=30.0, seen=seen)
    check_fresh(command("c", NOW_S + 1), now_s=NOW_S, max_age_s=30.0, seen=seen)


def test_ids_are_bounded_and_the_oldest_stay_refused() -> None:
    seen = nothing_seen()
    for index in range(MAX_SEEN_IDS + 1):
        seen.add(str(index), NOW_S + index / 1000, now_s=NOW_S, keep_s=60.0)
    assert len(seen.sent_at_s) == MAX_SEEN_IDS
    with pytest.raises(CommandError, match="may be a replay"):
        check_fresh(command("0", NOW_S), now_s=NOW_S, max_age_s=30.0, seen=seen)


@pytest.mark.parametrize("given", [b"\x00\n\x1b[31m" * 300, "é" * 900, "\ud800" * 900])
def test_shown_payload_is_one_short_printable_line(given: bytes | str) -> None:
    assert shown(given).isprintable()
    assert len(shown(given)) <= 203
