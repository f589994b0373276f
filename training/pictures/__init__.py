"""Training images: sampling, synthetic anomalies, the validation part, checks of the data.

May import `config`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
