# What the rules share: the settings, and functions from wildcards to files. No logic of the benchmark's own.
import os
import sys
from pathlib import Path

import yaml
from filelock import FileLock, Timeout
from snakemake.exceptions import WorkflowError

# A plain `snakemake` in a checkout finds the packages, and so do its jobs, from whichever folder it is started in;
# and the commands are those of the environment that runs Snakemake, activated or not, here and on a cluster's nodes.
HOME = Path(workflow.basedir).resolve()
for variable, folder, there in (
    ("PYTHONPATH", HOME, (HOME / "bench").is_dir()),
    ("PATH", Path(sys.executable).parent, True),
):
    if there:
        os.environ[variable] = os.pathsep.join(filter(None, [str(folder), os.environ.get(variable)]))
if (HOME / "bench").is_dir():
    sys.path.insert(0, str(HOME))

from bench.cli import heavy_imports
from bench.serve.client import start

# Jobs run on this machine, not in a cluster's queue: while this file is read, Snakemake's own local_exec is always true.
LOCAL = workflow.resource_settings.nodes is None
if workflow.is_main_process and LOCAL:
    start()  # a server of the jobs, which imports what they need while the plan is made

with heavy_imports():
    from bench import settings as settings_file
    from bench.context import wants_gpu
    from bench.errors import UserError
    from bench.runs import plan, ratios, replay
    from bench.runs.collect import made_by_other_code
    from bench.runs.identity import Identities
    from bench.runs.planning.checks import check_room
    from bench.runs.planning.coming import coming
    from bench.runs.planning.memory import latency_mb, memory_mb
    from bench.names import NAME
    from bench.store import RunKey, log_file, points_file, run_folder
    from bench.training.lease import shares

try:
    # One loader for all: Snakemake only hands over which profile, and what is to be changed in it.
    named = [*workflow.config_settings.configfiles] or ["sketch"]
    SETTINGS = settings_file.load_several(named, dict(workflow.config_settings.config))
    METHODS = plan.methods(SETTINGS)
    PLANNED = plan.runs(SETTINGS)
    IDENTITIES = Identities(SETTINGS)
    OTHER_CODE = made_by_other_code(SETTINGS)
    if workflow.is_main_process:  # all of them, before anything runs; a job on a node looks at its own
        for run in PLANNED:
            IDENTITIES.of(run.key)
        print(*OTHER_CODE, sep="\n", end="\n" * len(OTHER_CODE), file=sys.stderr)
except UserError as error:
    raise WorkflowError(str(error))

ROOT = str(SETTINGS.root)
GPU = int(wants_gpu(SETTINGS))  # what a job asks for: a GPU, or a share of one of this machine
if LOCAL and "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", shares(SETTINGS.training.gpu_share))
EFFECTIVE = f"{ROOT}/settings.yaml"  # what the jobs read: the profile with everything --config changed
LOCK = FileLock(f"{ROOT}/.workflow.lock")  # held by this process, gone with it
SPLITS = sorted({SETTINGS.selection, "validation"})
RUN = f"{ROOT}/runs/{{task}}/{{method}}/{{variant}}/seed{{seed}}"


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
            f"{ROOT} is being made by another workflow; wait for it, or name other `results`"
        )
    except UserError as error:
        raise WorkflowError(str(error))
    part = Path(f"{EFFECTIVE}.part")
    part.write_text(yaml.safe_dump(SETTINGS.model_dump(mode="json"), sort_keys=False))
    part.replace(EFFECTIVE)
    if LOCAL:
        if len(to_come) and (
            SETTINGS.data.source == "sketch" or SETTINGS.data.max_train
        ):  # other text takes long to read
            shell(
                "costeff forecast --cores {workflow.resource_settings.cores} -- {EFFECTIVE:q} >&2 || true"
            )
        if len(to_come):
            print(f"How far it is:  costeff progress {EFFECTIVE}", file=sys.stderr)


onerror:
    shell("costeff wrap-up --config {EFFECTIVE:q} || true")


def facts_of(key):
    return str(run_folder(SETTINGS, key) / "run.json")


def key_of(wildcards):
    """The run that a job's wildcards name."""
    return RunKey(wildcards.task, wildcards.method, wildcards.variant, int(wildcards.seed))


def needed_runs(wildcards):
    """The models that must be there before this run: its teacher's, its assistant's."""
    return [model_of(key) for key in plan.needs_of(METHODS, key_of(wildcards))]


def asked(wildcards):
    """What a run was asked, as a hash: a change of it, and of nothing else, reruns the run."""
    return IDENTITIES.of(key_of(wildcards)).hash


def model_of(key):
    return str(run_folder(SETTINGS, key) / "model")


def kept(key):
    """What a run leaves, apart from its model: what is asked for is made again where it is gone."""
    names = ["run.json", "costs.json", *(f"trace-{split}.parquet" for split in SPLITS)]
    return [str(run_folder(SETTINGS, key) / name) for name in names]


def exit_rules(wildcards):
    """The exit rule of each contestant on a task, with its version."""
    rules = {name: method.rule() for (name, task), method in METHODS.items() if task == wildcards.task}
    return {name: f"{rule.name} {rule.version}" for name, rule in rules.items()}


def task_runs(wildcards):
    """All runs of a task and seed."""
    return [
        file
        for run in PLANNED
        if run.key.task == wildcards.task and run.key.seed == int(wildcards.seed)
        for file in kept(run.key)
    ]


def points_path(task, seed):
    return str(points_file(SETTINGS, task, seed))


all_points = [points_path(task, seed) for task in SETTINGS.tasks for seed in SETTINGS.seeds_of(task)]

# Latency is a property of the machine and the model's shape: the first seed of each task is timed.
timed = {task: SETTINGS.seeds_of(task)[0] for task in SETTINGS.tasks}
timed_points = [points_path(task, seed) for task, seed in timed.items()]
timed_keys = [run.key for run in PLANNED if run.key.seed == timed[run.key.task]]
timed_models = [model_of(key) for key in timed_keys]


def timed_runs(wildcards):
    """What the timed runs were asked: other models are timed anew."""
    return [IDENTITIES.of(key).hash for key in timed_keys]


def memory(wildcards, attempt):
    """Megabytes for a run; where a cluster ended it for want of more, the next attempt asks for more."""
    key = key_of(wildcards)
    return attempt * memory_mb(SETTINGS, key, IDENTITIES.text(key.task, key.seed))


def study_settings(wildcards):
    """What a study's trials depend on; more generations go on from the ones that are there."""
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
    """The runs of the trials that a generation asked for, known once it has."""
    checkpoints.sweep_ask.get(**wildcards)
    keys = ratios.trial_keys(SETTINGS, wildcards.task, wildcards.method, int(wildcards.generation))
    return [file for key in keys for file in kept(key)]
