"""The nine GLUE tasks: what they are, where their text comes from, how they are scored and batched."""
