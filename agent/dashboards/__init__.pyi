from .home_assistant import announce as announce
from .home_assistant import discovery_messages as discovery_messages
from .sparkplug import SparkplugPublisher as SparkplugPublisher
from .sparkplug_payload import DataType as DataType
from .sparkplug_payload import Metric as Metric
from .sparkplug_payload import asks_for_rebirth as asks_for_rebirth
from .sparkplug_payload import encode_payload as encode_payload
