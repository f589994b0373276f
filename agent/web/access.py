"""Access: passwords, sessions, roles, and the audit list. Does not depend on HTTP."""

import hashlib
import hmac
import json
import logging
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from zsad_agent.system import read_json, shortened, utc_text, write_whole
from zsad_core.config import RecordModel

logger = logging.getLogger(__name__)

Role = Literal["operator", "admin"]
OPERATOR: Role = "operator"  # marks parts, switches the product
ADMIN: Role = "admin"  # everything
COOKIE = "zsad_session"
PASSWORDS, SESSIONS, AUDIT = "passwords.json", "sessions.json", "audit.jsonl"  # in the state folder
PRIVATE = 0o600  # their mode
MAX_FILE_BYTES = 200_000
MAX_SESSIONS = 200  # one more ends the oldest
MAX_AUDIT_BYTES = 1_000_000  # a longer file becomes `audit.jsonl.1`, in place of the earlier one of this name
MAX_NOTE_CHARACTERS = 500  # of a value in the audit list
MIN_PASSWORD, MAX_PASSWORD = 8, 200  # characters
WINDOW_S = 60.0  # of the two limits below
MOST_TRIES, MOST_TRIES_IN_ALL = 5, 20  # wrong passwords from one address, from all
MAX_ADDRESSES = 1000  # whose wrong passwords are counted
CLOCK_STEP_S = 60.0  # a session that was made later than this in the future is not valid


class AccessError(Exception):
    """A log-in or a password is refused. `status` is that of HTTP."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _Password(RecordModel):
    salt: str  # hex
    hash: str  # hex, of `_scrypt`


class _Passwords(RecordModel):
    passwords: dict[Role, _Password] = Field(default={})


class _Session(RecordModel):
    role: Role
    made_at_s: float  # since 1970


class _Sessions(RecordModel):
    sessions: dict[str, _Session] = Field(default={})  # sha256 of the token -> session, the oldest first


class AuditList:
    """Who changed what and when, one JSON object a line. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def note(self, who: str, address: str, what: str, before: Any = None, after: Any = None) -> None:
        """Adds a line. A disk that fails is logged; what was changed stays changed."""
        line = {
            "at": utc_text(datetime.now(UTC)),
            "who": who,
            "address": address,
            "what": shortened(what, MAX_NOTE_CHARACTERS),
            "before": _short(before),
            "after": _short(after),
        }
        with self._lock:
            try:
                if self._path.exists() and self._path.stat().st_size > MAX_AUDIT_BYTES:
                    self._path.replace(self._older)
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
            except OSError as error:
                logger.error("a change by %s is not in %s: %s: %s", who, self._path, what, error.strerror or error)

    def read(self, limit: int) -> list[dict[str, Any]]:
        """The newest lines, the newest first. A damaged line is left out."""
        lines: list[str] = []
        with self._lock:
            for path in (self._older, self._path):
                if path.exists():
                    lines += path.read_text(encoding="utf-8", errors="replace").splitlines()[-limit:]
        found = []
        for line in reversed(lines[-limit:]):
            try:
                found.append(dict(json.loads(line)))
            except (ValueError, TypeError):
                continue
        return found

    @property
    def _older(self) -> Path:
        return self._path.with_name(f"{self._path.name}.1")


@dataclass(slots=True)
class Visitor:
    """Who sent the request."""

    role: Role
    address: str
    csrf: str  # what `X-CSRF-Token` of a change must be
    audit: AuditList
    noted: bool = field(default=False)

    def note(self, what: str, before: Any = None, after: Any = None) -> None:
        """Adds a line to the audit list. Never pass a secret."""
        self.noted = True
        self.audit.note(self.role, self.address, what, before, after)


class _Tries:
    """Limits how often passwords are tried, by address and in all."""

    def __init__(self, clock_s: Callable[[], float]) -> None:
        self._clock_s = clock_s
        self._all: deque[float] = deque()
        self._by_address: OrderedDict[str, deque[float]] = OrderedDict()

    def begin(self, address: str) -> None:
        """Counts a try before it is made, so that many at once are counted too.

        Raises:
            AccessError: 429, too many.
        """
        tries = self._by_address.setdefault(address, deque())
        for times in (self._all, tries):
            while times and times[0] <= self._clock_s() - WINDOW_S:
                times.popleft()
        if len(tries) >= MOST_TRIES or len(self._all) >= MOST_TRIES_IN_ALL:
            raise AccessError(429, f"too many wrong passwords: wait {WINDOW_S:.0f} s and try again")
        for times in (self._all, tries):
            times.append(self._clock_s())
        self._by_address.move_to_end(address)
        while len(self._by_address) > MAX_ADDRESSES:
            self._by_address.popitem(last=False)

    def forgive(self, address: str) -> None:
        """The last try was right, so it does not count."""
        for times in (self._all, self._by_address.get(address)):
            if times:
                times.pop()


class Access:
    """Passwords and sessions, in the state folder, so that they outlive a restart. Thread-safe."""

    def __init__(
        self,
        state_dir: Path,
        session_h: float,
        *,
        clock_s: Callable[[], float] = time.time,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Reads the files. If the passwords cannot be read, nobody can log in; `fault` says why."""
        self._state_dir = state_dir
        self._session_s = session_h * 3600
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._hashing = threading.Lock()  # one at a time: each needs 16 MB
        self._tries = _Tries(monotonic_s)
        self.audit = AuditList(state_dir / AUDIT)
        self.on_first_password: Callable[[], None] = lambda: None
        self.fault: str | None = None
        self._passwords: dict[Role, _Password] = {}
        try:
            if (stored := read_json(state_dir / PASSWORDS, _Passwords, MAX_FILE_BYTES)) is not None:
                self._passwords = dict(stored.passwords)
        except ValueError as error:
            path = state_dir / PASSWORDS
            self.fault = f"{path}: {error}. Nobody can log in. Delete this file and set the passwords again"
            logger.error("%s", self.fault)
        try:
            kept = read_json(state_dir / SESSIONS, _Sessions, MAX_FILE_BYTES)
        except ValueError as error:
            logger.warning("%s: %s: everyone must log in again", state_dir / SESSIONS, error)
            kept = None
        self._sessions: dict[str, _Session] = dict(kept.sessions) if kept is not None else {}

    @property
    def passwords_set(self) -> bool:
        """Whether a visitor needs a session, also on the loopback."""
        return bool(self._passwords) or self.fault is not None

    def visitor(self, token: str | None, address: str, *, on_loopback: bool) -> Visitor | None:
        """The visitor; None if nobody has logged in. On the loopback everyone is admin until a password is set."""
        if not self.passwords_set:
            return Visitor(ADMIN, address, _loopback_csrf(), self.audit) if on_loopback else None
        if not token:
            return None
        session = self._sessions.get(_sha256(token))  # without the lock: that waits for the disk
        if session is None or not self._is_valid(session):
            return None
        return Visitor(session.role, address, _csrf(token), self.audit)

    def log_in(self, role: Role, password: str, address: str, *, earlier: str | None = None) -> str:
        """The token of a new session. The session of `earlier`, the token that the browser had, ends.

        Raises:
            AccessError: 401, wrong; 429, too many tries.
        """
        if not self.passwords_set:
            raise AccessError(401, "no password is set yet: set that of admin on the device itself, at 127.0.0.1")
        with self._lock:
            self._tries.begin(address)
            stored = self._passwords.get(role)
        with self._hashing:  # also if no password is set: the time must not show whether there is one
            found = _scrypt(password, bytes.fromhex(stored.salt) if stored is not None else b"none")
        if stored is None or not hmac.compare_digest(found.hex(), stored.hash):
            self.audit.note(role, address, "log-in refused")
            raise AccessError(401, f"wrong password for {role}")
        token = secrets.token_urlsafe(32)
        with self._lock:
            self._tries.forgive(address)
            if self._passwords.get(role) != stored:
                raise AccessError(401, f"the password of {role} was changed just now: log in with the new one")
            self._drop(earlier)
            self._sessions[_sha256(token)] = _Session(role=role, made_at_s=self._clock_s())
            self._keep_sessions()
        self.audit.note(role, address, "log-in")
        return token

    def log_out(self, token: str | None) -> None:
        with self._lock:
            self._drop(token)
            self._keep_sessions()

    def set_password(self, role: Role, password: str, *, keep: str | None, on_loopback: bool) -> None:
        """Sets a password. The other sessions of this role end; `keep` is the token of the one that stays.

        Raises:
            AccessError: it is too short or too long; it is the first one, and not of the admin or not on the loopback.
            OSError: the disk does not store it, so that nothing has changed.
        """
        if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
            raise AccessError(422, f"a password has {MIN_PASSWORD} to {MAX_PASSWORD} characters, not {len(password)}")
        salt = secrets.token_bytes(16)
        with self._hashing:
            made = _Password(salt=salt.hex(), hash=_scrypt(password, salt).hex())
        with self._lock:
            if not self.passwords_set and not on_loopback:
                raise AccessError(403, "the first password can be set only on the device itself, at 127.0.0.1")
            if role != ADMIN and ADMIN not in self._passwords:
                raise AccessError(409, "set the password of admin first")
            passwords: dict[Role, _Password] = {**self._passwords, role: made}
            content = _Passwords(passwords=passwords).model_dump_json().encode()
            write_whole(self._state_dir / PASSWORDS, content, mode=PRIVATE)
            is_first, self._passwords = not self._passwords, passwords
            kept = _sha256(keep or "")
            self._sessions = {key: one for key, one in self._sessions.items() if one.role != role or key == kept}
            self._keep_sessions()
        if is_first:
            self.on_first_password()

    def _is_valid(self, session: _Session) -> bool:
        return -CLOCK_STEP_S <= self._clock_s() - session.made_at_s < self._session_s

    def _drop(self, token: str | None) -> None:
        if token:
            self._sessions.pop(_sha256(token), None)

    def _keep_sessions(self) -> None:
        """Drops what has expired and writes the rest. If the disk fails, a restart ends the sessions."""
        valid = [(key, session) for key, session in self._sessions.items() if self._is_valid(session)]
        self._sessions = dict(valid[-MAX_SESSIONS:])
        try:
            content = _Sessions(sessions=self._sessions).model_dump_json().encode()
            write_whole(self._state_dir / SESSIONS, content, mode=PRIVATE)
        except OSError as error:
            logger.warning("sessions cannot be stored in %s: %s", self._state_dir, error.strerror or error)


@cache
def _loopback_csrf() -> str:
    """Of visitors on the loopback before a password is set; the same until the process ends."""
    return secrets.token_urlsafe(32)


def _csrf(token: str) -> str:
    return hmac.digest(token.encode(), b"csrf", "sha256").hex()


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


def _scrypt(password: str, salt: bytes) -> bytes:
    """32 bytes in about 0.2 s. The costs are those that OWASP names for scrypt with 16 MB."""
    return hashlib.scrypt(
        password.encode(errors="surrogatepass"), salt=salt, n=2**14, r=8, p=5, maxmem=64_000_000, dklen=32
    )


def _short(value: Any) -> Any:
    """A value for the audit list: shortened text if it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return value if len(text) <= MAX_NOTE_CHARACTERS else shortened(text, MAX_NOTE_CHARACTERS)
