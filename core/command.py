"""What every command of the host does with the errors that a user can cause: a line for each fault, an exit code."""

import sys
from collections.abc import Callable

from zsad_core.errors import ConfigError, ZsadError

DONE, FAILED, USAGE = 0, 1, 2
_WORKER_TRACE = "Original Traceback (most recent call last)"  # torch puts it into the text of a data worker's error


def guarded(name: str, work: Callable[[], None]) -> int:
    """Runs `work`. Exit code: 0 done, 1 failed, 2 bad usage or config; what went wrong is on stderr.

    Args:
        name: of the command, before each line.
        work: does everything after the arguments were parsed.
    """
    try:
        work()
    except ConfigError as error:
        return _report(name, str(error), USAGE)
    except (ZsadError, ValueError, OSError) as error:
        return _report(name, _without_trace(str(error)), FAILED)
    except KeyboardInterrupt:
        return _report(name, "interrupted", FAILED)
    return DONE


def _report(name: str, text: str, code: int) -> int:
    for line in text.splitlines():
        print(f"{name}: {line}", file=sys.stderr)
    return code


def _without_trace(text: str) -> str:
    if _WORKER_TRACE not in text:
        return text
    return text.strip().splitlines()[-1].partition(": ")[2]
