"""Tasks: the nine of GLUE and own tasks, with their data sources, metrics and batches."""
