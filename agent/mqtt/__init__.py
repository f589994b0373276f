"""The connection to the broker: results from the spool, live pictures, retained statuses, subscriptions.

The content of messages belongs in `messages`, the queue on disk in `spool`. May import `messages`, `spool`, `config`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
