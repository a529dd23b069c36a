"""The paper profile from end to end, without its hours:  python tests/rehearsal.py FOLDER

config/rehearsal.yaml is config/paper.yaml on a little generated text; the checkpoints are looked for where the paper
profile would, in a cache of the Hub that is made in FOLDER and holds small random ones (tests/hub.py). Two cores. Ends
with 1 where a run failed, or a table or figure is not there.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import hub
import pandas as pd

ROOT = Path(__file__).parents[1]
TABLES = ("main", "verdicts", "frontier", "quality", "paper", "per-exit", "thresholds")


def main() -> None:
    folder = Path(sys.argv[1]).absolute()
    began = time.monotonic()
    hub.fill(folder / "hub")
    where = {"HF_HUB_CACHE": str(folder / "hub"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    profile = str(ROOT / "config" / "rehearsal.yaml")
    for command in (["bench.cli", "fetch", profile], ["bench.cli", "check", profile]):
        subprocess.run([sys.executable, "-m", *command], env=os.environ | where, cwd=ROOT, check=True)
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "-s",
        str(ROOT / "Snakefile"),
        "--cores",
        "2",
        "--configfile",
        profile,
    ]
    command += ["--config", f"results={folder / 'results'}"]
    with (folder / "log").open("w") as log:
        done = subprocess.run(command, env=os.environ | where, cwd=ROOT, stdout=log, stderr=log)
    if done.returncode:
        sys.exit((folder / "log").read_text()[-6000:])
    results = folder / "results" / "rehearsal"
    points = pd.read_parquet(results / "all-points.parquet")
    lacking = [name for name in TABLES if not (results / "tables" / f"{name}.md").is_file()]
    lacking += [] if list((results / "figures").glob("*.png")) else ["figures"]
    lacking += [str(each) for each in points.loc[points["status"] != "ok", "method"]]
    if points.groupby("method")["exit"].max().max() != 12:
        lacking.append("an exit after each of 12 layers")
    if lacking:
        sys.exit(f"not there: {', '.join(lacking)}")
    runs = len(points[["task", "method", "variant", "seed"]].drop_duplicates())
    print(f"the paper profile, rehearsed: {runs} runs, every table, {time.monotonic() - began:.0f} s; {results}")


if __name__ == "__main__":
    main()
