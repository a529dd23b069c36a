"""Exit policies as PyTorch operations, so that a graph contains the exit decision.

Statistics are computed in float64, as in `bench.exit_policies.policies`, and the tests check that both are equal.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench.exit_policies.policies import Agreement, Confidence, Divergence, Entropy, Patience, Policy, Similarity

CARRIED: dict[type[Policy], tuple[str, ...]] = {
    Entropy: (),
    Confidence: (),
    Patience: ("logits", "count"),
    Agreement: ("logits",),
    Similarity: ("logits",),
    Divergence: ("logits",),
}
"""What the statistic of a policy needs from the exit before: its logits [B, C], and the count [B] of agreements."""


LEAST = torch.finfo(torch.float32).tiny
"""Least argument of a logarithm. It is above 0 in float32 too, in which OpenVINO computes."""


def statistic(policy: Policy, logits: Tensor, before: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the statistic [B] of a policy at an exit, and what the next exit needs.

    Args:
        policy: One of the policies of `CARRIED`.
        logits: Logits [B, C] of this exit.
        before: The second part of the result at the exit before; empty at the first exit that the policy reads.
    """
    values, last = logits.double(), before.get("logits")
    if isinstance(policy, Entropy):
        logs = values.log_softmax(-1)
        return -(logs.exp() * logs).sum(-1), {}
    if isinstance(policy, Confidence):
        return values.softmax(-1).amax(-1), {}
    if isinstance(policy, Patience):
        count = torch.zeros_like(logits[:, 0], dtype=torch.int64)
        if last is not None:
            if logits.shape[1] == 1:
                agreed = (values - last.double())[:, 0].abs() < policy.tolerance
            else:
                agreed = logits.argmax(-1) == last.argmax(-1)
            count = torch.where(agreed, before["count"] + 1, 0)
        return count, {"logits": logits, "count": count}
    if last is None:
        return torch.full_like(values[:, 0], math.inf), {"logits": logits}
    if isinstance(policy, Agreement):
        return (values - last.double())[:, 0].abs(), {"logits": logits}
    now, then = values.softmax(-1), last.double().softmax(-1)
    middle = (now + then) / 2
    if isinstance(policy, Similarity):
        return -(middle * middle.clamp(min=LEAST).log()).sum(-1), {"logits": logits}
    return (_relative_entropy(now, middle) + _relative_entropy(then, middle)).sum(-1) / 2, {"logits": logits}


def decide(policy: Policy, statistic: Tensor, threshold: float) -> Tensor:
    """Return whether examples with this statistic [B] exit, bool [B]."""
    if isinstance(policy, Confidence):
        return statistic > threshold
    if isinstance(policy, Patience):
        return statistic >= threshold if threshold > 0 else torch.zeros_like(statistic, dtype=torch.bool)
    return statistic < threshold


def _relative_entropy(p: Tensor, q: Tensor) -> Tensor:
    """Return p log(p / q) elementwise, 0 where p is 0; q is at least p / 2."""
    return p * (p.clamp(min=LEAST) / q.clamp(min=LEAST)).log()
