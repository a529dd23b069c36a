# The door of the benchmark:  snakemake --cores all  [--configfile config/paper.yaml]  [--config KEY=VALUE ...]
# Settings, rules, and what `all` means. The default profile is config/sketch.yaml.
# An installed package holds this file too: costeff workflow PROFILE ...
from snakemake.utils import min_version

min_version("9.0")


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/run.smk"
include: "workflow/rules/sweep.smk"
include: "workflow/rules/report.smk"


# What takes seconds runs where Snakemake runs: a cluster's queue is for the rest.
localrules:
    all,
    replay,
    sweep_ask,
    sweep_tell,
    sweep_finish,
    collect,
    report,
    complete,


rule all:
    default_target: True
    input:
        f"{ROOT}/complete",
        # What the report was made from is asked for by name: a page alone is not a finished run.
        [file for run in PLANNED for file in (*kept(run.key), model_of(run.key))],
        all_points,
        f"{ROOT}/all-points.parquet",
        f"{ROOT}/index.html",
        f"{ROOT}/latency.parquet",
        all_histories,
