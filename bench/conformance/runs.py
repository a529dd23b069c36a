"""Runs for the checks: each is made when it is first asked for, with the runs that it needs."""

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
from bench.runs.produce import produce
from bench.runs.replay import points_of
from bench.settings import Settings
from bench.store import RunKey, read_json, run_folder
from bench.tasks.examples import Examples
from bench.trace import Trace


class Fault(Exception):
    """A check that did not hold, and why."""


@dataclass
class Runs:
    """A results folder that makes a run, and the runs it needs, when first asked for it."""

    settings: Settings
    reasons: dict[RunKey, str] = field(default_factory=dict)
    """Of each run that was made: why it failed, or ""."""
    data: dict[str, dict[str, Examples]] = field(default_factory=dict)
    reported: dict[RunKey | str, str] = field(default_factory=dict)
    """A run that cannot be checked further, or a reason for a failure -> the title of the check that reported it."""

    def __call__(self, key: RunKey) -> Path:
        """The folder of a run. Raises Fault where it failed."""
        if key not in self.reasons:
            for needed in self.method(key).needed(key):
                self(needed)
            # A failure is recorded as a run too, and found again where another contestant needs it.
            self.reasons[key] = produce(self.settings, key)
        if self.reasons[key]:
            raise Fault(f"training failed: {self.reasons[key]}")
        return run_folder(self.settings, key)

    def facts(self, key: RunKey) -> dict:
        return read_json(self(key) / "run.json")

    def method(self, key: RunKey) -> Method:
        return contestant(self.settings, key.method, key.task)

    def rule(self, key: RunKey) -> Policy:
        return self.method(key).rule()

    def model(self, key: RunKey) -> Encoder | Cascade:
        return load_model(self(key), torch.device("cpu"))

    def splits(self, task: str) -> dict[str, Examples]:
        if task not in self.data:
            backbone = self.settings.backbone
            some = contestant(self.settings, self.settings.reference, task).task
            self.data[task] = task_data(self.settings, some, tokenizer(backbone.name, backbone.revision)).splits
        return self.data[task]

    def labelled(self, task: str) -> set[str]:
        """The splits that points are made of."""
        return {split for split in self.splits(task) if split != "train" and not split.startswith("test")}

    def trace(self, key: RunKey) -> Trace:
        return Trace.load(self(key) / "trace-validation.parquet")

    def points(self, key: RunKey) -> pd.DataFrame:
        self(key)
        table, _ = points_of(self.settings, key)
        return table

    def statistic(self, key: RunKey) -> NDArray[np.floating]:
        """[E, N] the exit rule's statistic on the validation trace."""
        trace = self.trace(key)
        return self.rule(key).statistic(trace.logits, trace.signal)

    def thresholds(self, key: RunKey) -> NDArray[np.float64]:
        """The uniform thresholds of the rule, loosest first."""
        exits, _, outputs = self.trace(key).logits.shape
        return self.rule(key).thresholds(self.settings.thresholds.grid, exits, outputs)
