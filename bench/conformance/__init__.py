"""What every contestant owes, whatever it does inside: the suite's own are held to it, and so is anybody's."""
