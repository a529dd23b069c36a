# The door of the benchmark:  snakemake --cores all  [--configfile config/paper.yaml]
# Settings, rules, and what `all` means. The default profile is config/sketch.yaml.
from snakemake.utils import min_version

min_version("9.0")

if (
    "profile" not in config
):  # a --configfile of one's own replaces the default instead of being merged into it

    configfile: "config/sketch.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/run.smk"
include: "workflow/rules/sweep.smk"
include: "workflow/rules/report.smk"


localrules:
    all,


rule all:
    default_target: True
    input:
        f"{ROOT}/index.html",
        f"{ROOT}/all-points.parquet",
        # What those were made from is asked for by name: a page alone, as in a fresh clone, is not a finished run.
        [points_of(run.key) for run in PLANNED],
        all_latencies,
        all_histories,
