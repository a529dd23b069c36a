"""Entries of a shared results folder: their points computed again, and all checks of an entry."""
