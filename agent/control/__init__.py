"""Commands over MQTT: parsed, judged by time and id, carried out, answered and stored.

What a command does to the camera or model is in those rooms. May import `inspection`, `capture`, `model`, `mqtt`
and below.
"""

from zsad_agent.control.command import CAMERA_KEYS, Command, CommandError, Key, SeenIds
from zsad_agent.control.controller import Controller
from zsad_agent.control.running_agent import Remote, Restart
from zsad_agent.control.stored_settings import FILE_NAME, CameraSettings, StoredSettings
from zsad_agent.control.trigger_topic import listen_for_triggers

__all__ = [
    "CAMERA_KEYS",
    "FILE_NAME",
    "CameraSettings",
    "Command",
    "CommandError",
    "Controller",
    "Key",
    "Remote",
    "Restart",
    "SeenIds",
    "StoredSettings",
    "listen_for_triggers",
]
