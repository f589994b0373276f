"""An HTTP server in its own thread, with limits, TLS and static files, and webhooks. It has no routes of its own.

uvicorn is imported when the first client connects, or after `begin_s`. May import `system`, `config`
and `messages`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
