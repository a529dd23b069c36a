"""Dry-run the workflow many times in one process: a JSON list of Snakemake's arguments a line, an answer a line.

The answer is a JSON object: `code`, the exit status, and `said`, what Snakemake printed. Importing Snakemake and the
suite takes seconds, a dry run after that a part of one.
"""

import contextlib
import io
import json
import os
import sys

from snakemake.cli import main


def dry_run(arguments: list[str]) -> dict[str, object]:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main(["--dry-run", *arguments])
            code = 0
        except SystemExit as end:
            code = end.code
    return {"code": code, "said": said.getvalue()}


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        answers.write(json.dumps(dry_run(json.loads(line))) + "\n")
        answers.flush()
