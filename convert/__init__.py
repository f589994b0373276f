"""From a checkpoint to an OpenVINO bundle that a device can run. Host only."""
