from .health_server import HealthApp as HealthApp
from .health_server import HealthServer as HealthServer
from .lights import HealthState as HealthState
from .lights import Light as Light
from .lights import health_state as health_state
from .metrics import Metrics as Metrics
from .stats_reporter import StatsReporter as StatsReporter
