"""Roles of the methods of a profile: references and ablations."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd


@dataclass(frozen=True)
class Roles:
    """Methods with a special role in a profile.

    Attributes:
        reference: The method whose cost at full depth counts as 1x, by default the teacher.
        depth_reference: The contestant of first k layers, or None.
        ablations: Map from each ablation to the full method that it modifies.
        likes: Map from each contestant that is another one with some changes, such as a smaller training budget, to
            that one (`like` in the profile).
    """

    reference: str = "teacher"
    depth_reference: str | None = "first-layers"
    ablations: Mapping[str, str] = field(default_factory=dict)
    likes: Mapping[str, str] = field(default_factory=dict)

    def contestants(self, points: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of all methods that are not ablations."""
        return points[~points["method"].isin(list(self.ablations))]
