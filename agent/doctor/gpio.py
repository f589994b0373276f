"""The GPIO lines of the config."""

import getpass
from collections.abc import Iterator

from zsad_agent.config import INSTALL_PLANT, AgentConfig
from zsad_agent.doctor.finding import Finding
from zsad_agent.doctor.network import agent_runs
from zsad_agent.probing import users_of_lines


def check_lines(config: AgentConfig) -> Iterator[Finding]:
    """Whether the lines of `plant.gpio` are there, and free or the agent's own."""
    runs = agent_runs(config)
    for output in config.plant.gpio:
        name = f"gpio {output.chip}"
        try:
            users = users_of_lines(output.chip, list(output.lines.values()))
        except ModuleNotFoundError:
            yield Finding(check=name, state="fail", text="gpiod is not installed", advice=INSTALL_PLANT)
            continue
        except PermissionError:
            advice = f"sudo usermod -aG gpio {getpass.getuser()}, or as docs/plant.md says for the service"
            yield Finding(check=name, state="fail", text="no permission", advice=advice)
            continue
        except (OSError, ValueError) as error:
            text = (error.strerror if isinstance(error, OSError) else None) or str(error)
            yield Finding(check=name, state="fail", text=text, advice="gpioinfo lists the chips and their lines")
            continue
        wired = ", ".join(f"{signal} {line}" for signal, line in output.lines.items())
        others = {line: user for line, user in users.items() if not (runs and user.startswith("zsad-agent"))}
        if others:
            text = ", ".join(f"line {line} is used by {user}" for line, user in others.items())
            yield Finding(check=name, state="fail", text=text, advice="end that program, or choose another line")
        else:
            yield Finding(check=name, state="ok", text=f"{wired}{': the agent has them' if users else ''}")
