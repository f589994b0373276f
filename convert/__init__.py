"""Converts a checkpoint to an OpenVINO bundle for devices. Runs on the host only."""
