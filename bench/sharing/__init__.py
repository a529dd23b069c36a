"""Publishing, checking and merging of results, and the export of models."""
