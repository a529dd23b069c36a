"""Tune the learning rates of a profile under its training budget, with the same number of trials for every method.

    GLUE_DIR=/path/to/glue python benchmarks/tuning.py --cores 2

A trial multiplies every learning rate of a pipeline by one factor of `--factors`. A pipeline is a method with the
models that only it continues: COST-EFF and its assistant are one. The criterion is computed on the calibration part
alone, with a seed that no profile reports, and follows the main table: the best score among the exits of all variants
that are at least 1x, 2x, 4x and 8x cheaper than the teacher, averaged over these budgets and over the tasks. Every exit
is for all examples, so no exit policy and no threshold takes part. Students learn from the best trial of the teacher.
Finished trials are kept in results/<profile>-tuning/ and not trained again, so a second call can widen the grid.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from bench.analysis.budgets import TOLERANCE
from bench.analysis.points import evaluate
from bench.runs.plan import runs
from bench.settings import Settings, load
from bench.store import RunKey, read_json, run_folder
from bench.tasks.catalogue import TASKS
from bench.trace import Costs, Trace

SEED = 100
BUDGETS = (1.0, 2.0, 4.0, 8.0)
LEAST = 1 - TOLERANCE
"""Part of a budget that counts as meeting it."""
FACTORS = (0.5, 1.0, 2.0, 4.0)
STUDENTS = {
    "distilbert": "teacher",
    "assistant": "teacher",
    "tinybert": "teacher",
    "cascadebert": "big",
    "costeff": "teacher",
}
"""Contestant -> its option that names the teacher."""
PIPELINES = {
    "teacher": ["teacher"],
    "pabee": ["pabee"],
    "distilbert": ["distilbert"],
    "tinybert": ["tinybert"],
    "cascadebert": ["cascadebert"],
    "costeff": ["assistant", "costeff"],
}
"""Pipeline -> the contestants whose rates are multiplied together; the last one is scored."""
FOLLOWS = {
    "first-layers": "teacher",
    "teacher-long": "teacher",
    "assistant": "costeff",
    "search": "costeff",
    "cascadebert-1-layer": "cascadebert",
}
"""Contestants that take the factor of another pipeline."""
IS_RATE = {"learning_rate", "distil_rate", "hidden_rate", "representation_rate", "slenderise_rate"}


@dataclass(frozen=True)
class Try:
    """A pipeline of the profile with all its learning rates multiplied by a factor."""

    pipeline: str
    factor: float

    def name(self, contestant: str) -> str:
        """Return the name of a contestant of the pipeline in the tuning profile."""
        return f"{contestant}-x{self.factor:g}"

    def rates(self, options: Mapping[str, Any]) -> dict[str, float]:
        """Return the scaled learning rates of a recipe, rounded to two digits."""
        return {key: float(f"{options[key] * self.factor:.2g}") for key in options if key in IS_RATE}


def main() -> None:
    """Parse the command line and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("config/glue-laptop.yaml"))
    parser.add_argument("--tasks", nargs="+", default=["sst2", "stsb"], choices=list(TASKS))
    parser.add_argument("--steps", nargs="+", type=int, default=[300, 150], help="Training budget of each task.")
    parser.add_argument("--factors", nargs="+", type=float, default=FACTORS)
    parser.add_argument("--pipelines", nargs="+", default=list(PIPELINES), choices=list(PIPELINES))
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    budget = dict(zip(arguments.tasks, arguments.steps, strict=True))
    tuning = Tuning(load(arguments.config), arguments.config.resolve(), budget, arguments.cores)
    for pipelines in (["teacher"], [each for each in arguments.pipelines if each != "teacher"]):
        tuning.run([Try(name, factor) for name in pipelines for factor in arguments.factors])
        print("\n".join(tuning.log()), flush=True)
    print(yaml.safe_dump({"contestants": tuning.tuned()}, sort_keys=False))


class Tuning:
    """The trials so far, in one results folder under a profile that grows."""

    def __init__(self, settings: Settings, base: Path, budget: dict[str, int], cores: int) -> None:
        self.settings, self.base, self.budget, self.cores = settings, base, budget, cores
        self.profile = f"{settings.profile}-tuning"
        self.scores: dict[Try, dict[str, float]] = {}

    def run(self, tries: list[Try]) -> None:
        """Train new trials and read all scores."""
        tried = [*self.scores, *tries]
        file = self.settings.results / self.profile / "profile.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(self._profile(tried)), encoding="utf-8")
        command = ["costeff", "workflow", str(file), "--cores", str(self.cores), "--until", "run", "--quiet", "all"]
        subprocess.run(command, check=True)
        self.scores = self._scores(load(file), tried)

    def best(self, pipeline: str) -> Try:
        """Return the trial with the highest mean score."""
        return max((each for each in self.scores if each.pipeline == pipeline), key=self.mean)

    def mean(self, each: Try) -> float:
        """Return the mean score over tasks; a failed run gives less than any score."""
        return float(np.nan_to_num(np.mean([*self.scores[each].values()]), nan=-math.inf))

    def log(self) -> Iterator[str]:
        """Return a Markdown table with one row for each trial; the best of each pipeline is in bold."""
        yield "| pipeline | factor | rates | " + " | ".join(self.budget) + " | mean |"
        yield "| --- | --- | --- |" + " --- |" * (len(self.budget) + 1)
        for each, scores in self.scores.items():
            recipe = [self.settings.contestants[name].options for name in PIPELINES[each.pipeline]]
            rates = "; ".join(", ".join(f"{key} {rate:.2g}" for key, rate in each.rates(one).items()) for one in recipe)
            mean = f"{100 * self.mean(each):.1f}"
            mean = f"**{mean}**" if each == self.best(each.pipeline) else mean
            found = " | ".join(f"{100 * score:.1f}" for score in scores.values())
            yield f"| {each.pipeline} | {each.factor:g} | {rates} | {found} | {mean} |"

    def tuned(self) -> dict[str, dict[str, Any]]:
        """Return the learning rates of the best trials, by contestant."""
        tried, found = {each.pipeline for each in self.scores}, {}
        for name, entry in self.settings.contestants.items():
            if FOLLOWS.get(name, name) in tried:
                found[name] = {"options": self.best(FOLLOWS.get(name, name)).rates(entry.options)}
        return found

    def _profile(self, tries: list[Try]) -> dict[str, Any]:
        contestants: dict[str, Any] = dict.fromkeys(self.settings.contestants)  # null: taken out
        for each in tries:
            for name in PIPELINES[each.pipeline]:
                entry = self.settings.contestants[name]
                options = entry.options | each.rates(entry.options)
                if name in STUDENTS:
                    options |= {STUDENTS[name]: self.best("teacher").name("teacher")}
                if name == "costeff":
                    options |= {"assistant": each.name("assistant")}
                contestants[each.name(name)] = {"method": entry.method, "share": entry.share, "options": options}
        return {
            "extends": str(self.base),
            "profile": self.profile,
            "tasks": list(self.budget),
            "seeds": [SEED],
            "training": {"budget": {"tasks": self.budget}},
            "contestants": contestants,
            "reference": next(each.name("teacher") for each in tries if each.pipeline == "teacher"),
            "comparison": {"primary": {"contestant": None}},
            "depth_reference": None,
            "studies": [],
        }

    def _scores(self, settings: Settings, tried: list[Try]) -> dict[Try, dict[str, float]]:
        """Return the score of each trial on each task; NaN if a variant failed."""
        contestants = {each: each.name(PIPELINES[each.pipeline][-1]) for each in tried}
        found: dict[tuple[str, str], list[list[tuple[float, float]]]] = {}
        for planned in runs(settings):
            if (method := planned.key.method) in contestants.values():
                found.setdefault((method, planned.key.task), []).append(_exits(settings, planned.key))
        scores: dict[Try, dict[str, float]] = {each: {} for each in tried}
        for task in self.budget:
            teachers = [found[name, task] for each, name in contestants.items() if each.pipeline == "teacher"]
            whole = max((flops for variants in teachers for exits in variants for _, flops in exits), default=math.nan)
            for each, name in contestants.items():
                variants = found[name, task]
                scores[each][task] = at_budgets([*chain.from_iterable(variants)], whole) if all(variants) else math.nan
        return scores


def at_budgets(exits: Sequence[tuple[float, float]], whole: float) -> float:
    """Return the best score at each budget that some exit meets, averaged over these budgets; NaN without exits.

    Args:
        exits: Score and FLOPs of each exit.
        whole: FLOPs of the teacher.
    """
    best = [
        max((score for score, flops in exits if flops <= whole / (budget * LEAST)), default=math.nan)
        for budget in BUDGETS
    ]
    return float(np.nanmean(best)) if not np.isnan(best).all() else math.nan


def _exits(settings: Settings, key: RunKey) -> list[tuple[float, float]]:
    """Return calibration score and FLOPs of each exit of a run, for all examples; none if the run failed."""
    folder = run_folder(settings, key)
    if read_json(folder / "run.json")["status"] != "ok":
        return []
    trace, costs = Trace.load(folder / "trace-calibration.parquet"), Costs.load(folder / "costs.json")
    exits = np.arange(len(trace.logits))[:, None].repeat(len(trace.labels), axis=1)
    table = evaluate(exits, trace, costs, TASKS[key.task])
    return list(zip(table["score"], table["flops"], strict=True))


if __name__ == "__main__":
    main()
