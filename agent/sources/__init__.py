"""Where pictures come from: cameras, streams, files, watched folders, and the process that reads a live one.

When a picture is taken belongs in `capture`. May import `config`, `system`.

Names are imported when they are first used. The camera's process sets the environment before OpenCV is imported, and
it stays 20 MB smaller without the settings of the agent.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zsad_agent.sources.camera import StreamSource
    from zsad_agent.sources.camera_process import START_S, GrabberSource
    from zsad_agent.sources.choice import make_source
    from zsad_agent.sources.files import PicturesSource, VideoFileSource
    from zsad_agent.sources.source import Source
    from zsad_agent.sources.watched_folder import LOOK_EVERY_S, FolderDropSource

__all__ = [
    "LOOK_EVERY_S",
    "START_S",
    "FolderDropSource",
    "GrabberSource",
    "PicturesSource",
    "Source",
    "StreamSource",
    "VideoFileSource",
    "make_source",
]

_MODULES = {
    "LOOK_EVERY_S": "watched_folder",
    "START_S": "camera_process",
    "FolderDropSource": "watched_folder",
    "GrabberSource": "camera_process",
    "PicturesSource": "files",
    "Source": "source",
    "StreamSource": "camera",
    "VideoFileSource": "files",
    "make_source": "choice",
}


def __getattr__(name: str) -> Any:
    """A public name of this room, from its module."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
