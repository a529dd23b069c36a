"""Which methods of a profile are its references, and which its ablations."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd


@dataclass(frozen=True)
class Roles:
    """Which methods are not just contestants."""

    reference: str = "teacher"
    """The teacher: its full depth is speed-up 1."""
    depth_reference: str | None = "cut"
    """The teacher cut at a depth and fine-tuned."""
    ablations: Mapping[str, str] = field(default_factory=dict)
    """Ablation -> the full method it is taken from."""

    def contestants(self, points: pd.DataFrame) -> pd.DataFrame:
        """The rows of everything but ablations, which have a figure of their own."""
        return points[~points["method"].isin(list(self.ablations))]
