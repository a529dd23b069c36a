"""Analysis of traces: operating points, thresholds, frontiers and statistics. Does not import torch."""
