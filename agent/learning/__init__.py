"""What the agent learns while it inspects: pictures of the line, offers, feedback of people, and drift.

How a product is taught from pictures is in `zsad_agent.teaching`. May import `config`, `messages`, `model`, `spool`,
`system`, `teaching`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
