"""`zsad-agent check`: finds all faults of a config without running the agent."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsad_agent import inspection, model, mqtt, picture_health, serving, sources, teaching
from zsad_agent.system import configure_logging
from zsad_agent.tools.flags import add_config_flag, command_parser
from zsad_core.errors import BundleError, ConfigError, ZsadError

if TYPE_CHECKING:  # pydantic takes longer than parsing
    from zsad_agent.config import CameraConfig, Settings
    from zsad_core.bundle import Bundle


def main(arguments: list[str]) -> int:
    """Prints the faults."""
    parser = command_parser(
        "check",
        "Prints every fault of a config file. Exit code 0, or 2 if there is a fault.",
        examples="zsad-agent check --config agent.yaml",
    )
    add_config_flag(parser)
    args = parser.parse_args(arguments)
    configure_logging("ERROR")
    settings = checked_settings(args.config, {})
    print(f"{settings.path or 'no config file, the defaults'}: no faults")
    return 0


def checked_settings(path: Path | None, flags: Mapping[str, Any]) -> Settings:
    """Loads the config file and the flags, with all checks.

    Raises:
        ConfigError: one line per fault.
    """
    from zsad_agent.config import load_settings

    settings = load_settings(path, flags)
    faults = list(find_faults(settings))
    if faults:
        raise ConfigError("\n".join(faults))
    return settings


def faults_in(path: Path, flags: Mapping[str, Any]) -> list[str]:
    """One line per fault of a config file."""
    try:
        checked_settings(path, flags)
    except ConfigError as error:
        return str(error).splitlines()
    return []


def find_faults(settings: Settings) -> Iterator[str]:
    """One line per fault: place in the config, value, fault, allowed values.

    A missing camera is not a fault: it may be connected later, and the agent reports it as lost until then.
    """
    from zsad_agent.config import EMBEDDED_BROKER, INSTALL_PLANT
    from zsad_agent.doctor import place_of
    from zsad_core.bundle import read_trusted_keys

    config = settings.config
    cameras = [
        (("cameras", number) if config.cameras else ("source",), camera)
        for number, camera in enumerate(config.every_camera)
    ]
    for where, camera in cameras:
        yield from _source_faults(settings, where, camera)
    folder = config.profiles_folder(place_of(settings).state)
    store = None if folder is None else teaching.ProfileStore(folder, must_exist=config.profiles is not None)
    if store is not None:
        yield from _fault(settings.where("profiles"), store.products)
    try:
        bundle = model.open_bundle(config.inference)
    except BundleError as error:
        yield f"{settings.where('inference', 'bundle')}: {error}"
    except ConfigError:
        pass  # a key: reported below, as every key
    else:
        for where, camera in cameras:
            of_all = camera.product == config.inference.product
            at = settings.where(*("inference",) if of_all else where, "product")
            product = inspection.product_of(camera)
            if store is None or not store.has(product):
                yield from _fault(at, _prompt_of, bundle, product, store)
                at = settings.where(*where, "ignore_mask")
                yield from _fault(at, inspection.check_mask, camera, bundle)
    for path in config.inference.trusted_keys:
        yield from _fault(settings.where("inference", "trusted_keys"), read_trusted_keys, [path])
    yield from _fault(settings.where("inference", "device"), model.check_device, config.inference.device)
    at = settings.where("mqtt", mqtt.password_key(config.mqtt))
    if config.mqtt.password_credential is None or config.mqtt.username is None or "CREDENTIALS_DIRECTORY" in os.environ:
        yield from _fault(at, mqtt.read_password, config.mqtt)  # systemd gives a credential to the service alone
    if config.mqtt.broker.startswith("mqtts:"):
        try:
            mqtt.make_context(config.mqtt.tls)
        except ConfigError as error:
            yield f"{settings.where('mqtt', 'tls', mqtt.faulty_key(error))}: {error}"
    if config.web.certificate is not None and config.web.key is not None:
        at = settings.where("web", "certificate")
        yield from _fault(at, serving.make_context, config.web.certificate, config.web.key)
    for key, library, is_on in (
        ("opcua", "asyncua", config.plant.opcua.on),
        ("gpio", "gpiod", bool(config.plant.gpio)),
    ):
        if is_on and find_spec(library) is None:
            yield f"{settings.where('plant', key)}: needs {library}: {INSTALL_PLANT}"
    if config.mqtt.broker == EMBEDDED_BROKER and find_spec("amqtt") is None:
        yield (
            f"{settings.where('mqtt', 'broker')}: {EMBEDDED_BROKER} needs amqtt: pip install "
            "'zsad-agent[embedded-broker]', or name a broker as mqtt://host[:port]"
        )


def _source_faults(settings: Settings, where: tuple[str | int, ...], camera: CameraConfig) -> Iterator[str]:
    if camera.origin is not None:  # else the command line must name it
        key = next(key for key in ("camera", "source", "aravis") if getattr(camera, key) is not None)
        at = settings.where(*where, key)
        yield from _fault(at, sources.make_source, camera)
    yield from _fault(settings.where(*where, "ignore_mask"), inspection.View, camera.region_xywh, camera.ignore_mask)
    if (reference := camera.health.reference) is not None:
        at = settings.where(*where, "health", "reference")
        yield from _fault(at, picture_health.load_reference, reference)


def _fault(where: str, attempt: Callable[..., object], *values: object) -> Iterator[str]:
    """The error of `attempt(*values)`, after its place in the config; nothing if it succeeds."""
    try:
        attempt(*values)
    except ZsadError as error:
        yield f"{where}: {error}"


def _prompt_of(bundle: Bundle, product: str, store: teaching.ProfileStore | None) -> None:
    """Checks that the bundle has the product, which was not taught, or that it may be a new one.

    Raises:
        ProductError: neither.
    """
    if teaching.is_new(product, bundle.manifest.products, store):
        return
    with teaching.naming_taught(product, bundle.manifest.products, store):
        bundle.prompt(product)
