"""Commands about this machine and the committed results: doctor and tour."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import typer

from bench import settings as settings_file
from bench.cli.arguments import EVERYDAY, app
from bench.cli.process import heavy_imports
from bench.errors import UserError

PACKAGES = ("costeff-bench", "torch", "transformers", "snakemake", "optuna", "fvcore", "numpy")
HUB = "https://huggingface.co"
SECONDS = 3.0
"""Seconds after which the Hub counts as out of reach."""
FREE = 2e9
"""Bytes that a run of the default profile needs on disk."""
REFERENCE = Path("results", "reference")


@app.command(rich_help_panel=EVERYDAY)
def tour(
    profile: Annotated[
        str, typer.Argument(help="Folder of results/reference.", autocompletion=lambda: _committed())
    ] = "glue-laptop",
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser, if there is one.")] = True,
) -> None:
    """Show the results page of committed real results; nothing is trained."""
    page = _repository() / REFERENCE / profile / "index.html"
    if not page.is_file():
        known = ", ".join(_committed()) or "none: an installed package has no results, a clone of the repository has"
        raise UserError(f"no committed results {profile!r} in {page.parents[1]}; there are {known}")
    typer.echo(f"page:  {page}")
    typer.echo(f"next:  costeff compare costeff --results {shlex.quote(str(page.parent))}    (verdicts with intervals)")
    if show and _has_browser():
        webbrowser.open(page.as_uri())


@app.command(rich_help_panel=EVERYDAY)
def doctor() -> None:
    """Check this machine: versions, cores, arithmetic, GPU, disk, write access and the Hub.

    The exit code is 1 if a benchmark cannot run here.
    """
    wrong = False
    for name, finding, problem in _findings():
        typer.echo(f"{name:<13} {finding}{'  <- ' * bool(problem)}{problem}")
        wrong |= bool(problem)
    sys.exit(wrong)


def _repository() -> Path:
    return settings_file.PACKAGED.parents[1]


def _committed() -> list[str]:
    """Return the names of the committed results."""
    return sorted(page.parent.name for page in (_repository() / REFERENCE).glob("*/index.html"))


def _has_browser() -> bool:
    """Return whether a browser can be opened: on Linux that takes a display."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    try:
        webbrowser.get()
    except webbrowser.Error:
        return False
    return True


def _findings() -> Iterator[tuple[str, str, str]]:
    """Yield the name of each check, what was found, and the problem with its remedy, "" if there is none."""
    old = sys.version_info < (3, 11)
    yield "python", platform.python_version(), "Python 3.11 or newer is needed" * old
    for name in PACKAGES:
        try:
            yield name, version(name), ""
        except PackageNotFoundError:
            yield name, "not installed", "run: make setup"
    with heavy_imports():
        import torch

        from bench.context import native_bfloat16, usable_cores

    fast = "bfloat16" if native_bfloat16(torch.device("cpu")) else "float32 (no bfloat16 in this processor)"
    yield "cores", f"{usable_cores()} usable, {fast}", ""
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    yield "gpu", ", ".join(gpus) or "none; all profiles run on the CPU too", ""
    folder = Path.cwd()
    free = shutil.disk_usage(folder).free
    yield (
        "disk",
        f"{free / 1e9:.1f} GB free in {folder}",
        "free some space: the default profile needs 2 GB" * (free < FREE),
    )
    yield "writing", *_writes(folder)
    yield "hub", _reaches_hub(), ""


def _writes(folder: Path) -> tuple[str, str]:
    """Return whether results can be written to a folder, and the problem if not."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return f"{folder} can be written to", ""
    except OSError as error:
        return f"{folder}: {error.strerror}", "change to another folder, or name one as `results`"


def _reaches_hub() -> str:
    """Return whether the Hub answers; it is needed only by profiles that load text or checkpoints from there."""
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "ON", "YES", "TRUE"):
        return "not tried: HF_HUB_OFFLINE is set"
    endpoint = os.environ.get("HF_ENDPOINT", HUB)
    answers: list[str] = []

    def ask() -> None:
        try:
            with urlopen(Request(endpoint, method="HEAD"), timeout=SECONDS):
                answers.append("reached")
        except HTTPError:  # an answer too
            answers.append("reached")
        except (OSError, ValueError) as error:
            answers.append(f"not reached ({getattr(error, 'reason', error)})")

    asking = threading.Thread(target=ask, daemon=True)  # the look-up of a name has no time limit of its own
    asking.start()
    asking.join(SECONDS)
    answer = answers[0] if answers else f"not reached within {SECONDS:g} s"
    return f"{endpoint} {answer}" + "; generated and local text need none" * answer.startswith("not")
