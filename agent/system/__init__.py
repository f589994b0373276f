"""The process and the operating system: logs, crash reports, systemd, memory, threads, queues, files, text.

Nothing of inspection belongs here. Imports no other room.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
