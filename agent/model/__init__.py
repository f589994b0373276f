"""The bundle that runs: loading, compiling, its cache, predicting, and replacing it while the agent runs.

The bundle's format is in `zsad_core.bundle`. May import `config`, `system`.
"""

from zsad_agent.model.bundle_store import BundleStore, Started, open_bundle
from zsad_agent.model.bundle_update import BundleUpdater, CameraInUse, Outcome, Running, UpdateState, find_bundle
from zsad_agent.model.current_model import Model, ModelInUse
from zsad_agent.model.detector import Detector, check_device
from zsad_agent.model.precision_choice import keep_faster

__all__ = [
    "BundleStore",
    "BundleUpdater",
    "CameraInUse",
    "Detector",
    "Model",
    "ModelInUse",
    "Outcome",
    "Running",
    "Started",
    "UpdateState",
    "check_device",
    "find_bundle",
    "keep_faster",
    "open_bundle",
]
