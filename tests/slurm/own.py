"""Contestants that a cluster ends: for their time, for their memory, by a signal."""

import os
import signal
import time

import numpy as np

from baselines.finetuned import Finetuned, supervised
from bench.context import data_survey
from bench.runs.planning.memory import memory_mb
from bench.training.saving import saved


class Slow(Finetuned):
    """Takes two minutes more where it begins, and not where it goes on."""

    def train(self, context, variant):
        pause = 0 if saved(context.state / "slow") else 2.5

        def loss(model, batch, progress):
            time.sleep(pause)
            return supervised(model, batch, progress)

        model = context.backbone(self.options.head)
        return context.fit(model, loss, self._plan(len(context.train)), "slow")


class Greedy(Finetuned):
    """Needs 1.5 times the memory that a job requests at first."""

    def train(self, context, variant):
        asked = memory_mb(context.settings, context.key, data_survey(context.settings, context.task))
        held = np.ones(int(1.25 * asked) * 10**6, dtype=np.uint8)
        time.sleep(4)  # long enough to be seen
        del held
        return super().train(context, variant)


class Killed(Finetuned):
    """Is ended on its node, as the kernel does where memory runs out."""

    def train(self, context, variant):
        os.kill(os.getpid(), signal.SIGKILL)
