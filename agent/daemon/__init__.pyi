from .assembly import RunOptions as RunOptions
from .daemon import run_agent as run_agent
from .shutdown import stop_on_signal as stop_on_signal
