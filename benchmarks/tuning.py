"""Tune learning rates and epochs of a profile, with the same number of trials for every method; print the result.

    GLUE_DIR=/path/to/glue python benchmarks/tuning.py --cores 2

A try multiplies every learning rate of a recipe by one of RATES and every count of epochs by one of EPOCHS: a full grid
for each. What counts is the calibration part alone, with a seed that no profile reports: the mean over the tasks, over
a recipe's variants, and over the exits of each, so that no exit rule and no threshold takes part. Students learn from
the best try of their teacher. Cuts and the longer control take the teacher's recipe, the smaller cascade the larger
one's, the ratio study COST-EFF's. What has been tried is kept in results/<name>/ and not trained again.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from bench.analysis.points import evaluate
from bench.runs.plan import runs
from bench.settings import Settings, load
from bench.store import RunKey, read_json, run_folder
from bench.tasks.catalogue import TASKS
from bench.trace import Costs, Trace

SEED = 100
RATES = (0.5, 1.0, 2.0)
EPOCHS = (0.67, 1.0)
TEACHERS: dict[str, dict[str, str]] = {
    "teacher": {},
    "pabee": {},
    "distilbert": {},
    "assistant": {"teacher": "teacher"},
    "tinybert": {"teacher": "teacher"},
    "cascadebert": {"big": "teacher"},
    "costeff": {"teacher": "teacher", "assistant": "assistant"},
}
"""Contestant -> option -> the contestant that it names, in an order in which each comes after its teachers."""
FOLLOWS = {"cut": "teacher", "finetuned-long": "teacher", "cascadebert-1-layer": "cascadebert", "search": "costeff"}
"""Contestants that take another one's factors."""
LEVELS = (("teacher", "pabee", "distilbert"), ("assistant", "tinybert", "cascadebert"), ("costeff",))
IS_RATE = {"learning_rate", "distil_rate", "hidden_rate", "representation_rate", "slenderise_rate"}
IS_EPOCHS = {"epochs", "distil_epochs", "hidden_epochs", "representation_epochs", "fold_epochs", "rate"}
"""COST-EFF's `rate` is the epochs of a slenderising period."""


@dataclass(frozen=True)
class Try:
    """A recipe of the profile with all its learning rates and epochs multiplied by factors."""

    contestant: str
    rates: float
    epochs: float

    @property
    def name(self) -> str:
        """Name of the contestant in the tuning profile."""
        return f"{self.contestant}-{self.rates:g}-{self.epochs:g}"

    def changed(self, options: Mapping[str, Any]) -> dict[str, float]:
        """Return the scaled learning rates and epochs of a recipe, rounded to two digits."""
        factors = dict.fromkeys(IS_RATE, self.rates) | dict.fromkeys(IS_EPOCHS, self.epochs)
        return {key: float(f"{options[key] * factors[key]:.2g}") for key in options if key in factors}


def main() -> None:
    """Parse the command line and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("config/glue-laptop.yaml"))
    parser.add_argument("--tasks", nargs="+", default=["mnli", "stsb"], choices=list(TASKS))
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    tuning = Tuning(load(arguments.config), arguments.config.resolve(), arguments.tasks, arguments.cores)
    for contestants in LEVELS:
        tuning.run([Try(name, rates, epochs) for name in contestants for rates in RATES for epochs in EPOCHS])
    print("\n".join(tuning.log()))
    print(yaml.safe_dump({"contestants": tuning.tuned()}, sort_keys=False))


class Tuning:
    """The trials so far, in one results folder under a profile that grows."""

    def __init__(self, settings: Settings, base: Path, tasks: list[str], cores: int) -> None:
        self.settings, self.base, self.tasks, self.cores = settings, base, tasks, cores
        self.profile = f"{settings.profile}-tuning"
        self.scores: dict[Try, dict[str, float]] = {}

    def run(self, tries: list[Try]) -> None:
        """Train new trials and read all scores."""
        tried = [*self.scores, *tries]
        file = self.settings.results / self.profile / "profile.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(self._profile(tried)), encoding="utf-8")
        self.train(file)
        self.scores = {each: self._scores(load(file), each) for each in tried}

    def train(self, file: Path) -> None:
        """Make the missing runs of a profile."""
        subprocess.run(
            ["costeff", "workflow", str(file), "--cores", str(self.cores), "--until", "run", "--quiet", "all"],
            check=True,
        )

    def best(self, contestant: str) -> Try:
        """Return the try with the highest mean score."""
        return max((each for each in self.scores if each.contestant == contestant), key=self.mean)

    def mean(self, each: Try) -> float:
        """Return the mean score over tasks; a failed run gives less than any score."""
        return float(np.nan_to_num(np.mean([*self.scores[each].values()]), nan=-math.inf))

    def log(self) -> Iterator[str]:
        """Return a Markdown table with one row for each trial; the best of each recipe is in bold."""
        yield "| recipe | rates | epochs | " + " | ".join(self.tasks) + " | mean |"
        yield "| --- | --- | --- |" + " --- |" * (len(self.tasks) + 1)
        for each, scores in self.scores.items():
            options = self._options(each)
            rates = ", ".join(f"{key} {options[key]:.2g}" for key in options if key in IS_RATE)
            epochs = ", ".join(f"{key} {options[key]:.2g}" for key in options if key in IS_EPOCHS)
            mean = f"{100 * self.mean(each):.1f}"
            mean = f"**{mean}**" if each == self.best(each.contestant) else mean
            found = " | ".join(f"{100 * score:.1f}" for score in scores.values())
            yield f"| {each.contestant} | {rates} | {epochs} | {found} | {mean} |"

    def tuned(self) -> dict[str, dict[str, Any]]:
        """Return the options that the best trial changes, by contestant."""
        found: dict[str, dict[str, Any]] = {}
        for name, entry in self.settings.contestants.items():
            best = self.best(FOLLOWS.get(name, name))
            found[name] = {"options": best.changed(entry.options)}
        return found

    def _profile(self, tries: list[Try]) -> dict[str, Any]:
        contestants: dict[str, Any] = dict.fromkeys(self.settings.contestants)  # null: taken out
        for each in tries:
            method = self.settings.contestants[each.contestant].method
            contestants[each.name] = {"method": method, "options": self._options(each)}
        return {
            "extends": str(self.base),
            "profile": self.profile,
            "tasks": self.tasks,
            "seeds": [SEED],
            "contestants": contestants,
            "reference": next(each.name for each in tries if each.contestant == "teacher"),
            "depth_reference": None,
            "studies": [],
        }

    def _options(self, each: Try) -> dict[str, Any]:
        options = self.settings.contestants[each.contestant].options
        teachers = {key: self.best(name).name for key, name in TEACHERS[each.contestant].items()}
        return options | each.changed(options) | teachers

    def _scores(self, settings: Settings, each: Try) -> dict[str, float]:
        found: dict[str, list[float]] = {task: [] for task in self.tasks}
        for planned in runs(settings):
            if planned.key.method == each.name:
                found[planned.key.task].append(_mean_of_exits(settings, planned.key))
        return {task: float(np.mean(scores)) for task, scores in found.items()}


def _mean_of_exits(settings: Settings, key: RunKey) -> float:
    """Return the mean calibration score of a run over its exits; NaN if it failed."""
    folder = run_folder(settings, key)
    if read_json(folder / "run.json")["status"] != "ok":
        return math.nan
    trace, costs = Trace.load(folder / "trace-calibration.parquet"), Costs.load(folder / "costs.json")
    exits = np.arange(len(trace.logits))[:, None].repeat(len(trace.labels), axis=1)
    return float(evaluate(exits, trace, costs, TASKS[key.task])["score"].mean())


if __name__ == "__main__":
    main()
