"""The training of one run: what it costs, and when it has failed to learn."""
