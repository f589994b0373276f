from .broker import probe_broker as probe_broker
from .devices import Device as Device
from .devices import list_devices as list_devices
from .devices import list_genicam as list_genicam
from .gpio import users_of_lines as users_of_lines
from .source import probe_source as probe_source
