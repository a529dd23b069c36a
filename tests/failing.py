"""A contestant whose training fails: no valid learning rate diverges for certain."""

from dataclasses import replace

from baselines.finetuned import Finetuned
from bench.training.loop import Plan


class Diverging(Finetuned):
    """Fine-tuning with a learning rate at which the loss is not finite after a few steps."""

    def _plan(self, examples: int) -> Plan:
        return replace(super()._plan(examples), learning_rate=1e30)
