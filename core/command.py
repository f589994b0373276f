"""How the host's commands report errors that a user can cause: one line per fault, and an exit code."""

import sys
from collections.abc import Callable

from zsad_core.errors import ConfigError, ZsadError

DONE, FAILED, USAGE = 0, 1, 2
_WORKER_TRACE = "Original Traceback (most recent call last)"  # torch adds it to the text of a data worker's error


def guarded(name: str, work: Callable[[], None]) -> int:
    """Runs `work` and prints its errors to stderr. Returns the exit code: 0 done, 1 failed, 2 bad usage or config.

    Args:
        name: the command's name; each printed line starts with it.
        work: everything that the command does after it parsed the arguments.
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
