# Ratio studies: draw the trials of a generation, make their runs with the rule `run`, and record the results.


checkpoint sweep_ask:
    input:
        history_before,
    output:
        f"{ROOT}/sweeps/{{task}}/{{method}}/generation-{{generation}}.json",
    log:
        f"{ROOT}/logs/sweep/{{task}}/{{method}}/ask-{{generation}}.log",
    benchmark:
        f"{ROOT}/benchmarks/sweep/{{task}}/{{method}}/ask-{{generation}}.jsonl"
    threads: 1
    params:
        settings=study_settings,
        config=EFFECTIVE,
    shell:
        "costeff sweep ask {wildcards.task} {wildcards.method} --generation {wildcards.generation}"
        " --config {params.config:q} > {log:q} 2>&1"


rule sweep_tell:
    input:
        history_before,
        asked=f"{ROOT}/sweeps/{{task}}/{{method}}/generation-{{generation}}.json",
        runs=trial_runs,
    output:
        f"{ROOT}/sweeps/{{task}}/{{method}}/history-{{generation}}.parquet",
    log:
        f"{ROOT}/logs/sweep/{{task}}/{{method}}/tell-{{generation}}.log",
    benchmark:
        f"{ROOT}/benchmarks/sweep/{{task}}/{{method}}/tell-{{generation}}.jsonl"
    threads: 1
    params:
        version=ratios.VERSION,
        selection=SETTINGS.selection,
        config=EFFECTIVE,
    shell:
        "costeff sweep tell {wildcards.task} {wildcards.method} --generation {wildcards.generation}"
        " --config {params.config:q} > {log:q} 2>&1"


rule sweep_finish:
    input:
        last_history,
    output:
        f"{ROOT}/sweeps/{{task}}/{{method}}/trials.parquet",
    log:
        f"{ROOT}/logs/sweep/{{task}}/{{method}}/finish.log",
    benchmark:
        f"{ROOT}/benchmarks/sweep/{{task}}/{{method}}/finish.jsonl"
    threads: 1
    params:
        version=ratios.VERSION,
        config=EFFECTIVE,
    shell:
        "costeff sweep finish {wildcards.task} {wildcards.method} --config {params.config:q} > {log:q} 2>&1"
