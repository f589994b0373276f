"""Runs a real Home Assistant that knows only its broker, and prints what it has found. For its own environment."""

import asyncio
import json
import sys
from pathlib import Path

from homeassistant import bootstrap, runner  # type: ignore[import-not-found]
from homeassistant.helpers import device_registry  # type: ignore[import-not-found]


async def main(folder: Path, port: int, http_port: int, seconds: float) -> None:
    """Prints one JSON object: devices, and the states of all entities, before and after a command."""
    (folder / ".storage").mkdir(parents=True)
    (folder / "configuration.yaml").write_text(f"http:\n  server_host: 127.0.0.1\n  server_port: {http_port}\n")
    entry = {
        "entry_id": "mqtt",
        "version": 1,
        "minor_version": 1,
        "domain": "mqtt",
        "title": "mqtt",
        "data": {"broker": "127.0.0.1", "port": port, "discovery": True},
        "options": {},
        "pref_disable_new_entities": False,
        "pref_disable_polling": False,
        "source": "user",
        "unique_id": None,
        "disabled_by": None,
    }
    stored = {"version": 1, "minor_version": 1, "key": "core.config_entries", "data": {"entries": [entry]}}
    (folder / ".storage/core.config_entries").write_text(json.dumps(stored))
    home = await bootstrap.async_setup_hass(
        runner.RuntimeConfig(config_dir=str(folder), skip_pip=False, safe_mode=False, verbose=False)
    )
    await home.async_start()
    await asyncio.sleep(seconds)
    found = {state.entity_id: state.state for state in home.states.async_all()}
    threshold = next(name for name in found if name.startswith("number."))
    await home.services.async_call("number", "set_value", {"entity_id": threshold, "value": 0.321}, blocking=True)
    await asyncio.sleep(seconds)
    devices = [device.name for device in device_registry.async_get(home).devices.values()]
    print(json.dumps({"devices": devices, "states": found, "threshold": home.states.get(threshold).state}))
    await home.async_stop()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
