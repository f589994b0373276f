"""`zsad-score`: scores archives of pictures on the CPUs of a Ray cluster or of this machine, into Parquet files.

It owns the order of the work and its files; each picture is judged by `tools.score`. Needs the extra `ray`, which is
imported only here, when the command runs. May import every room of the agent except `daemon` and `control`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
