"""What can be known before anything trains, and while it does."""
