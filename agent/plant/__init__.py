"""What a plant's machines need: the handshake with a PLC, over Modbus TCP and OPC UA, and digital outputs.

Results over MQTT are in `mqtt`; what dashboards need is in `dashboards`. May import `inspection` and what is below.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
