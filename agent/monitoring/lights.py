"""One light for each part that a person on the line can do something about."""

from collections.abc import Sequence
from typing import Final, Literal

from zsad_agent.messages import AgentSnapshot, CameraStats
from zsad_core.config import StrictModel

OK: Final = "ok"
WARN: Final = "warn"
FAIL: Final = "fail"
DARK: Final = "off"
PAUSED = "paused"  # the reason of a camera without a fault
PLANT = ("plant", "modbus", "opcua")  # services that a PLC needs
GPIO = "gpio"  # the service of the digital outputs
PLC_SILENT_S = 5.0
ON_DISK = ("evidence", "history")  # services that write
PAGE = "page"  # the service
CAMERA_ADVICE = "Check its cable, power, lens, light and product. On the device, zsad-agent doctor tests it"
DRIFT_ADVICE = "The inspection goes on. Compare the parts with the good ones under Look back"
SILENT_STEPS_S = (0, 1, 2, 5, 10, 30, 60, 300, 1800)  # the text changes with these: the page reads each one aloud


class Light(StrictModel):
    """The state of one part."""

    name: str  # camera NAME, broker, disk, model, page, PLC or outputs
    state: Literal["ok", "warn", "fail", "off"]
    text: str
    advice: str  # what to do; empty if there is nothing to do
    blind: bool = False  # of a camera: its last verdict says nothing about the part in front of it


class HealthState(StrictModel):
    """Whether the agent works, in words for people."""

    ready: bool
    reasons: tuple[str, ...]  # why it is not ready
    lights: tuple[Light, ...]


def health_state(agent: AgentSnapshot, reasons: Sequence[str]) -> HealthState:
    """A light for each camera, then broker, disk, model and page. PLC if the config has one, outputs if they fail."""
    return HealthState(ready=not reasons, reasons=tuple(reasons), lights=tuple(_lights(agent)))


def _lights(agent: AgentSnapshot) -> list[Light]:
    return [
        *(_camera(agent, name, camera) for name, camera in agent.stats.cameras.items()),
        _broker(agent),
        _disk(agent),
        _model(agent),
        _page(agent),
        *([] if agent.plc_silent_s is None else [_plc(agent, agent.plc_silent_s)]),
        *([_outputs(agent.service_faults[GPIO])] if GPIO in agent.service_faults else []),
    ]


def _camera(agent: AgentSnapshot, name: str, camera: CameraStats) -> Light:
    silent_s, is_drifting = agent.silent_s.get(name), name in agent.drifting
    name = f"camera {name}"
    if is_drifting and camera.reason is not None:
        return Light(name=name, state=WARN, text=camera.reason, advice=DRIFT_ADVICE)
    if camera.up and silent_s is not None:
        said_s = max(step for step in SILENT_STEPS_S if step <= silent_s)
        text = f"no new picture for more than {said_s} s"
        return Light(name=name, state=WARN, text=text, advice=CAMERA_ADVICE, blind=True)
    if camera.up:
        return Light(name=name, state=OK, text="pictures come", advice="")
    if camera.reason is None:
        advice = "Wait, or trigger it if it takes triggers"
        return Light(name=name, state=WARN, text="no picture yet", advice=advice, blind=True)
    if camera.reason == PAUSED:
        return Light(name=name, state=DARK, text=PAUSED, advice="End the pause to inspect again")
    return Light(name=name, state=FAIL, text=camera.reason, advice=CAMERA_ADVICE, blind=True)


def _broker(agent: AgentSnapshot) -> Light:
    if agent.broker_fault is None and agent.connected:
        return Light(name="broker", state=OK, text="connected", advice="")
    waiting = agent.stats.spool.entries
    text = agent.broker_fault or "not connected"
    advice = f"Inspection goes on, and {waiting} results wait for the broker. Test the broker under Set up"
    if waiting == 1:
        advice = "Inspection goes on, and 1 result waits for the broker. Test the broker under Set up"
    return Light(name="broker", state=FAIL, text=text, advice=advice)


def _disk(agent: AgentSnapshot) -> Light:
    others = "; ".join(agent.service_faults[name] for name in ON_DISK if name in agent.service_faults)
    if agent.spool_fault is None and agent.spool_incident is not None and not others:
        advice = "Results are stored again. Find out which program changes the files of the agent"
        return Light(name="disk", state=WARN, text=agent.spool_incident, advice=advice)
    if agent.spool_fault is not None:
        advice = "Inspection goes on, and results wait in memory. Free space on the disk, or replace it"
        return Light(name="disk", state=FAIL, text="; ".join(filter(None, (agent.spool_fault, others))), advice=advice)
    if others:
        advice = "Results are safe, but not all pictures or the history. Free space on the disk, or replace it"
        return Light(name="disk", state=WARN, text=others, advice=advice)
    return Light(name="disk", state=OK, text="results are stored", advice="")


def _model(agent: AgentSnapshot) -> Light:
    fault = agent.model_fault or agent.service_faults.get("model self-test")
    if fault is None:
        bundle = agent.stats.bundle
        return Light(name="model", state=OK, text=f"{bundle.name} {bundle.version} on {bundle.device}", advice="")
    advice = "Choose another product, or teach this one again. Otherwise another bundle or inference.device"
    return Light(name="model", state=FAIL, text=fault, advice=advice)


def _page(agent: AgentSnapshot) -> Light:
    fault = agent.service_faults.get(PAGE)
    if fault is None:
        return Light(name="page", state=OK, text="works", advice="")
    return Light(name="page", state=WARN, text=fault, advice="Set the passwords, or check web in the config")


def _plc(agent: AgentSnapshot, silent_s: float) -> Light:
    faults = "; ".join(agent.service_faults[name] for name in PLANT if name in agent.service_faults)
    if faults:
        return Light(name="PLC", state=FAIL, text=faults, advice="Check plant in the config, and what uses its ports")
    if silent_s > PLC_SILENT_S:
        advice = "Check that the PLC runs, its program, and the network cable"
        return Light(name="PLC", state=WARN, text="no PLC asks", advice=advice)
    return Light(name="PLC", state=OK, text="the PLC asks", advice="")


def _outputs(fault: str) -> Light:
    advice = "Check plant.gpio in the config, and the wiring. On the device, zsad-agent doctor tests the lines"
    return Light(name="outputs", state=FAIL, text=fault, advice=advice)
