"""Training: the loop, losses, targets of a teacher, and files of a stage."""
