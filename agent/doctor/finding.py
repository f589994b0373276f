"""What a check finds, and how checks are run: with a time limit, and without a crash."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from zsad_agent.system import in_thread
from zsad_core.errors import ZsadError

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    check: str  # what was examined
    state: State
    text: str
    advice: str = ""  # what to do; empty if nothing


@dataclass(frozen=True, kw_only=True)
class Check:
    name: str
    run: Callable[[], Iterable[Finding]]
    limit_s: float = 10.0


def examine(checks: Iterable[Check]) -> Iterator[Finding]:
    """The findings, in order. A check that crashes or takes too long is a `fail`."""
    for check in checks:
        try:
            yield from in_thread(f"doctor-{check.name}", lambda run=check.run: list(run())).result(check.limit_s)  # type: ignore[misc]
        except TimeoutError:
            text = f"not done within {check.limit_s:g} s"
            yield Finding(check=check.name, state="fail", text=text, advice="a driver, disk or network hangs")
        except ZsadError as error:
            yield Finding(check=check.name, state="fail", text=str(error))
        except Exception as error:
            text = f"the check crashed: {type(error).__name__}: {error}"
            yield Finding(check=check.name, state="fail", text=text, advice="report this as a fault of zsad-agent")
