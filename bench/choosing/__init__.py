"""From traces to statements: exit rules, operating points, thresholds, frontiers, statistics. Imports no torch."""
