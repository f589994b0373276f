from .health_server import HealthApp as HealthApp
from .health_server import HealthServer as HealthServer
from .metrics import Metrics as Metrics
from .stats_reporter import StatsReporter as StatsReporter
