"""Sketch: nine generated tasks with GLUE's columns and labels, whose examples have a known difficulty.

Grammars over a few hundred common English words replace GLUE without a network or for short runs. Scores on them are
not GLUE scores.
"""

from bench.tasks.sketch.generator import generate

__all__ = ["generate"]
