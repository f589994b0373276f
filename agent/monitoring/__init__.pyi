from .http_server import HealthServer as HealthServer
from .metrics import Metrics as Metrics
