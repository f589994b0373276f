"""Trains checkpoints on labelled data sets and evaluates them. Runs on the host only."""
