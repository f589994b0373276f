"""The agent's settings: one strict model for each section, the folders, and loading from YAML and flags.

May import `system`.
"""

from zsad_agent.config.agent import AgentConfig, EvidenceConfig, HeatmapConfig, HttpConfig, InferenceConfig
from zsad_agent.config.camera import CameraConfig, DecisionConfig, HealthConfig, SourceConfig, TopicLevel
from zsad_agent.config.load import Settings, load_settings
from zsad_agent.config.mqtt import EMBEDDED_BROKER, ControlConfig, MqttConfig, TlsConfig
from zsad_agent.config.paths import SHIPPED_BUNDLE, SHIPPED_BUNDLES, default_cache_dir, default_state_dir

__all__ = [
    "EMBEDDED_BROKER",
    "SHIPPED_BUNDLE",
    "SHIPPED_BUNDLES",
    "AgentConfig",
    "CameraConfig",
    "ControlConfig",
    "DecisionConfig",
    "EvidenceConfig",
    "HealthConfig",
    "HeatmapConfig",
    "HttpConfig",
    "InferenceConfig",
    "MqttConfig",
    "Settings",
    "SourceConfig",
    "TlsConfig",
    "TopicLevel",
    "default_cache_dir",
    "default_state_dir",
    "load_settings",
]
