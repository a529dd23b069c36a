# What the rules share: the settings, and functions from wildcards to files. No logic of the benchmark's own.
import sys
from pathlib import Path

import yaml
from snakemake.exceptions import WorkflowError

sys.path.insert(
    0, str(Path(workflow.basedir))
)  # a plain `snakemake` finds the packages, and contestants beside them

from bench.runs import plan
from bench import settings as settings_file
from bench.runs.checks import check_room
from bench.errors import UserError
from bench.runs.provenance import run_slice
from bench.store import RunKey, run_folder
from bench.context import wants_gpu
from bench.runs.produce import VERSION
from bench.runs import ratios

try:
    SETTINGS = settings_file.check(config, "settings")
    METHODS = plan.methods(SETTINGS)
    PLANNED = plan.runs(SETTINGS)
except UserError as error:
    raise WorkflowError(str(error))

ROOT = str(SETTINGS.root)
GPU = int(wants_gpu(SETTINGS))  # what a job asks for; the profile says how many there are
EFFECTIVE = f"{ROOT}/settings.yaml"  # what the jobs read: the profile with everything --config changed


wildcard_constraints:
    task="[a-z0-9]+",
    method="[A-Za-z0-9._-]+",
    variant="[A-Za-z0-9._-]+",
    seed=r"\d+",
    generation=r"\d+",


onstart:
    try:
        check_room(SETTINGS, PLANNED)
    except UserError as error:
        raise WorkflowError(str(error))
    Path(ROOT).mkdir(parents=True, exist_ok=True)
    Path(EFFECTIVE).write_text(yaml.safe_dump(SETTINGS.model_dump(mode="json"), sort_keys=False))


def key_of(wildcards):
    """The run that a job's wildcards name."""
    return RunKey(wildcards.task, wildcards.method, wildcards.variant, int(wildcards.seed))


def points_of(key):
    return str(run_folder(SETTINGS, key) / "points.parquet")


def needed_points(wildcards):
    """The runs that must be there before this one: its teacher, its assistant."""
    return [points_of(key) for key in plan.needs_of(METHODS, key_of(wildcards))]


def run_settings(wildcards):
    """The slice of the settings that a run depends on: a change of it, and of nothing else, reruns the run."""
    method = METHODS[wildcards.method, wildcards.task]
    return {"version": f"{VERSION}.{method.version}"} | run_slice(SETTINGS, wildcards.method, wildcards.task)


def all_latencies(wildcards):
    return f"{ROOT}/latency.parquet"


def all_timed(wildcards):
    """Latency is a property of the machine and the model's shape: the first seed of each task is timed."""
    return [points_of(run.key) for run in PLANNED if run.key.seed == SETTINGS.seeds_of(run.key.task)[0]]


def study_settings(wildcards):
    """What a study's trials depend on; more generations go on from the ones that are there."""
    study = ratios.study_of(SETTINGS, wildcards.task, wildcards.method)
    own = study.model_dump(mode="json", exclude={"tasks", "generations"})
    return {"study": own, "study_version": ratios.VERSION} | run_settings(wildcards)


def history(task, method, generation):
    return str(ratios.history_file(SETTINGS, task, method, generation))


def all_trials(wildcards):
    return [
        str(ratios.trials_file(SETTINGS, task, study.method))
        for study in SETTINGS.studies
        for task in study.tasks
    ]


def all_histories(wildcards):
    return [
        history(task, study.method, study.generations - 1)
        for study in SETTINGS.studies
        for task in study.tasks
    ]


def history_before(wildcards):
    generation = int(wildcards.generation)
    return [history(wildcards.task, wildcards.method, generation - 1)] if generation else []


def last_history(wildcards):
    study = ratios.study_of(SETTINGS, wildcards.task, wildcards.method)
    return history(wildcards.task, wildcards.method, study.generations - 1)


def trial_points(wildcards):
    """The runs of the trials that a generation asked for, known once it has."""
    checkpoints.sweep_ask.get(**wildcards)
    keys = ratios.trial_keys(SETTINGS, wildcards.task, wildcards.method, int(wildcards.generation))
    return [points_of(key) for key in keys]
