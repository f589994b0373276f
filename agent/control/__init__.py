"""Commands over MQTT: parsed, judged by time and id, carried out, answered and stored.

What a command does to the camera or model is in those rooms. May import `inspection`, `capture`, `model`, `mqtt`
and below.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
