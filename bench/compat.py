"""Names of version 0.2 in models and results on disk, with their replacements.

Readers translate names with these tables. Old names are never written.
"""

import re
from typing import Any

WEIGHTS = {r"(?<!\w)heads\.": "exit_heads."}
"""Pattern in the name of a weight -> its replacement: `Encoder.heads` is now `Encoder.exit_heads`."""
FIELDS = {"knob": "threshold", "left": "exits_taken"}
"""Old name of a column of a points table, or of a field of an operating point -> current name."""


def weight_name(name: str) -> str:
    """Return the current name of a weight. Names may have a prefix such as `members.0.`."""
    for old, new in WEIGHTS.items():
        name = re.sub(old, new, name)
    return name


def fields(values: dict[str, Any]) -> dict[str, Any]:
    """Return an operating point with the current field names."""
    return {FIELDS.get(name, name): value for name, value in values.items()}
