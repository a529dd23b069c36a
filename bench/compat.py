"""Names of version 0.2 that models and results on disk may still have.

Readers translate through these tables; nothing is written under an old name.
"""

import re

WEIGHTS = {r"(?<!\w)heads\.": "exit_heads."}
"""Pattern in the name of a weight -> its replacement. `Encoder.heads` is `Encoder.exit_heads`."""


def weight_name(name: str) -> str:
    """Return today's name of a weight; names may have a prefix such as `members.0.`."""
    for old, new in WEIGHTS.items():
        name = re.sub(old, new, name)
    return name
