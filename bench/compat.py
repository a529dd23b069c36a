"""Names of version 0.2 in models and results on disk, with their replacements.

Readers translate names with these tables. Old names are never written.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

WEIGHTS = {r"(?<!\w)heads\.": "exit_heads."}
"""Pattern in the name of a weight -> its replacement: `Encoder.heads` is now `Encoder.exit_heads`."""
FIELDS = {"knob": "threshold", "left": "exits_taken"}
"""Old name of a column of a points table, or of a field of an operating point -> current name."""
LABELS = {
    r"^cut at depth (\d+)$": r"first k layers: \1",
    r"^finetuned-long$": "teacher, long training",
    r"^COST-EFF's assistant": "COST-EFF assistant (full width)",
    r", squat$": ", fewer layers, same parameters",
    r"^COST-EFF (\d+)x(?! model)": r"COST-EFF \1x model",
}
"""Pattern in the label of a model -> its replacement."""


def weight_name(name: str) -> str:
    """Return the current name of a weight. Names may have a prefix such as `members.0.`."""
    for old, new in WEIGHTS.items():
        name = re.sub(old, new, name)
    return name


def fields(values: dict[str, Any]) -> dict[str, Any]:
    """Return an operating point with the current field names."""
    return {FIELDS.get(name, name): value for name, value in values.items()}


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a table of points or latencies with the current column names and labels."""
    rows = rows.rename(columns=FIELDS)
    return rows.assign(label=rows["label"].replace(LABELS, regex=True)) if "label" in rows else rows
