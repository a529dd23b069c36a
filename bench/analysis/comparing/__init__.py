"""Statistics of comparisons: averages over seeds and tasks, the bootstrap, and verdicts."""
