"""Where results lie, what made them, and the one table they are united in."""
