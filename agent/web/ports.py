"""What a route gets: the running agent, and the visitor with a role.

    @router.put("/cameras/{camera}/paused")
    def set_paused(camera: str, body: Switch, parts: Parts, visitor: ForOperator) -> Setting:
        ...
        visitor.note(f"{camera} paused", False, True)  # a line in the audit list; without it, one with the route alone

A part that `web` may not import is a protocol.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from fastapi import Depends, HTTPException, Request
from pydantic import BaseModel, ConfigDict

from zsad_agent.config import AgentConfig
from zsad_agent.history import HistoryStore
from zsad_agent.inspection import Station
from zsad_agent.learning import LineLearner
from zsad_agent.messages import AgentSnapshot
from zsad_agent.model import ModelInUse
from zsad_agent.monitoring import HealthApp
from zsad_agent.teaching import ProfileStore
from zsad_agent.web.access import ADMIN, OPERATOR, Access, Role, Visitor
from zsad_agent.web.hub import EventHub, LivePictures
from zsad_core.types import Verdict


class Body(BaseModel):
    """The body of a request. Unknown keys and other types are refused: "yes" is no boolean, 3.0 is no whole number."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Commands(Protocol):
    """Carries out commands as those over MQTT, for example `Controller`."""

    def state(self, camera: str, key: str) -> dict[str, Any]:
        """`value` and `source` of a setting now. That of `teach` may wait for a picture that is being learned."""

    def perform(self, camera: str | None, key: str, value: Any, *, by: str) -> dict[str, Any]:
        """Waits for the answer: `value`, `source`, and `error` if a part of it failed.

        Args:
            camera: None for a command to the device.
            key: of `Key`.
            value: as in the message over MQTT.
            by: the role of the visitor, for the log.

        Raises:
            ZsadError: refused; nothing has changed.
        """


class Plc(Protocol):
    """The handshakes with the PLC, for example `PlantStations`."""

    def wiring(self) -> list[dict[str, Any]]:
        """Of each camera that takes part: `PlcCamera`."""

    def printed_map(self, word_order: Literal["high_first", "low_first"], listen: str) -> str:
        """What `zsad-agent plant map` prints."""

    def start_dry_test(self, camera: str, verdict: Verdict) -> None:
        """Shows a verdict of no part to the PLC, until it ends by itself.

        Raises:
            ConflictError: not now.
        """

    def end_dry_test(self, camera: str) -> None:
        """Does nothing if there is none."""


@dataclass(frozen=True, kw_only=True)
class WebParts:
    """The parts of the running agent that the routes use. In a route: `parts: Parts`."""

    config: AgentConfig  # as it runs, with the flags of the command line
    config_path: Path | None  # None: the agent runs without a file
    check_config: Callable[[Path], Sequence[str]]  # the faults of another file in its place, with the same flags
    reload: Callable[[], None]  # asks for it; the page ends and starts again
    state_dir: Path
    version: str
    snapshot: Callable[[], AgentSnapshot]
    health: HealthApp  # /metrics, /healthz, /readyz; `missing()` and `stuck()` say what is wrong
    access: Access
    stations: Sequence[Station]
    models: ModelInUse
    commands: Commands
    learner: LineLearner | None
    profiles: ProfileStore | None  # None: nothing taught is used
    evidence_folder: Path | None  # None: no pictures are kept
    history: HistoryStore | None  # None: it is off
    live: LivePictures
    events: EventHub
    plc: Plc | None  # None: it is off


def check_role(visitor: Visitor, role: Role) -> None:
    """An admin may do all that an operator may.

    Raises:
        HTTPException: 403, the visitor does not have this role.
    """
    if role == ADMIN and visitor.role != ADMIN:
        raise HTTPException(403, "only an admin may do this: log in as admin")


# The dependencies are coroutines: FastAPI calls each plain function in another thread.


async def visitor_of(request: Request) -> Visitor | None:
    """A dependency: the visitor; None if nobody has logged in."""
    return getattr(request.state, "visitor", None)


def require(role: Role) -> Callable[[Request], Awaitable[Visitor]]:
    """A dependency: the visitor, who has this role."""

    async def check(request: Request) -> Visitor:
        visitor = await visitor_of(request)
        if visitor is None:
            raise HTTPException(401, "log in first")
        check_role(visitor, role)
        return visitor

    return check


async def parts_of(request: Request) -> WebParts:
    """A dependency: the parts of the running agent."""
    parts = request.app.state.parts
    assert isinstance(parts, WebParts)
    return parts


Parts = Annotated[WebParts, Depends(parts_of)]
ForOperator = Annotated[Visitor, Depends(require(OPERATOR))]
ForAdmin = Annotated[Visitor, Depends(require(ADMIN))]
