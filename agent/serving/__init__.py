"""HTTP: a server in its own thread, its limits, TLS, and files, which knows no route; and webhooks.

uvicorn is imported when the first client connects, or when the server is told to. May import `system`, `config`
and `messages`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
