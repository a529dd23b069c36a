"""Smaller models: pruned, with fewer layers, or with shared weights."""
