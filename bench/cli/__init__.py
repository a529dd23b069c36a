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
    """Run the command line.

    Errors that the user can correct, and files and folders that the system refuses to read or write, are printed in
    one line, with exit code 2.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    for chatty in ("httpx", "fontTools"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its warnings repeat the error that follows
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    keep_memory()
    sys.path.insert(0, str(Path.cwd()))  # the user's method may be a module in this folder
    try:
        app()
    except UserError as error:
        typer.echo(f"costeff: {error}", err=True)
        sys.exit(2)
    except Exception as error:
        why = " ".join(str(error).split())
        if is_disk_full(error):
            typer.echo(
                f"costeff: the disk is full ({why}); free some space, or name a folder on a larger disk as `results`, "
                "and run again; training resumes from the last checkpoint",
                err=True,
            )
        elif isinstance(error, OSError) and error.errno is not None:
            typer.echo(f"costeff: {why}; allow access to that path, or name another one", err=True)
        else:
            raise
        sys.exit(2)
