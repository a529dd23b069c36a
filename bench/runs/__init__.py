"""One benchmark as runs: the plan, making a run, replaying it, the clock, and their union."""
