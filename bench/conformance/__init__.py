"""Conformance checks: requirements that every method must meet, both the suite's own and those of users."""
