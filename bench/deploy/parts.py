"""The parts of a model with an exit policy: the computation between two places where examples may exit.

A part reads and writes named tensors whose first dimension is the batch. The first part reads `input_ids`,
`attention_mask` and `token_type_ids` [B, n]. Every part gives `logits` [B, C]; every part but the last also gives
`leaves` [B], whether an example exits, and what the next part reads. A model that never exits early is one part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from bench.deploy import policies
from bench.encoder.cascade import Cascade
from bench.encoder.model import Encoder
from bench.errors import UserError
from bench.exit_policies.operating import policy_of, threshold_of
from bench.exit_policies.policies import FullDepth, Policy

TEXT = ("input_ids", "attention_mask", "token_type_ids")


class Part(nn.Module):
    """One part of a model.

    Args:
        model: The model, in eval mode.
        first: First exit that it computes, 0-based.
        last: Its last exit, at which examples may exit.
        policy: The exit policy; None: all examples exit here.
        threshold: Its threshold at the exit `last`.
    """

    def __init__(
        self, model: Encoder | Cascade, first: int, last: int, policy: Policy | None = None, threshold: float = 0.0
    ) -> None:
        super().__init__()
        self.model, self.first, self.last, self.policy, self.threshold = model, first, last, policy, threshold
        self.final = policy is None or last == model.exit_count - 1
        self.outputs: int = model.config.num_labels
        carried = () if policy is None else policies.CARRIED[type(policy)]
        whole = isinstance(model, Cascade)  # each member reads the text
        self.reads: tuple[str, ...] = TEXT if whole or not first else ("hidden", "attention_mask")
        if first and not self.final:
            self.reads += carried
        self.gives: tuple[str, ...] = ("logits",)
        if not self.final:
            self.gives += ("leaves", *(name for name in carried if name != "logits"), *(() if whole else ("hidden",)))

    @property
    def names(self) -> list[str]:
        """Names of the inputs of the graph: those of `reads`, and "last_" before what the part before gives."""
        return [name if name in TEXT else f"last_{name}" for name in self.reads]

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors named by `gives` for those named by `reads`."""
        given = dict(zip(self.reads, values, strict=True))
        if "hidden" in given:
            state = {"hidden": given["hidden"], "mask": given["attention_mask"]}
        else:
            state = self.model.begin(*(given[name] for name in TEXT))
        before: dict[str, Tensor] = {name: given[name] for name in ("logits", "count") if name in given}
        found: dict[str, Tensor] = {}
        for e in range(self.first, self.last + 1):
            state, said = self.model.advance(state, e)
            found["logits"] = said[:, : self.outputs]
            if self.policy is not None and not self.final and e >= self.policy.exit_start - 1:
                statistic, before = policies.statistic(self.policy, found["logits"], before)
                found |= before | {"leaves": policies.decide(self.policy, statistic, self.threshold)}
        return tuple((found | state)[name] for name in self.gives)


def parts_of(model: Encoder | Cascade, leaving: Mapping[str, Any]) -> list[Part]:
    """Return the parts of a model at an operating point, in order.

    Exits at which no example can exit do not begin a part of their own: a policy that starts at a later exit, or that
    compares an exit with the one before, begins with a longer part.

    Raises:
        UserError: The exit policy cannot be part of a graph.
    """
    last = model.exit_count - 1
    if leaving["kind"] in ("static", "fixed_exit"):
        return [Part(model, 0, int(leaving["exit"] or last + 1) - 1 if leaving["kind"] == "fixed_exit" else last)]
    policy, threshold = policy_of(leaving), threshold_of(leaving)
    if isinstance(policy, FullDepth):
        return [Part(model, 0, last)]
    if type(policy) not in policies.CARRIED:
        raise UserError(f"the exit policy {policy.name} has no graph; export with --format torch")
    ends = [*range(min(policy.earliest, last), last + 1)]
    starts = [0, *(end + 1 for end in ends[:-1])]
    at = [float(threshold)] * (last + 1) if isinstance(threshold, float) else threshold
    return [Part(model, start, end, policy, at[end]) for start, end in zip(starts, ends, strict=True)]
