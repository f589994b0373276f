"""The connection to the broker: results from the spool, live pictures, retained statuses, subscriptions.

What messages say belongs in `messages`, what waits on disk in `spool`. May import `messages`, `spool`, `config`.
"""

from zsad_agent.mqtt.broker_health import BrokerState
from zsad_agent.mqtt.connection import ProtocolChoice
from zsad_agent.mqtt.credentials import faulty_key, make_context, password_key, read_password
from zsad_agent.mqtt.embedded_broker import EmbeddedBroker
from zsad_agent.mqtt.publisher import Publisher
from zsad_agent.mqtt.size_limits import SizeLimits

__all__ = [
    "BrokerState",
    "EmbeddedBroker",
    "ProtocolChoice",
    "Publisher",
    "SizeLimits",
    "faulty_key",
    "make_context",
    "password_key",
    "read_password",
]
