"""Checks and forecasts before training, and progress during it."""
