from .command import add_command as add_command
from .command import run as run
