# Merge the operating points of all runs, and make tables, figures and the results page.


rule collect:
    input:
        facts=[facts_of(run.key) for run in PLANNED],
        points=all_points,
        latency=f"{ROOT}/latency.parquet",
    output:
        f"{ROOT}/all-points.parquet",
    log:
        f"{ROOT}/logs/collect.log",
    benchmark:
        f"{ROOT}/benchmarks/collect.jsonl"
    threads: 1
    params:
        inputs=collect_inputs(SETTINGS),
        other_code=OTHER_CODE,
        config=EFFECTIVE,
    shell:
        "costeff collect --config {params.config:q} -- {output:q} > {log:q} 2>&1"


rule report:
    input:
        f"{ROOT}/all-points.parquet",
        all_trials,
    output:
        page=report(f"{ROOT}/index.html", caption="../report/page.rst", category="Page"),
        tables=directory(f"{ROOT}/tables"),
        figures=directory(f"{ROOT}/figures"),
    log:
        f"{ROOT}/logs/report.log",
    benchmark:
        f"{ROOT}/benchmarks/report.jsonl"
    threads: workflow.resource_settings.cores if LOCAL else 1
    params:
        inputs=report_inputs(SETTINGS),
        config=EFFECTIVE,
    shell:
        "costeff report --config {params.config:q} > {log:q} 2>&1"


rule complete:
    # Fail if any run has failed, after the report is written.
    input:
        f"{ROOT}/index.html",
        f"{ROOT}/all-points.parquet",
    output:
        touch(f"{ROOT}/complete"),
    log:
        f"{ROOT}/logs/complete.log",
    benchmark:
        f"{ROOT}/benchmarks/complete.jsonl"
    threads: 1
    params:
        config=EFFECTIVE,
    shell:
        "costeff failures --config {params.config:q} > {log:q} 2>&1"
