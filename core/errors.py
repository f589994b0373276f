"""The errors that a user can cause or fix. Their text says what happened, the value, and what to do.

A wrong call inside the code raises a `ValueError`.
"""


class ZsadError(Exception):
    """Base of every error that a command prints as one line and ends with an exit code."""


class ConflictError(ZsadError):
    """The present state does not allow what was asked for; the text says what to do first."""


class ConfigError(ZsadError):
    """A config file or flag is wrong; the text has one line per fault. Exit code 2."""


class ImageError(ZsadError):
    """A file cannot be read as an image, or an array is not an image."""


class BundleError(ZsadError):
    """A bundle is missing, damaged, inconsistent or in an unknown format."""


class ProductError(BundleError):
    """A bundle has no prompt embeddings for the named product."""


class ProfileError(ZsadError):
    """What was taught about a product is damaged, does not fit, or cannot be stored."""


class DeviceError(ZsadError):
    """The inference device is missing, cannot run the model, or gives an invalid output."""


class SourceError(ZsadError):
    """A camera, stream, video or folder cannot be opened or read."""


class BrokerError(ZsadError):
    """The MQTT broker's address is invalid, or a broker cannot be started."""


class SpoolError(ZsadError):
    """The on-disk store of unsent results cannot be used."""


class HistoryError(ZsadError):
    """The history of results cannot be read or written."""


class DatasetError(ZsadError):
    """A data set's folder tree is incomplete or wrong; the text has one line per file."""


class WeightsError(ZsadError):
    """Backbone, text tower or checkpoint weights are missing or do not fit."""


class ParityError(ZsadError):
    """The outputs of an exported graph differ from those of the original model."""


def some(names: list[str], count: int = 8) -> str:
    """The first `count` names and the number of the others; `none` for an empty list."""
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "") or "none"
