# From the runs to what a person reads: one tidy table, then tables, figures and the results page.


rule collect:
    input:
        points=[points_of(run.key) for run in PLANNED],
        latencies=all_latencies,
    output:
        f"{ROOT}/all-points.parquet",
    log:
        f"{ROOT}/logs/collect.log",
    benchmark:
        f"{ROOT}/benchmarks/collect.jsonl"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        config=EFFECTIVE,
    shell:
        "costeff collect {output} --config {params.config} > {log} 2>&1"


rule report:
    input:
        f"{ROOT}/all-points.parquet",
        all_trials,
    output:
        page=report(f"{ROOT}/index.html", caption="../report/page.rst", category="Page"),
        tables=report(
            directory(f"{ROOT}/tables"),
            patterns=["{name}.csv"],
            caption="../report/tables.rst",
            category="Tables",
        ),
        figures=report(
            directory(f"{ROOT}/figures"),
            patterns=["{name}.png"],
            caption="../report/figures.rst",
            category="Figures",
        ),
    log:
        f"{ROOT}/logs/report.log",
    benchmark:
        f"{ROOT}/benchmarks/report.jsonl"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        config=EFFECTIVE,
    shell:
        "costeff report --config {params.config} > {log} 2>&1"
