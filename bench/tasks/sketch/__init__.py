"""Sketch: nine generated tasks in GLUE's columns and labels, each example with a known difficulty.

Our own grammars over a few hundred common English words stand in for GLUE where there is no network or no
time. No score on them is a GLUE score.
"""

from bench.tasks.sketch.generator import generate

__all__ = ["generate"]
