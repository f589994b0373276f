"""HTTP: a server in its own thread, its limits, TLS, and files. Knows no route.

uvicorn is imported when the first client connects, or when the server is told to. May import `system` and `config`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
