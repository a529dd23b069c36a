"""Make the runs that the conformance checks use, on first access."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from bench.context import load_model, task_data
from bench.encoder import Cascade, Encoder
from bench.encoder.backbones import tokenizer
from bench.exit_policies.policies import Policy
from bench.method import Method, contestant
from bench.runs.replay import points_of
from bench.runs.train_run import produce
from bench.settings import Settings
from bench.store import RunKey, read_json, run_folder
from bench.tasks.examples import Examples
from bench.trace import Trace


class Fault(Exception):
    """A requirement that a method does not meet; the message is the reason."""


@dataclass
class Runs:
    """A results folder that makes a run and its dependencies on first access.

    Attributes:
        settings: Settings of the benchmark.
        reasons: Reason of the failure of each run that was made; "" if it succeeded.
        data: Splits of each task that was read.
        reported: Maps a run that cannot be checked further, or a reason of a failure, to the title of the check that
            reported it.
    """

    settings: Settings
    reasons: dict[RunKey, str] = field(default_factory=dict)
    data: dict[str, dict[str, Examples]] = field(default_factory=dict)
    reported: dict[RunKey | str, str] = field(default_factory=dict)

    def __call__(self, key: RunKey) -> Path:
        """Return the folder of a run.

        Raises:
            Fault: If the run failed.
        """
        if key not in self.reasons:
            for needed in self.method(key).needed(key):
                self(needed)
            # A failed run is recorded too, so runs that depend on it fail with its reason.
            self.reasons[key] = produce(self.settings, key)
        if self.reasons[key]:
            raise Fault(f"training failed: {self.reasons[key]}")
        return run_folder(self.settings, key)

    def facts(self, key: RunKey) -> dict:
        """Return the content of run.json."""
        return read_json(self(key) / "run.json")

    def method(self, key: RunKey) -> Method:
        """Return the contestant of a run on its task."""
        return contestant(self.settings, key.method, key.task)

    def rule(self, key: RunKey) -> Policy:
        """Return the exit policy of a run."""
        return self.method(key).exit_policy()

    def model(self, key: RunKey) -> Encoder | Cascade:
        """Return the trained model of a run, on the CPU."""
        return load_model(self(key), torch.device("cpu"))

    def splits(self, task: str) -> dict[str, Examples]:
        """Return the tokenized splits of a task."""
        if task not in self.data:
            backbone = self.settings.backbone
            some = contestant(self.settings, self.settings.reference, task).task
            self.data[task] = task_data(self.settings, some, tokenizer(backbone.name, backbone.revision)).splits
        return self.data[task]

    def labelled(self, task: str) -> set[str]:
        """Return the names of the splits that have operating points."""
        return {split for split in self.splits(task) if split != "train" and not split.startswith("test")}

    def trace(self, key: RunKey) -> Trace:
        """Return the trace of the validation split."""
        return Trace.load(self(key) / "trace-validation.parquet")

    def points(self, key: RunKey) -> pd.DataFrame:
        """Return the operating points of a run."""
        self(key)
        table, _ = points_of(self.settings, key)
        return table

    def statistic(self, key: RunKey) -> NDArray[np.floating]:
        """Return the statistic of the exit policy on the validation trace, [exits, examples]."""
        trace = self.trace(key)
        return self.rule(key).statistic(trace.logits, trace.signal)

    def thresholds(self, key: RunKey) -> NDArray[np.float64]:
        """Return the uniform thresholds of the exit policy, loosest first."""
        exits, _, outputs = self.trace(key).logits.shape
        return self.rule(key).thresholds(self.settings.thresholds.grid, exits, outputs)
