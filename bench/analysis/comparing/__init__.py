"""What differences mean: averages over seeds and tasks, the bootstrap, and verdicts."""
