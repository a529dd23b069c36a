"""A contestant whose training can fail: options allow no learning rate at which a loss overflows for certain."""

from dataclasses import replace

from baselines.finetuned import Finetuned
from bench.training.loop import Plan


class Diverging(Finetuned):
    """Fine-tuning whose loss is not finite after a few steps at a learning rate of 1, the largest allowed."""

    def _plan(self, examples: int) -> Plan:
        plan = super()._plan(examples)
        return replace(plan, learning_rate=1e30) if plan.learning_rate == 1 else plan
