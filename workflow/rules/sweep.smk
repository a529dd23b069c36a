# The studies over pruning ratios: each generation's trials are asked for, run by the rule `run`, and told.
from bench.sweeping import ratios

STUDIES = [
    f"{ROOT}/sweeps/{task}/{study.method}/trials.parquet"
    for study in SETTINGS.studies
    for task in study.tasks
]


wildcard_constraints:
    generation=r"\d+",


def study_settings(wildcards):
    """What a study's trials depend on; more generations go on from the ones that are there."""
    study = ratios.study_of(SETTINGS, wildcards.task, wildcards.method)
    own = study.model_dump(mode="json", exclude={"tasks", "generations"})
    return {"study": own, "study_version": ratios.VERSION} | run_settings(wildcards)


def history(wildcards, generation):
    return f"{ROOT}/sweeps/{wildcards.task}/{wildcards.method}/history-{generation}.parquet"


def history_before(wildcards):
    generation = int(wildcards.generation)
    return [history(wildcards, generation - 1)] if generation else []


def last_history(wildcards):
    study = ratios.study_of(SETTINGS, wildcards.task, wildcards.method)
    return history(wildcards, study.generations - 1)


def trial_points(wildcards):
    """The runs of the trials that a generation asked for, known once it has."""
    checkpoints.sweep_ask.get(**wildcards)
    keys = ratios.trial_keys(SETTINGS, wildcards.task, wildcards.method, int(wildcards.generation))
    return [points_of(key) for key in keys]


checkpoint sweep_ask:
    input:
        history_before,
    output:
        f"{ROOT}/sweeps/{{task}}/{{method}}/generation-{{generation}}.json",
    log:
        f"{ROOT}/logs/sweep/{{task}}/{{method}}/ask-{{generation}}.log",
    benchmark:
        f"{ROOT}/benchmarks/sweep/{{task}}/{{method}}/ask-{{generation}}.jsonl"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        settings=study_settings,
        config=EFFECTIVE,
    shell:
        "costeff sweep ask {wildcards.task} {wildcards.method} --generation {wildcards.generation}"
        " --config {params.config} > {log} 2>&1"


rule sweep_tell:
    input:
        history_before,
        asked=f"{ROOT}/sweeps/{{task}}/{{method}}/generation-{{generation}}.json",
        points=trial_points,
    output:
        f"{ROOT}/sweeps/{{task}}/{{method}}/history-{{generation}}.parquet",
    log:
        f"{ROOT}/logs/sweep/{{task}}/{{method}}/tell-{{generation}}.log",
    benchmark:
        f"{ROOT}/benchmarks/sweep/{{task}}/{{method}}/tell-{{generation}}.jsonl"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        version=ratios.VERSION,
        selection=SETTINGS.selection,
        config=EFFECTIVE,
    shell:
        "costeff sweep tell {wildcards.task} {wildcards.method} --generation {wildcards.generation}"
        " --config {params.config} > {log} 2>&1"


rule sweep_finish:
    input:
        last_history,
    output:
        f"{ROOT}/sweeps/{{task}}/{{method}}/trials.parquet",
    log:
        f"{ROOT}/logs/sweep/{{task}}/{{method}}/finish.log",
    benchmark:
        f"{ROOT}/benchmarks/sweep/{{task}}/{{method}}/finish.jsonl"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        version=ratios.VERSION,
        config=EFFECTIVE,
    shell:
        "costeff sweep finish {wildcards.task} {wildcards.method} --config {params.config} > {log} 2>&1"
