"""The lights of the page, and the faults that they are made from."""

from dataclasses import replace

from stats_maker import AGENT, make_stats

from zsad_agent.capture import INFERENCE, CameraStatus
from zsad_agent.messages import AgentSnapshot
from zsad_agent.monitoring import health_state
from zsad_agent.system import Service, ServiceGroup

WELL = replace(AGENT, stats=make_stats(reasons={"cam0": None}))


def lit(agent: AgentSnapshot) -> dict[str, tuple[str, str]]:
    """Name -> state and text. Whoever must act is told how."""
    found = health_state(agent, []).lights
    assert all(bool(light.advice) == (light.state != "ok") for light in found)
    return {light.name: (light.state, light.text) for light in found}


def test_all_is_well() -> None:
    assert lit(WELL) == {
        "camera cam0": ("ok", "pictures come"),
        "broker": ("ok", "connected"),
        "disk": ("ok", "results are stored"),
        "model": ("ok", "zsad-tiny 1.0.0 on CPU"),
        "page": ("ok", "works"),
    }


def test_each_fault_is_at_its_own_light_with_its_text() -> None:
    camera = lit(replace(WELL, stats=make_stats(reasons={"a": "no frame for 5 s", "b": "paused"})))
    assert (camera["camera a"], camera["camera b"]) == (("fail", "no frame for 5 s"), ("off", "paused"))
    waiting = WELL.stats.cameras["cam0"].model_copy(update={"up": False})
    early = lit(replace(WELL, stats=WELL.stats.model_copy(update={"cameras": {"cam0": waiting}})))
    assert early["camera cam0"] == ("warn", "no picture yet")
    silent = lit(replace(WELL, silent_s={"cam0": 4.9}))
    assert silent["camera cam0"] == ("warn", "no new picture for more than 2 s")
    drift = replace(WELL, stats=make_stats(reasons={"a": "sudden change: …"}), drifting=["a"])
    assert lit(drift)["camera a"] == ("warn", "sudden change: …")
    lights = [health_state(agent, []).lights[0] for agent in (WELL, drift, replace(WELL, silent_s={"cam0": 4.9}))]
    assert [light.blind for light in lights] == [False, False, True]  # with drift, the verdicts still hold
    for fault, name, state in (
        ({"broker_fault": "why"}, "broker", "fail"),
        ({"spool_fault": "why"}, "disk", "fail"),
        ({"spool_incident": "why"}, "disk", "warn"),
        ({"service_faults": {"evidence": "why"}}, "disk", "warn"),
        ({"service_faults": {"history": "why"}}, "disk", "warn"),
        ({"model_fault": "why"}, "model", "fail"),
        ({"service_faults": {"model self-test": "why"}}, "model", "fail"),
        ({"service_faults": {"page": "why"}}, "page", "warn"),
    ):
        assert lit(replace(WELL, **fault)) == lit(WELL) | {name: (state, "why")}
    assert lit(replace(WELL, connected=False))["broker"] == ("fail", "not connected")
    assert lit(replace(WELL, spool_fault="a", service_faults={"evidence": "b"}))["disk"] == ("fail", "a; b")


def test_reasons_of_the_agent_are_told_as_they_are() -> None:
    assert health_state(WELL, []).ready
    state = health_state(WELL, ["page: its thread has died"])
    assert (state.ready, state.reasons) == (False, ("page: its thread has died",))


def test_faults_are_known_by_the_name_of_their_service() -> None:
    class Faulty(Service):
        name = "history"
        alive = True  # type: ignore[assignment]
        fault = "disk full"  # type: ignore[assignment]

        def stop(self, deadline_s: float) -> None: ...

    class Dead(Faulty):
        name = "evidence"
        alive = False  # type: ignore[assignment]

    group = ServiceGroup()
    for service in (Faulty(), Dead()):
        group.start(service)
    assert group.by_name == {"history": "disk full", "evidence": "its thread has died"}


def test_fault_of_a_part_of_a_camera() -> None:
    status = CameraStatus("cam0", lambda *_: None)
    status.fault(INFERENCE, "NaN")
    assert (status.fault_of(INFERENCE), status.fault_of("camera")) == ("NaN", None)


def test_a_plc_has_its_light_only_if_the_config_has_one() -> None:
    assert "PLC" not in lit(WELL)
    assert lit(replace(WELL, plc_silent_s=0.2))["PLC"] == ("ok", "the PLC asks")
    assert lit(replace(WELL, plc_silent_s=float("inf")))["PLC"] == ("warn", "no PLC asks")
    assert lit(replace(WELL, service_faults={"gpio": "no chip"}))["outputs"] == ("fail", "no chip")
    broken = replace(WELL, plc_silent_s=0.2, service_faults={"modbus": "the port is taken"})
    assert lit(broken)["PLC"] == ("fail", "the port is taken")
