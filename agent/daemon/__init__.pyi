from .daemon import Surroundings as Surroundings
from .daemon import run_agent as run_agent
from .shutdown import StopRequest as StopRequest
