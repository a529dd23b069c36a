"""The `costeff` command line: everyday commands, and the stages that the workflow runs."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import typer

from bench.cli import everyday, machine, results, stages  # noqa: F401  (they add their commands to the application)
from bench.cli.arguments import app
from bench.cli.process import heavy_imports, keep_memory
from bench.errors import UserError, is_disk_full

__all__ = ["app", "heavy_imports", "keep_memory", "main"]


def main() -> None:
    """Run the command line. An error that the user can correct is printed in one line, with exit code 2."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    for chatty in ("httpx", "fontTools"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    keep_memory()
    sys.path.insert(0, str(Path.cwd()))  # the user's method may be a module in this folder
    try:
        app()
    except UserError as error:
        typer.echo(f"costeff: {error}", err=True)
        sys.exit(2)
    except Exception as error:
        if not is_disk_full(error):
            raise
        why = " ".join(str(error).split())
        typer.echo(
            f"costeff: the disk is full ({why}); free some, or name a folder on a larger one as `results`, "
            "and run again: it goes on from the last checkpoint",
            err=True,
        )
        sys.exit(2)
