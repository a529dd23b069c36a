# Shared by all rules: the settings, and functions that map wildcards to files.
import os
import sys
from pathlib import Path

import yaml
from filelock import FileLock, Timeout
from snakemake.exceptions import WorkflowError

# Jobs find the packages of a checkout from any working directory, and use the commands of the environment that runs
# Snakemake, even if it is not activated.
HOME = Path(workflow.basedir).resolve()
if not (HOME / "bench").is_dir() and (HOME.parent / "bench").is_dir():  # started from workflow/Snakefile
    HOME = HOME.parent
for variable, folder, there in (
    ("PYTHONPATH", HOME, (HOME / "bench").is_dir()),
    ("PATH", Path(sys.executable).parent, True),
):
    if there:
        os.environ[variable] = os.pathsep.join(filter(None, [str(folder), os.environ.get(variable)]))
if (HOME / "bench").is_dir():
    sys.path.insert(0, str(HOME))

from bench.names import PROGRESS
from bench.cli import heavy_imports
from bench.serve.client import start

PIPE = os.environ.pop(PROGRESS, None)  # to `costeff workflow`; jobs do not inherit it

# Whether jobs run on this machine; Snakemake's local_exec is always true while this file is read.
LOCAL = workflow.resource_settings.nodes is None
if workflow.is_main_process and LOCAL:
    start()  # a server for the jobs, which imports packages while the plan is made

with heavy_imports():
    from bench import settings as settings_file
    from bench.context import wants_gpu
    from bench.errors import UserError
    from bench.runs import plan, ratios, replay
    from bench.runs.collect import (
        collect_inputs,
        latency_inputs,
        latency_is_current,
        made_by_other_code,
        report_inputs,
    )
    from bench.runs.identity import Identities
    from bench.runs.planning.checks import check_room
    from bench.runs.planning.coming import coming
    from bench.runs.planning import progress
    from bench.runs.planning.memory import latency_mb, memory_mb
    from bench.names import NAME
    from bench.store import RunKey, log_file, points_file, run_folder, written_at_once
    from bench.training.lease import shares

try:
    # The settings are loaded by the suite; Snakemake only passes the profile and the changes to it.
    named = [*workflow.config_settings.configfiles] or ["sketch"]
    SETTINGS = settings_file.load_several(named, dict(workflow.config_settings.config))
    METHODS = plan.methods(SETTINGS)
    PLANNED = plan.runs(SETTINGS)
    IDENTITIES = Identities(SETTINGS)
    OTHER_CODE = made_by_other_code(SETTINGS)
    TIMES_ARE_CURRENT = latency_is_current(SETTINGS)
    if workflow.is_main_process:  # check all runs before the first job; a job only checks its own
        for run in PLANNED:
            IDENTITIES.of(run.key)
        print(*OTHER_CODE, sep="\n", end="\n" * len(OTHER_CODE), file=sys.stderr)
except UserError as error:
    raise WorkflowError(str(error))

ROOT = str(SETTINGS.root)
GPU = int(wants_gpu(SETTINGS))  # resource of a job: a GPU, or a share of one on this machine
if LOCAL and "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", shares(SETTINGS.training.gpu_share))
EFFECTIVE = f"{ROOT}/settings.yaml"  # read by the jobs: the profile with the changes of --config
LOCK = FileLock(f"{ROOT}/.workflow.lock")  # released when this process ends
SPLITS = sorted({SETTINGS.selection, "validation"})
RUN = f"{ROOT}/runs/{{task}}/{{method}}/{{variant}}/seed{{seed}}"


# Weights are an output only if all are kept; otherwise jobs delete and restore them (bench/runs/training/models.py).
MODEL = ["model/config.json", *["model/model.safetensors"] * SETTINGS.keep_models]


wildcard_constraints:
    task=NAME,
    method=NAME,
    variant=NAME,
    seed=r"\d+",
    generation=r"\d+",


onstart:
    try:
        to_come = coming(SETTINGS, IDENTITIES)
        check_room(SETTINGS, to_come)
        Path(ROOT).mkdir(parents=True, exist_ok=True)
        LOCK.acquire(timeout=0)
    except Timeout:
        raise WorkflowError(
            f"{ROOT} is locked by another workflow; wait for it, or name another folder as `results`"
        )
    except UserError as error:
        raise WorkflowError(str(error))
    with written_at_once(Path(EFFECTIVE)) as part:
        part.write_text(yaml.safe_dump(SETTINGS.model_dump(mode="json"), sort_keys=False))
    if PIPE:
        progress.report(SETTINGS, IDENTITIES, int(PIPE))
    if LOCAL:
        if len(to_come) and (
            SETTINGS.data.source == "sketch" or SETTINGS.data.max_train
        ):  # other data take long to read
            shell(
                "costeff forecast --cores {workflow.resource_settings.cores} -- {EFFECTIVE:q} >&2 || true"
            )
        if len(to_come):
            print(f"Progress:  costeff progress {EFFECTIVE}", file=sys.stderr)


onerror:
    shell("costeff wrap-up --config {EFFECTIVE:q} || true")


def facts_of(key):
    return str(run_folder(SETTINGS, key) / "run.json")


def key_of(wildcards):
    """Return the run of a job."""
    return RunKey(wildcards.task, wildcards.method, wildcards.variant, int(wildcards.seed))


def needed_runs(wildcards):
    """Return the models that a run depends on, such as its teacher."""
    return [file for key in plan.needs_of(METHODS, key_of(wildcards)) for file in model_of(key)]


def asked(wildcards):
    """Return the identity of a run; Snakemake repeats the run only if it changes."""
    return IDENTITIES.of(key_of(wildcards)).hash


def model_of(key):
    return [str(run_folder(SETTINGS, key) / name) for name in MODEL]


def kept(key):
    """Return the output files of a run except its model; a missing file repeats the run."""
    names = ["run.json", "costs.json", *(f"trace-{split}.parquet" for split in SPLITS)]
    return [str(run_folder(SETTINGS, key) / name) for name in names]


def replay_inputs(wildcards):
    """Return the settings that the replay of a task depends on."""
    return replay.inputs(SETTINGS, wildcards.task)


def task_runs(wildcards):
    """Return the output files of all runs of a task and seed."""
    return [
        file
        for run in PLANNED
        if run.key.task == wildcards.task and run.key.seed == int(wildcards.seed)
        for file in kept(run.key)
    ]


def points_path(task, seed):
    return str(points_file(SETTINGS, task, seed))


all_points = [points_path(task, seed) for task in SETTINGS.tasks for seed in SETTINGS.seeds_of(task)]

# Latency depends on the machine and the shape of the model, so only the first seed of each task is timed.
timed = {task: SETTINGS.seeds_of(task)[0] for task in SETTINGS.tasks}
timed_points = [points_path(task, seed) for task, seed in timed.items()]
timed_keys = [run.key for run in PLANNED if run.key.seed == timed[run.key.task]]
timed_shapes = [model_of(key)[0] for key in timed_keys]


def timed_runs(wildcards):
    """Return the identities of the timed runs; latency is measured again if one changes."""
    return [IDENTITIES.of(key).hash for key in timed_keys]


def memory(wildcards, attempt):
    """Return the memory of a run in megabytes; it grows with each attempt after an out-of-memory failure."""
    key = key_of(wildcards)
    return attempt * memory_mb(SETTINGS, key, IDENTITIES.text(key.task, key.seed))


def study_settings(wildcards):
    """Return the settings that the trials of a study depend on; the number of generations is not one of them."""
    study = ratios.study_of(SETTINGS, wildcards.task, wildcards.method)
    own = study.model_dump(mode="json", exclude={"tasks", "generations"})
    some = RunKey(wildcards.task, wildcards.method, "any", SETTINGS.seeds_of(wildcards.task)[0])
    return {"study": own, "study_version": ratios.VERSION, "asked": IDENTITIES.of(some).hash}


def history(task, method, generation):
    return str(ratios.history_file(SETTINGS, task, method, generation))


all_trials = [
    str(ratios.trials_file(SETTINGS, task, study.method))
    for study in SETTINGS.studies
    for task in study.tasks
]

all_histories = [
    history(task, study.method, study.generations - 1) for study in SETTINGS.studies for task in study.tasks
]


def history_before(wildcards):
    generation = int(wildcards.generation)
    return [history(wildcards.task, wildcards.method, generation - 1)] if generation else []


def last_history(wildcards):
    study = ratios.study_of(SETTINGS, wildcards.task, wildcards.method)
    return history(wildcards.task, wildcards.method, study.generations - 1)


def trial_runs(wildcards):
    """Return the output files of the trials of a generation, after the checkpoint `sweep_ask`."""
    checkpoints.sweep_ask.get(**wildcards)
    keys = ratios.trial_keys(SETTINGS, wildcards.task, wildcards.method, int(wildcards.generation))
    return [file for key in keys for file in kept(key)]
