"""Logs read, runs collected, measured figures set beside the published ones."""
