"""Rules for names, seeds and written numbers in settings, the workflow, data and results of others."""

import re

NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?"
"""Pattern of a valid name."""
LARGEST_SEED = 2**32 - 1
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
FINDINGS = "findings.txt"
"""Name of the file of a results folder that holds the findings, one on each line."""
PROGRESS = "COSTEFF_PROGRESS"
"""Environment variable with the file descriptor to which a workflow reports its progress."""

LOADED_FROM = "_name_or_path"
"""Key of transformers' configurations for the folder that a model was loaded from, a path of one machine."""


def valid_name(name: object) -> bool:
    """Return whether `name` can be the name of a task, contestant or variant.

    Names are folders, parts of workflow paths and table cells: 1 to 64 letters, digits, points, underscores and
    hyphens, beginning with a letter or digit and not ending with a point, nor with the same one to three characters
    20 times, which Snakemake takes for an endless recursion.
    """
    return isinstance(name, str) and bool(re.fullmatch(NAME, name)) and not re.search(r"(.+)\1{19}$", name)


def plain_number(text: str) -> bool:
    """Return whether `text` is a decimal number in ASCII digits, such as -1.5 or 1e-3.

    Python also reads 1_0, digits of other scripts, blanks and words such as `infinity` as numbers; these are none here.
    """
    return _NUMBER.fullmatch(text) is not None
