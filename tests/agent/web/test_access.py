import hashlib
import json
import logging
import re
import stat
import time
from pathlib import Path

import pytest

from zsad_agent.web import Access
from zsad_agent.web import access as access_module
from zsad_agent.web.access import MAX_AUDIT_BYTES, MAX_SESSIONS, MOST_TRIES, MOST_TRIES_IN_ALL, AccessError, AuditList

REAL_HASH = access_module._scrypt
PASSWORD = "correct horse"
HERE = "127.0.0.1"


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(autouse=True)
def cheap_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        access_module, "_scrypt", lambda password, salt: salt * 2 + hash(password).to_bytes(9, signed=True)
    )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def access(tmp_path: Path, clock: Clock) -> Access:
    """With a password of the admin."""
    access = open_access(tmp_path, clock)
    access.set_password("admin", PASSWORD, keep=None, on_loopback=True)
    return access


def open_access(folder: Path, clock: Clock, session_h: float = 12.0) -> Access:
    return Access(folder, session_h, clock_s=clock, monotonic_s=clock)


def role_of(access: Access, token: str | None) -> str | None:
    visitor = access.visitor(token, HERE, on_loopback=True)
    return visitor.role if visitor is not None else None


def test_until_a_password_is_set_everyone_on_the_loopback_is_admin_and_nobody_else(
    tmp_path: Path, clock: Clock
) -> None:
    access = open_access(tmp_path, clock)
    assert not access.passwords_set
    assert role_of(access, None) == "admin"
    assert access.visitor(None, "10.0.0.9", on_loopback=False) is None
    with pytest.raises(AccessError, match="no password is set yet"):
        access.log_in("admin", "", HERE)
    access.set_password("admin", PASSWORD, keep=None, on_loopback=True)
    assert access.passwords_set and role_of(access, None) is None


@pytest.mark.parametrize(
    ("role", "password", "on_loopback", "status"),
    [
        ("admin", PASSWORD, False, 403),
        ("operator", PASSWORD, True, 409),
        ("admin", "x" * 7, True, 422),
        ("admin", "x" * 201, True, 422),
    ],
)
def test_first_password_is_the_admins_and_is_set_on_the_device(
    role: str, password: str, on_loopback: bool, status: int, tmp_path: Path, clock: Clock
) -> None:
    access = open_access(tmp_path, clock)
    with pytest.raises(AccessError) as refused:
        access.set_password(role, password, keep=None, on_loopback=on_loopback)  # type: ignore[arg-type]
    assert refused.value.status == status and not access.passwords_set


def test_password_and_session_outlive_a_restart_and_no_file_holds_either(
    access: Access, tmp_path: Path, clock: Clock
) -> None:
    token = access.log_in("admin", PASSWORD, HERE)
    again = open_access(tmp_path, clock)
    assert role_of(again, token) == "admin" and role_of(again, again.log_in("admin", PASSWORD, HERE)) == "admin"
    for file in tmp_path.iterdir():
        content = file.read_text()
        assert token not in content and PASSWORD not in content
        if "audit" not in file.name:
            assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_wrong_password_and_role_without_one_are_refused_and_noted(access: Access) -> None:
    for role, password in (("admin", "wrong horse"), ("operator", PASSWORD), ("admin", "\udc80")):
        with pytest.raises(AccessError, match=f"wrong password for {role}") as refused:
            access.log_in(role, password, HERE)  # type: ignore[arg-type]
        assert refused.value.status == 401
    assert [line["what"] for line in access.audit.read(9)] == ["log-in refused"] * 3


def test_session_expires_and_one_from_the_future_is_not_valid(access: Access, clock: Clock) -> None:
    token = access.log_in("admin", PASSWORD, HERE)
    clock.now_s += 12 * 3600 - 1
    assert role_of(access, token) == "admin"
    clock.now_s += 1
    assert role_of(access, token) is None
    clock.now_s -= 13 * 3600
    assert role_of(access, token) is None


def test_log_in_ends_the_earlier_session_of_the_browser(access: Access) -> None:
    first = access.log_in("admin", PASSWORD, HERE)
    second = access.log_in("admin", PASSWORD, HERE, earlier=first)
    assert second != first and role_of(access, first) is None and role_of(access, second) == "admin"
    access.log_out(second)
    assert role_of(access, second) is None
    made_up = "A" * 43
    assert access.log_in("admin", PASSWORD, HERE, earlier=made_up) != made_up and role_of(access, made_up) is None


def test_new_password_ends_the_other_sessions_of_its_role(access: Access) -> None:
    access.set_password("operator", PASSWORD, keep=None, on_loopback=False)
    kept, other = (access.log_in("admin", PASSWORD, HERE) for _ in range(2))
    operator = access.log_in("operator", PASSWORD, HERE)
    access.set_password("admin", "another horse", keep=kept, on_loopback=False)
    assert [role_of(access, token) for token in (kept, other, operator)] == ["admin", None, "operator"]
    with pytest.raises(AccessError):
        access.log_in("admin", PASSWORD, HERE)


def test_tries_are_limited_by_address_and_in_all(access: Access, clock: Clock) -> None:
    def attempt(address: str, password: str = "wrong horse") -> int:
        try:
            access.log_in("admin", password, address)
        except AccessError as error:
            return error.status
        return 200

    assert [attempt("10.0.0.1") for _ in range(MOST_TRIES)] == [401] * MOST_TRIES
    assert attempt("10.0.0.1", PASSWORD) == 429
    assert attempt("10.0.0.2", PASSWORD) == 200
    others = [attempt(f"10.0.1.{number}") for number in range(MOST_TRIES_IN_ALL)]
    assert others == [401] * (MOST_TRIES_IN_ALL - MOST_TRIES) + [429] * MOST_TRIES
    clock.now_s += 60
    assert attempt("10.0.0.1", PASSWORD) == 200


def test_right_passwords_do_not_count_as_tries(access: Access) -> None:
    for _ in range(MOST_TRIES + 2):
        access.log_in("admin", PASSWORD, HERE)


def test_sessions_are_bounded(access: Access, tmp_path: Path) -> None:
    tokens = [access.log_in("admin", PASSWORD, HERE) for _ in range(MAX_SESSIONS + 1)]
    assert role_of(access, tokens[0]) is None and role_of(access, tokens[1]) == "admin"
    assert len(json.loads((tmp_path / "sessions.json").read_text())["sessions"]) == MAX_SESSIONS


def test_damaged_passwords_let_nobody_in_and_say_what_to_do(
    access: Access, tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    token = access.log_in("admin", PASSWORD, HERE)
    (tmp_path / "passwords.json").write_text('{"passwords": {"admin": {}}}')
    again = open_access(tmp_path, clock)
    assert role_of(again, token) == "admin"  # who has logged in stays so
    assert again.passwords_set and role_of(again, None) is None
    assert again.fault is not None and "Delete this file and set the passwords again" in again.fault
    assert again.fault in caplog.text
    with pytest.raises(AccessError):
        again.log_in("admin", PASSWORD, HERE)


def test_damaged_sessions_mean_a_new_log_in(access: Access, tmp_path: Path, clock: Clock) -> None:
    token = access.log_in("admin", PASSWORD, HERE)
    (tmp_path / "sessions.json").write_text("{")
    again = open_access(tmp_path, clock)
    assert role_of(again, token) is None and role_of(again, again.log_in("admin", PASSWORD, HERE)) == "admin"


def test_password_that_the_disk_does_not_store_is_not_set(tmp_path: Path, clock: Clock) -> None:
    access = open_access(tmp_path / "gone", clock)
    with pytest.raises(OSError):
        access.set_password("admin", PASSWORD, keep=None, on_loopback=True)
    assert not access.passwords_set


def test_audit_list_is_bounded_and_newest_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    audit = AuditList(tmp_path / "audit.jsonl")
    for number in range(2 * MAX_AUDIT_BYTES // 1000):
        audit.note("admin", HERE, f"cam0 threshold {number}", "x" * 2000, {"to": "y" * 2000})
    newest = audit.read(3)
    assert [line["what"].split()[-1] for line in newest] == ["1999", "1998", "1997"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", newest[0]["at"])
    assert len(newest[0]["before"]) == 500 and newest[0]["before"].endswith("…")
    files = sorted(file.name for file in tmp_path.iterdir())
    assert files == ["audit.jsonl", "audit.jsonl.1"]
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 2.1 * MAX_AUDIT_BYTES
    (tmp_path / "audit.jsonl").write_text("no JSON\n")
    assert audit.read(1) == [] and len(audit.read(3)) == 2
    with caplog.at_level(logging.ERROR):
        AuditList(tmp_path / "gone" / "audit.jsonl").note("admin", HERE, "cam0 paused")
    assert "a change by admin is not in" in caplog.text


def test_password_is_stored_as_a_salted_and_slow_hash(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_module, "_scrypt", REAL_HASH)
    access = open_access(tmp_path, clock)
    hashes = []
    for _ in range(2):
        access.set_password("admin", PASSWORD, keep=None, on_loopback=True)
        stored = json.loads((tmp_path / "passwords.json").read_text())["passwords"]["admin"]
        salt = bytes.fromhex(stored["salt"])
        started_s = time.thread_time()
        expected = hashlib.scrypt(PASSWORD.encode(), salt=salt, n=16384, r=8, p=5, dklen=32)
        assert stored["hash"] == expected.hex() and len(salt) == 16 and time.thread_time() - started_s > 0.02
        hashes.append(stored["hash"])
    assert hashes[0] != hashes[1]
    assert role_of(access, access.log_in("admin", PASSWORD, HERE)) == "admin"
    with pytest.raises(AccessError):
        access.log_in("admin", f"{PASSWORD} ", HERE)
