"""Trained models as ONNX or OpenVINO graphs that run without PyTorch and without this package."""
