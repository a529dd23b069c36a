# One job trains, traces and measures one (task, method, variant, seed): imports cost seconds, so they are paid once.


rule run:
    input:
        needed_points,
    output:
        points=f"{ROOT}/runs/{{task}}/{{method}}/{{variant}}/seed{{seed}}/points.parquet",
        facts=f"{ROOT}/runs/{{task}}/{{method}}/{{variant}}/seed{{seed}}/run.json",
    log:
        f"{ROOT}/logs/run/{{task}}/{{method}}/{{variant}}/seed{{seed}}.log",
    benchmark:
        f"{ROOT}/benchmarks/run/{{task}}/{{method}}/{{variant}}/seed{{seed}}.jsonl"
    conda:
        "../../environment.yml"
    threads: SETTINGS.training.threads
    resources:
        gpu=GPU,
        mem_mb=4000,
    params:
        settings=run_settings,
        config=EFFECTIVE,
    shell:
        "costeff run {wildcards.task} {wildcards.method} {wildcards.variant}"
        " --seed {wildcards.seed} --config {params.config} > {log} 2>&1"


rule latency:
    # One process for all tasks, and all cores, so that nothing else runs beside a clock.
    input:
        all_timed,
    output:
        f"{ROOT}/latency.parquet",
    log:
        f"{ROOT}/logs/latency.log",
    benchmark:
        f"{ROOT}/benchmarks/latency.jsonl"
    conda:
        "../../environment.yml"
    threads: workflow.resource_settings.cores or 1
    resources:
        gpu=GPU,
        mem_mb=4000,
    params:
        settings=SETTINGS.latency.model_dump(mode="json"),
        config=EFFECTIVE,
    shell:
        "costeff latency {output} --config {params.config} > {log} 2>&1"
