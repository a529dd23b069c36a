"""The results page: one HTML file for offline use."""
