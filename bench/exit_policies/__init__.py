"""Exit policies and the operating points of trained models. Does not import torch."""
