"""The benchmark on a real SLURM cluster of one machine:

    tests/slurm/node.sh FOLDER python tests/slurm/cluster.py FOLDER

Drives tests/slurm/cluster.yaml through profiles/slurm, in an environment that is not activated, from another folder. Of
five contestants one is ended at its time limit and must go on from its state, one for its memory and must get more, and
one dies on its node and must be a row. Exits with 1 and says what is not so.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[2]
FOLDER = Path(sys.argv[1])
RESULTS = FOLDER / "results" / "cluster"
QUEUE = "squeue --states=all --noheader --format=%i|%T|%M|%m|%h|%k"


def main() -> None:
    began = time.monotonic()
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile")]
    command += ["--workflow-profile", str(ROOT / "profiles" / "slurm")]
    command += [
        "--configfile",
        str(Path(__file__).with_name("cluster.yaml")),
        "--config",
        f"results={FOLDER / 'results'}",
    ]
    command += ["--default-resources", "slurm_partition=main"]
    command += [
        "--slurm-no-account",
        "--slurm-status-command",
        "squeue",
        "--slurm-init-seconds-before-status-checks",
        "2",
    ]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"PATH": os.defpath, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with (log := FOLDER / "snakemake.log").open("w") as file:
        workflow = subprocess.Popen(command, cwd=FOLDER, env=environment, stdout=file, stderr=subprocess.STDOUT)
        limit_time(workflow)
        code = workflow.wait()
    jobs = queue()
    for job in sorted(jobs, key=lambda job: int(job[0])):
        print(*job)
    points = pd.read_parquet(RESULTS / "all-points.parquet") if (RESULTS / "all-points.parquet").is_file() else None
    wrong = list(faults(code, jobs, points))
    for line in wrong:
        print(f"not so: {line}")
    if wrong:
        print(log.read_text()[-6000:])
    print(f"{len(jobs)} jobs on a cluster in {time.monotonic() - began:.0f} s")
    sys.exit(bool(wrong))


def queue() -> list[list[str]]:
    """Of each job its number, state, time, memory, whether it shares its node, and what it is for."""
    said = subprocess.run(QUEUE.split(), capture_output=True, text=True, check=True).stdout
    return [line.split("|") for line in said.splitlines()]


def limit_time(workflow: subprocess.Popen) -> None:
    """Gives the slow run the shortest limit there is, a minute, once it has left something to go on from."""
    while not list((RESULTS / "state").glob("sst2/slow/*/*/slow/*")):
        if workflow.poll() is not None:
            return
        time.sleep(0.5)
    (number,) = (job[0] for job in queue() if "_slow_" in job[-1] and job[1] == "RUNNING")
    subprocess.run(["scontrol", "update", f"JobId={number}", "TimeLimit=1"], check=True)


def faults(code: int, jobs: list[list[str]], points: pd.DataFrame | None):
    """What must be true and is not."""
    if code != 1:
        yield f"a run failed, so Snakemake ends with 1, not {code}"
    if points is None:
        yield "all-points.parquet is there"
        return
    failed = points[points["status"] == "failed"].set_index("method")["reason"].to_dict()
    if set(failed) != {"killed"} or "SIGKILL" not in failed["killed"]:
        yield f"the run that was killed on its node is the one failed row: {failed}"
    states = {state: [job for job in jobs if job[1] == state] for state in {job[1] for job in jobs}}
    names = {
        state: sorted(re.sub(r"^rule_|_wildcards_.*", "", job[5]) for job in found) for state, found in states.items()
    }
    if names.get("TIMEOUT") != ["run"]:
        yield f"one job ran out of time: {names}"
    log = (RESULTS / "logs/run/sst2/slow/full/seed0.log").read_text()
    step = re.search(r"slow: steps (\d+) to 48", log)
    print(*(line for line in log.splitlines() if "slow:" in line), sep="\n")
    if not step or int(step[1]) < 2:
        yield f"the run whose time ran out goes on from its state: {log}"
    ended = len(jobs) - len(states.get("COMPLETED", [])) - len(states.get("TIMEOUT", []))
    if ended != 1:
        yield f"one job was ended for its memory: {names}"
    asked = sorted(int(re.sub(r"\D", "", job[3])) for job in jobs if "greedy" in job[5])
    if len(asked) != 2 or asked[1] != 2 * asked[0]:
        yield f"and its second attempt asked for twice as much: {asked}"
    timed = points[(points["method"] == "teacher") & points["latency_32"].notna()]
    if timed.empty:
        yield "the clock was read"
    if [job[4] for job in jobs if "latency" in job[5]] != ["NO"]:
        yield "the clock was alone on its node (no oversubscription)"
    for file in ("index.html", "tables/main.md", "sweeps/sst2/search/trials.parquet"):
        if not (RESULTS / file).is_file():
            yield f"{file} is there"
    rules = {name for found in names.values() for name in found}
    if not rules <= {"run", "latency"}:
        yield f"jobs of seconds keep out of the queue: {rules}"


if __name__ == "__main__":
    main()
