"""The command `zsad-agent`: the table of the subcommands, and the errors of all. Without one it runs the daemon.

Only the module of the given command is imported. It imports heavy modules after its arguments are parsed, so that
`--help` and usage errors are fast.
"""

import importlib
import sys

from zsad_agent.system import guarded

OWN = {  # each is a module of this room
    "init": "asks five questions and writes a config",
    "check": "names every fault of a config",
    "doctor": "checks this machine: camera, model, broker, disk, clock, service",
    "plant": "prints the registers of the handshake with a PLC",
}
TOOLS = {  # each is a module of the room tools
    "score": "scores pictures, without a broker",
    "teach": "learns a product from pictures of good parts",
    "profiles": "lists, exports, imports and removes what was taught",
    "calibrate": "prints a threshold from pictures of good parts",
    "reference": "records the scene, so that a moved camera is noticed",
    "bench": "measures speed and memory",
}
COMMANDS = OWN | TOOLS  # name: what it does


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns the exit code. Errors that a user can cause are one line per fault on stderr."""
    arguments = sys.argv[1:] if argv is None else argv
    name, rest = (arguments[0], arguments[1:]) if arguments and arguments[0] in COMMANDS else ("run", arguments)
    module = f"zsad_agent.{'tools' if name in TOOLS else 'cli'}.{name}"
    return guarded("zsad-agent", lambda: importlib.import_module(module).main(rest))
