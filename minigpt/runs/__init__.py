"""Runs: checkpoints, resuming, run directories and their report pages."""
