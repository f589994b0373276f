"""The page and its API: routes, access, live pictures and events. Imported only when `web.listen` is set.

What it needs of `control` comes in as a protocol of `ports`. May import `serving`, `history`, `evidence`, `learning`,
`inspection`, `monitoring` and below.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
