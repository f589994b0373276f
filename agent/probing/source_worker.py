"""The process of `probe_source`. The config comes over stdin, so that its credentials are in no process list."""

import os
import signal
import sys
from typing import Final

LIMIT_S: Final = 15
WIDTH = 1280  # most pixels of the answer
FRAMES = 5  # that are tried: the first ones of a camera may be damaged
PICTURE: Final = b"P"  # first byte of an answer: a JPEG follows,
FAULT: Final = b"E"  # or a text


def main() -> int:
    """Writes one answer to stdout, and ends after `LIMIT_S` even if a driver hangs. Returns the exit code."""
    signal.alarm(LIMIT_S)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # libraries write to it
    try:
        answer = PICTURE + _read(sys.stdin.buffer.read())
    except Exception as error:
        from zsad_core.errors import ZsadError

        known = isinstance(error, ZsadError)  # the text of another may contain the URL with its credentials
        answer = FAULT + (str(error) if known else f"{type(error).__name__} while it was read").encode()
    answers.write(answer)
    answers.flush()
    os._exit(0)  # a thread may hang in a driver


def _read(encoded: bytes) -> bytes:
    """The JPEG."""
    from zsad_agent.system import prepare_environment

    prepare_environment(5.0)
    import cv2

    from zsad_agent.config import SourceConfig
    from zsad_agent.sources import limit_memory, make_source
    from zsad_core.errors import ImageError, SourceError, ZsadError

    config = SourceConfig.model_validate_json(encoded)
    limit_memory()
    with make_source(config) as source:
        picture = None
        damage: ZsadError = SourceError(f"{source.description}: has no picture")
        for _ in range(FRAMES):
            try:
                picture = source.read()
                break
            except ImageError as error:
                damage = error
    if picture is None:
        raise damage
    image = picture.image
    h, w = image.shape[:2]
    if w > WIDTH:
        image = cv2.resize(image, (WIDTH, max(1, round(h * WIDTH / w))), interpolation=cv2.INTER_AREA)
    done, jpeg = cv2.imencode(".jpg", image)
    if not done:
        raise SourceError(f"{source.description}: the picture cannot be encoded")
    return jpeg.tobytes()


if __name__ == "__main__":
    raise SystemExit(main())
