"""The errors that a user can cause or fix. Their text says what happened, the value, and what to do.

A caller's mistake inside the code stays a `ValueError`.
"""


class ZsadError(Exception):
    """Base of every error that the command lines turn into one line and an exit code."""


class ConfigError(ZsadError):
    """A config file or flag is wrong; the text has one line per fault. Exit code 2."""


class ImageError(ZsadError):
    """A picture cannot be read or is no picture."""


class BundleError(ZsadError):
    """A bundle is missing, damaged, of another format, or contradicts itself."""


class ProductError(BundleError):
    """A bundle has no prompt embeddings for the named product."""


class DeviceError(ZsadError):
    """The inference device is absent, refuses the model, or answers something that is no answer."""


class SourceError(ZsadError):
    """A camera, stream, video or folder cannot be opened or read."""


class BrokerError(ZsadError):
    """The MQTT broker's address is unusable or a broker cannot be started."""


class SpoolError(ZsadError):
    """The durable store of unsent results cannot be used."""


class DatasetError(ZsadError):
    """A data set's tree is broken; the text has one line per file."""


class WeightsError(ZsadError):
    """Backbone, text tower or checkpoint weights are missing or do not fit."""


class ParityError(ZsadError):
    """An exported graph answers something else than the model it was made from."""


def some(names: list[str], count: int = 8) -> str:
    """The first names and how many more there are, for a text that stays readable; `none` without any."""
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "") or "none"
