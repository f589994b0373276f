"""`zsad-agent check`: finds all faults of a config without running the agent."""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from zsad_agent.config import EMBEDDED_BROKER, CameraConfig, Settings, load_settings
from zsad_agent.inspection import View, check_mask, product_of
from zsad_agent.model import check_device, open_bundle
from zsad_agent.mqtt import faulty_key, make_context, password_key, read_password
from zsad_agent.picture_health import load_reference
from zsad_agent.sources import make_source
from zsad_core.bundle import Bundle, read_trusted_keys
from zsad_core.errors import BundleError, ConfigError, DeviceError, ProductError, SourceError


def checked_settings(path: Path | None, flags: Mapping[str, Mapping[str, Any]]) -> Settings:
    """Loads the config file and the flags, with the checks of `zsad-agent check`.

    Raises:
        ConfigError: one line per fault.
    """
    settings = load_settings(path, flags)
    faults = list(find_faults(settings))
    if faults:
        raise ConfigError("\n".join(faults))
    return settings


def find_faults(settings: Settings) -> Iterator[str]:
    """One line per fault: place in the config, value, fault, allowed values.

    A missing camera is not a fault: it may be connected later, and the agent reports it as lost until then.
    """
    config = settings.config
    yield from _source_faults(settings)
    bundle: Bundle | None = None
    try:
        bundle = open_bundle(config.inference)
    except BundleError as error:
        yield f"{settings.where('inference', 'bundle')}: {error}"
    except ConfigError:
        pass  # reported below, with every key
    if bundle is not None:
        yield from _product_faults(settings, bundle)
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


def _product_faults(settings: Settings, bundle: Bundle) -> Iterator[str]:
    for where, camera in _cameras(settings):
        try:
            bundle.prompt(product_of(camera))
        except ProductError as error:
            of_all = camera.product == settings.config.inference.product
            yield f"{settings.where(*(('inference', 'product') if of_all else (*where, 'product')))}: {error}"
        try:
            check_mask(camera, bundle)
        except ConfigError as error:
            yield f"{settings.where(*where, 'ignore_mask')}: {error}"


def _source_faults(settings: Settings) -> Iterator[str]:
    for where, camera in _cameras(settings):
        if camera.camera is not None or camera.source is not None:  # else the command line must name it
            try:
                make_source(camera)
            except (ConfigError, SourceError) as error:
                yield f"{settings.where(*where, 'camera' if camera.camera is not None else 'source')}: {error}"
        try:
            View(camera.region_xywh, camera.ignore_mask)
        except ConfigError as error:
            yield f"{settings.where(*where, 'ignore_mask')}: {error}"
        if camera.health.reference is not None:
            try:
                load_reference(camera.health.reference)
            except ConfigError as error:
                yield f"{settings.where(*where, 'health', 'reference')}: {error}"


def _cameras(settings: Settings) -> Iterator[tuple[tuple[str | int, ...], CameraConfig]]:
    """Each camera's location in the file, and its settings."""
    several = bool(settings.config.cameras)
    for number, camera in enumerate(settings.config.every_camera):
        yield ("cameras", number) if several else ("source",), camera
