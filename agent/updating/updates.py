"""The device's updates, one at a time: fetched in a thread, then taken into use by the thread of commands.

`update.json` in the state folder says how far the last one is, so each ends in a stated state, also after a kill: a
download continues; what was tried has come into use, or has failed and the earlier one is in use.
"""

import contextlib
import logging
import threading
from functools import partial
from pathlib import Path
from typing import Protocol, Self

from pydantic import Field, model_validator

from zsad_agent.config import UpdateConfig
from zsad_agent.messages import Phase, UpdateState
from zsad_agent.model import Outcome
from zsad_agent.system import ThreadService, lower_priority, one_line, read_json, write_whole
from zsad_agent.teaching import MAX_BYTES
from zsad_agent.updating.download import Download, DownloadError, check_url
from zsad_agent.updating.request import UpdateRequest
from zsad_core.config import RecordModel
from zsad_core.errors import ZsadError

logger = logging.getLogger(__name__)

RECORD = "update.json"
MAX_IDS = 50  # of commands that are known
MAX_RECORD_BYTES = 65_536
MAX_TEXT = 1000


class Installer(Protocol):
    """What takes bundles and profiles into use. When `install` or `leave` raises a ZsadError, nothing has changed."""

    @property
    def on_probation(self) -> bool:
        """Whether a bundle is on probation, as it is after `install` and `leave` of bundles."""

    def in_use(self, kind: str, product: str | None) -> str | None:
        """The hash of the bundle's manifest or of the product's profile; None: there is none."""

    def install(self, kind: str, path: Path) -> None:
        """Takes a file into use."""

    def leave(self, kind: str, product: str | None) -> None:
        """Takes what was in use before into use. For a bundle of the config a restart may follow."""


class _Record(RecordModel):
    """The content of `update.json`."""

    ids: tuple[str, ...] = Field(default=(), max_length=MAX_IDS)  # the newest is the last one
    request: UpdateRequest | None = None
    phase: Phase = "idle"
    text: str | None = None
    target: str | None = None  # the bundle on probation

    @model_validator(mode="after")
    def _has_its_command(self) -> Self:
        if self.phase not in ("off", "idle") and (self.request is None or not self.ids):
            raise ValueError(f"the command of the phase {self.phase} is missing")
        return self


class Updates(ThreadService):
    """`begin`, `tend` and `settled` are for the thread of commands. Its own thread only fetches."""

    name = "updates"
    stop_s = 0.3

    def __init__(self, config: UpdateConfig, state_dir: Path) -> None:
        """Reads the record; a damaged one counts as none. Fetches nothing yet."""
        super().__init__("zsad-updates")
        self._config = config
        self._folder, self._path = state_dir / "update", state_dir / RECORD
        self._changed = threading.Condition()  # guards what follows
        self._ready = False  # to be taken into use
        self._download: Download | None = None
        try:
            self._record = read_json(self._path, _Record, MAX_RECORD_BYTES) or _Record()
        except ValueError as error:
            logger.error("%s: %s. The last update is forgotten", self._path, error)
            self._record = _Record()
        self._interrupted = self._record.phase in ("trying", "probation")

    def stop(self, deadline_s: float) -> None:
        with self._changed:
            self._stop.set()
            self._changed.notify_all()
            if self._download is not None:
                self._download.cancel()
        self._wait(deadline_s)

    def state(self, bundle_sha256: str) -> UpdateState:
        """What is published."""
        record = self._record
        asked = {} if record.request is None else record.request.model_dump(include={"action", "kind", "sha256"})
        return UpdateState(
            phase=record.phase,
            id=record.ids[-1] if record.ids else None,
            text=record.text,
            bundle=bundle_sha256,
            tags=self._config.tags,
            **asked,
        )

    def knows(self, command_id: str) -> bool:
        """Whether a command with this id was accepted: it is not answered again."""
        return command_id in self._record.ids

    def begin(self, request: UpdateRequest, command_id: str, installer: Installer) -> None:
        """Accepts a command.

        Raises:
            ZsadError: it is refused.
        """
        phase, before = self._record.phase, self._record.request
        leaves_trial = phase == "probation" and request.action == "rollback" and request.sha256 == self._record.target
        if before is not None and phase in ("downloading", "trying", "probation") and not leaves_trial:
            raise DownloadError(f"the update to {before.sha256[:12]} is in progress: {phase}. Wait until it has ended")
        if request.action == "fetch":
            self._check_fetch(request)
        elif installer.in_use(request.kind, request.product) != request.sha256:
            raise DownloadError(f"the {request.kind} {request.sha256[:12]} is not in use, so there is nothing to leave")
        ids = (*self._record.ids, command_id)[-MAX_IDS:]
        first: Phase = "downloading" if request.action == "fetch" else "trying"
        record = _Record(ids=ids, request=request, phase=first)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, record.model_dump_json().encode())
        except OSError as error:
            raise DownloadError(f"{self._path}: cannot be written: {error.strerror or error}") from error
        with self._changed:
            self._record, self._ready = record, request.action == "rollback"
            self._changed.notify_all()

    def _check_fetch(self, request: UpdateRequest) -> None:
        limit = min(self._config.max_bytes, MAX_BYTES) if request.kind == "profile" else self._config.max_bytes
        if (request.bytes or 0) > limit:
            raise DownloadError(f"the file has {request.bytes} bytes, at most {limit} are fetched (update.max_bytes)")
        if request.kind == "profile" and request.signature is None and not self._config.unsigned:
            raise DownloadError("the profile has no signature: sign it with zsad-convert sign")
        check_url(request.url or "", plain_http=self._config.plain_http)

    def tend(self, installer: Installer) -> bool:
        """Takes what is fetched into use. Call it regularly. Returns whether the bundle in use was replaced."""
        request = self._record.request
        if request is not None and self._interrupted:
            self._interrupted = False
            self._conclude(request, installer)
        if request is None or not self._ready or (installer.on_probation and request.action == "fetch"):
            return False
        recorded = self._note("trying")  # first: a phase of downloading without `_ready` would be fetched again
        self._ready = False
        before = installer.in_use("bundle", None)
        try:
            if request.action == "fetch" and not recorded:  # else each start would try it, also if it ends the process
                raise DownloadError(f"{self._path}: cannot be written, so the {request.kind} is not tried")
            self._carry_out(request, installer)
        except Exception as error:
            self._fail(error)
        self._clean()
        return installer.in_use("bundle", None) != before

    def settled(self, outcome: Outcome) -> None:
        """The end of a bundle's probation."""
        if self._record.phase == "probation":
            self._note("done" if outcome.passed else "failed", None if outcome.passed else outcome.text)

    def _carry_out(self, request: UpdateRequest, installer: Installer) -> None:
        if request.action == "fetch":
            installer.install(request.kind, self._file(request))
        else:
            installer.leave(request.kind, request.product)
        if request.kind == "bundle" and installer.on_probation:
            self._note("probation", target=installer.in_use("bundle", None))
        elif request.action == "fetch" or installer.in_use(request.kind, request.product) != request.sha256:
            self._note("done")  # else the restart with the config's bundle is the end

    def _conclude(self, request: UpdateRequest, installer: Installer) -> None:
        """States the end of what an earlier process has tried."""
        found = installer.in_use(request.kind, request.product)
        is_wanted = found == (self._record.target or request.sha256)  # a target of None: it had not been replaced yet
        stays = "the earlier" if request.action == "fetch" else "the same"
        text = f"the agent was ended in the phase {self._record.phase}; {stays} {request.kind} is in use"
        if (found != request.sha256) if request.action == "rollback" else is_wanted:
            self._note("done")
        else:
            self._note("failed", text)
        self._clean()

    def _file(self, request: UpdateRequest) -> Path:
        return self._folder / f"{request.sha256}.{'zip' if request.kind == 'bundle' else 'profile'}"

    def _run(self) -> None:
        lower_priority()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stop.is_set() or self._to_fetch() is not None)
                request = self._to_fetch()
                if self._stop.is_set() or request is None:
                    return
                self._download = download = Download(
                    request.url or "",
                    self._file(request),
                    size=request.bytes or 0,
                    sha256=request.sha256,
                    config=self._config,
                    progress=partial(self._progress, size=request.bytes or 1),
                )
            self._fetch(request, download)

    def _to_fetch(self) -> UpdateRequest | None:
        return self._record.request if self._record.phase == "downloading" and not self._ready else None

    def _fetch(self, request: UpdateRequest, download: Download) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._clean(keep=request.sha256)
            download.run()
            if request.signature is not None:
                file = self._file(request)
                write_whole(file.with_name(f"{file.name}.sig"), request.signature.encode())
        except Exception as error:
            if not self._stop.is_set():  # else it continues after the next start
                self._fail(error)
        else:
            with self._changed:
                self._ready = True

    def _fail(self, error: Exception) -> None:
        if not isinstance(error, ZsadError | OSError):
            logger.error("an update failed", exc_info=error)
        self._note("failed", str(error) or type(error).__name__)

    def _progress(self, done: int, size: int) -> None:
        """Sets the text in steps of a tenth: each change is published. The file keeps the earlier one."""
        text = f"{done * 10 // size * 10} % of {size} bytes"
        if text != self._record.text:
            with self._changed:
                self._record = self._record.model_copy(update={"text": text})

    def _note(self, phase: Phase, text: str | None = None, *, target: str | None = None) -> bool:
        """Returns whether the record is on disk."""
        text = None if text is None else one_line(text, MAX_TEXT)
        with self._changed:
            self._record = self._record.model_copy(update={"phase": phase, "text": text, "target": target})
            encoded = self._record.model_dump_json().encode()
        level = logging.ERROR if phase == "failed" else logging.INFO
        logger.log(level, "update %s: %s%s", self._record.ids[-1], phase, f": {text}" if text else "")
        try:
            write_whole(self._path, encoded)
        except OSError as error:  # the state is published all the same
            logger.error("%s: cannot be written: %s", self._path, error.strerror or error)
            return False
        return True

    def _clean(self, keep: str | None = None) -> None:
        """Removes what was fetched, except the files whose names start with `keep`."""
        with contextlib.suppress(OSError):
            for path in self._folder.iterdir():
                if keep is None or not path.name.startswith(keep):
                    path.unlink()
