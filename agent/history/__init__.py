"""Every result of the past in a SQLite file, marks of people, queries and reports.

Pictures are in `evidence`; results that the broker does not have yet are in `spool`. May import `messages`, `evidence`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
