"""Measurements of trained models: traces, FLOPs, latency."""
