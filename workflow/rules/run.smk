# Train and trace runs, replay their traces for each task and seed, and measure latency.


rule run:
    input:
        needed_runs,
    output:
        model=[f"{RUN}/{file}" for file in MODEL],
        traces=[f"{RUN}/trace-{split}.parquet" for split in SPLITS],
        costs=f"{RUN}/costs.json",
        facts=f"{RUN}/run.json",
    log:
        f"{ROOT}/logs/run/{{task}}/{{method}}/{{variant}}/seed{{seed}}.log",
    benchmark:
        f"{ROOT}/benchmarks/run/{{task}}/{{method}}/{{variant}}/seed{{seed}}.jsonl"
    threads: SETTINGS.training.threads
    resources:
        gpu=GPU,
        mem_mb=memory,
        runtime=720,  # minutes; a longer run resumes in the next attempt
    params:
        asked=asked,
        config=EFFECTIVE,
    shell:
        "costeff run {wildcards.task} {wildcards.method} {wildcards.variant}"
        " --seed {wildcards.seed} --as-job --config {params.config:q} > {log:q} 2>&1"


rule replay:
    input:
        task_runs,
    output:
        f"{ROOT}/points/{{task}}/seed{{seed}}.parquet",
        f"{ROOT}/points/{{task}}/seed{{seed}}-threshold-trials.parquet",
    log:
        f"{ROOT}/logs/replay/{{task}}/seed{{seed}}.log",
    benchmark:
        f"{ROOT}/benchmarks/replay/{{task}}/seed{{seed}}.jsonl"
    threads: 1
    params:
        inputs=replay_inputs,
        config=EFFECTIVE,
    shell:
        "costeff replay {wildcards.task} --seed {wildcards.seed} --config {params.config:q} > {log:q} 2>&1"


rule latency:
    # The job takes all cores, or a whole node of a cluster, so that no other job disturbs the measurement. New thresholds
    # of the same models do not repeat it.
    input:
        timed_shapes,
        # Snakemake does not compare the params of a job whose inputs are ancient and about to be made again.
        ancient(timed_points) if TIMES_ARE_CURRENT else timed_points,
    output:
        f"{ROOT}/latency.parquet",
    log:
        f"{ROOT}/logs/latency.log",
    benchmark:
        f"{ROOT}/benchmarks/latency.jsonl"
    threads: workflow.resource_settings.cores if LOCAL else SETTINGS.training.threads
    resources:
        gpu=GPU,
        mem_mb=latency_mb(SETTINGS, timed_keys),
        runtime=240,
        slurm_extra="--exclusive",
    params:
        inputs=latency_inputs(SETTINGS),
        asked=timed_runs,
        config=EFFECTIVE,
    shell:
        "costeff latency --config {params.config:q} -- {output:q} > {log:q} 2>&1"
