"""Trained models in another precision: the setting `precision_axis`."""
