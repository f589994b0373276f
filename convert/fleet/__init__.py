"""`zsad-fleet`: lists the devices at a broker, and rolls a bundle or profile out to them in waves.

Imports `zsad_core`, paho and the standard library, and neither torch nor another room of this package.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
