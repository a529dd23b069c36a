"""A table and its output as CSV, Markdown and LaTeX."""
