"""Whether a live picture can be judged: dark, bright, frozen, blurred, moved, another scene.

Defects of parts belong to the model. May import `config`.
"""

from zsad_agent.picture_health.health import PictureHealth, exposure
from zsad_agent.picture_health.reference import Reference, load_reference, make_reference, save_reference

__all__ = [
    "PictureHealth",
    "Reference",
    "exposure",
    "load_reference",
    "make_reference",
    "save_reference",
]
