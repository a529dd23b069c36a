# Run a benchmark:  snakemake --cores all  [--configfile config/paper.yaml]  [--config KEY=VALUE ...]
# The default profile is config/sketch.yaml. With an installed package:  costeff workflow PROFILE ...
from snakemake.utils import min_version

min_version("9.0")


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/run.smk"
include: "workflow/rules/sweep.smk"
include: "workflow/rules/report.smk"


# Rules that take seconds run on the machine of Snakemake, not in the queue of a cluster.
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
        # List the inputs of the report explicitly, so that missing ones are made again.
        [file for run in PLANNED for file in (*kept(run.key), *model_of(run.key))],
        all_points,
        f"{ROOT}/all-points.parquet",
        f"{ROOT}/index.html",
        f"{ROOT}/latency.parquet",
        all_histories,
