from .home_assistant import announce as announce
from .home_assistant import discovery_messages as discovery_messages
