"""Runs every measurement of the suite itself on this machine and writes what each printed to one page.

    python benchmarks/everything.py --config config/sketch.yaml [--glue /path/to/glue] [--out benchmarks/results.md]

Needs the finished runs of a profile with their models, and nothing else at work on the machine: some ten minutes.
"""

from __future__ import annotations

import argparse
import datetime
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from bench.runs.produce import code_version, hardware

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("config/sketch.yaml"))
    parser.add_argument("--glue", type=Path, help="a folder of real GLUE; without it the sketch's text is used")
    parser.add_argument("--out", type=Path, default=HERE / "results.md")
    given = parser.parse_args()
    data = ["--data", str(given.glue)] if given.glue else []
    work = {
        "Training throughput": ["throughput.py", *data],
        "Early exit on the clock": ["early_exit.py", "--config", str(given.config)],
        "Turns of the clock": ["clock.py", "--config", str(given.config)],
        "Thresholds": ["thresholds.py", "--config", str(given.config), "--splits", "2"],
    }
    if given.glue:
        work["Overlap of calibration and training text"] = ["overlap.py", str(given.glue)]
    machine = ", ".join(hardware(not torch.cuda.is_available()).values())
    page = [
        "# What this suite measured of itself",
        f"{machine}, {os.cpu_count()} cores, torch {torch.__version__}, code {code_version()}, "
        f"{datetime.date.today().isoformat()}. Written by `benchmarks/everything.py`.",
    ]
    for title, command in work.items():
        print(f"{title} ...", flush=True)
        began = time.monotonic()
        environment = os.environ | {"PYTHONPATH": f"{HERE.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        done = subprocess.run(
            [sys.executable, str(HERE / command[0]), *command[1:]], capture_output=True, text=True, env=environment
        )
        if done.returncode:
            sys.exit(f"{command[0]} failed:\n{done.stderr}")
        shown = [
            "benchmarks/" + command[0],
            *("GLUE" if given.glue and part == str(given.glue) else part for part in command[1:]),
        ]
        printed = done.stdout.strip()
        block = printed if printed.startswith("|") else f"```text\n{printed}\n```"
        page += [f"## {title}", f"`python {' '.join(shown)}` ({time.monotonic() - began:.0f} s)", block]
    given.out.write_text("\n\n".join(page) + "\n")
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
