"""From traces to statements: operating points, thresholds, frontiers, statistics. Imports no torch."""
