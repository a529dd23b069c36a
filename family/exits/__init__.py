"""Early exit: models with exits, and policies that decide when an example exits."""
