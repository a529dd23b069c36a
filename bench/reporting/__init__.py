"""Tables, figures, the results page and submission files."""
