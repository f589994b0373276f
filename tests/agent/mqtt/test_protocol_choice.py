from paho.mqtt.enums import MQTTProtocolVersion

from zsad_agent.mqtt import ProtocolChoice
from zsad_agent.mqtt.connection import MEMORY_S

OLD, NEW = MQTTProtocolVersion.MQTTv311, MQTTProtocolVersion.MQTTv5


def test_older_version_is_remembered_for_a_while_or_until_it_fails() -> None:
    now_s = [0.0]
    choice = ProtocolChoice("auto", clock_s=lambda: now_s[0])
    assert choice.to_try() == (NEW, OLD)
    choice.worked(OLD)
    assert choice.to_try() == (OLD,)
    now_s[0] = MEMORY_S - 1
    choice.worked(OLD)  # connecting again does not prolong it
    now_s[0] = MEMORY_S + 1
    assert choice.to_try() == (NEW, OLD)
    choice.worked(OLD)
    choice.failed()
    assert choice.to_try() == (NEW, OLD)
    choice.worked(OLD)
    choice.worked(NEW)
    assert choice.to_try() == (NEW, OLD)


def test_configured_version_is_the_only_one_to_try() -> None:
    assert ProtocolChoice("5").to_try() == (NEW,)
    assert ProtocolChoice("3.1.1").to_try() == (OLD,)
