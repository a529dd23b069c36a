"""Names of version 0.2 that models and results on disk may still have.

Readers translate through these tables; nothing is written under an old name.
"""

import re
from typing import Any

WEIGHTS = {r"(?<!\w)heads\.": "exit_heads."}
"""Pattern in the name of a weight -> its replacement. `Encoder.heads` is `Encoder.exit_heads`."""
FIELDS = {"knob": "threshold"}
"""Column of a points table, or field of an operating point, -> today's name."""


def weight_name(name: str) -> str:
    """Return today's name of a weight; names may have a prefix such as `members.0.`."""
    for old, new in WEIGHTS.items():
        name = re.sub(old, new, name)
    return name


def fields(values: dict[str, Any]) -> dict[str, Any]:
    """Return an operating point with today's field names."""
    return {FIELDS.get(name, name): value for name, value in values.items()}
