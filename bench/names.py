"""The one rule for names and seeds, for settings, the workflow, and results of others."""

import re

NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?"
"""Pattern of a valid name."""
LARGEST_SEED = 2**32 - 1
FINDINGS = "findings.txt"
"""Name of the file of a results folder that holds the findings, a line each."""
PROGRESS = "COSTEFF_PROGRESS"
"""Environment variable with the file descriptor to which a workflow reports its progress."""


def valid_name(name: object) -> bool:
    """Return whether `name` can be the name of a task, contestant or variant.

    Names are folders, parts of workflow paths and table cells: 1 to 64 letters, digits, points, underscores and
    hyphens, beginning with a letter or digit and not ending with a point, nor with the same one to three characters
    20 times, which Snakemake takes for an endless recursion.
    """
    return isinstance(name, str) and bool(re.fullmatch(NAME, name)) and not re.search(r"(.+)\1{19}$", name)
