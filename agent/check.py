"""`zsad-agent check`: everything about a config that can be judged without running."""

from collections.abc import Iterator
from importlib.util import find_spec

from zsad_agent.bundle_store import open_bundle
from zsad_agent.credentials import password_key, read_password
from zsad_agent.inference import check_device
from zsad_agent.mqtt_config import EMBEDDED_BROKER
from zsad_agent.settings import Settings
from zsad_agent.source_choice import make_source
from zsad_agent.tls import faulty_key, make_context
from zsad_core.bundle import Bundle
from zsad_core.errors import BundleError, ConfigError, DeviceError, ProductError, SourceError
from zsad_core.signature import read_trusted_keys


def find_faults(settings: Settings) -> Iterator[str]:
    """One line per fault: where it was set, the value, what is wrong, what is allowed.

    A camera that is not there is no fault: it may be plugged in later, and the agent says so until then.
    """
    config = settings.config
    yield from _source_faults(settings)
    bundle: Bundle | None = None
    try:
        bundle = open_bundle(config.inference)
    except BundleError as error:
        yield f"{settings.where('inference', 'bundle')}: {error}"
    except ConfigError:
        pass  # told below, with every key
    if bundle is not None:
        try:
            bundle.prompt(config.inference.product)
        except ProductError as error:
            yield f"{settings.where('inference', 'product')}: {error}"
    yield from _key_faults(settings)
    try:
        check_device(config.inference.device)
    except DeviceError as error:
        yield f"{settings.where('inference', 'device')}: {error}"
    try:
        read_password(config.mqtt)
    except ConfigError as error:
        yield f"{settings.where('mqtt', password_key(config.mqtt))}: {error}"
    if config.mqtt.broker.startswith("mqtts:"):
        try:
            make_context(config.mqtt.tls)
        except ConfigError as error:
            yield f"{settings.where('mqtt', 'tls', faulty_key(error))}: {error}"
    if config.mqtt.broker == EMBEDDED_BROKER and find_spec("amqtt") is None:
        yield (
            f"{settings.where('mqtt', 'broker')}: {EMBEDDED_BROKER} needs amqtt: pip install "
            "'zsad-agent[embedded-broker]', or name a broker as mqtt://host[:port]"
        )


def _key_faults(settings: Settings) -> Iterator[str]:
    for path in settings.config.inference.trusted_keys:
        try:
            read_trusted_keys([path])
        except ConfigError as error:
            yield f"{settings.where('inference', 'trusted_keys')}: {error}"


def _source_faults(settings: Settings) -> Iterator[str]:
    key = "camera" if settings.config.source.camera is not None else "source"
    if settings.config.source.camera is None and settings.config.source.source is None:
        return  # to be named on the command line
    try:
        make_source(settings.config.source)
    except (ConfigError, SourceError) as error:
        yield f"{settings.where('source', key)}: {error}"
