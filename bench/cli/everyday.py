"""Everyday commands: check and run a benchmark, and forecast its time."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
import yaml

from bench import settings as settings_file
from bench.cli.arguments import (
    EVERYDAY,
    SETTINGS,
    Config,
    Cores,
    Profile,
    app,
    positive,
    settings_of,
)
from bench.cli.process import heavy_imports
from bench.errors import UserError


@app.command(rich_help_panel=EVERYDAY)
def check(
    profile: Profile = None,
    config: Config = None,
    cores: Cores = None,
) -> None:
    """Check a profile and its data; print the plan and a forecast of the time. Trains nothing."""
    with heavy_imports():
        from bench.context import usable_cores
        from bench.runs.planning.checks import report

    for line in report(settings_of(profile, config), cores or usable_cores()):
        typer.echo(line)


def _can_cache() -> bool:
    """Return whether the user's cache folder is writable."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return False
    return os.access(folder, os.W_OK)


def _check_changes(options: Sequence[str]) -> None:
    """Check the values that Snakemake's option --config (-C) is given, each of which is NAME=VALUE.

    Raises:
        UserError: A value has another form, for which Snakemake prints a traceback; or there is none.
    """
    form = "such as --config 'seeds=[0,1]' or --config 'thresholds={trials: 9}'"
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", "-C", nargs="*", action="append", default=[])
    for values in parser.parse_known_args(list(options))[0].config:
        if not values:
            raise UserError(f"--config: no value; write NAME=VALUE, {form}")
        for value in values:
            name, equals, text = value.partition("=")
            if not (equals and re.fullmatch(r"[A-Za-z_][\w-]*\w", name, re.ASCII)):
                raise UserError(f"--config {value}: not of the form NAME=VALUE, {form}")
            try:
                yaml.safe_load(text)
            except (yaml.YAMLError, ValueError, RecursionError) as error:
                raise UserError(f"--config {value}: not valid YAML: {' '.join(str(error).split())}") from None


@app.command(
    rich_help_panel=EVERYDAY,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
def workflow(
    config: Annotated[Path, typer.Argument(help=SETTINGS)],
    options: Annotated[
        list[str] | None,
        typer.Argument(help="Options for Snakemake, such as --cores 8, -n or --config seeds=[0,1]."),
    ] = None,
) -> None:
    """Run the whole benchmark of a profile with Snakemake; an interrupted benchmark resumes.

    Results are written to `results/` in the current folder. The exit code is that of Snakemake.
    """
    _check_changes(options or [])
    if str(config).startswith("-"):
        raise UserError(f"the profile comes first, then Snakemake's options: costeff workflow mine.yaml {config} ...")
    file = settings_file.profile_file(settings_file.expand(str(config), "settings"), Path(), "settings").absolute()
    if not file.is_file():
        raise UserError(f"settings {config}: No such file; name a YAML file, or a profile of the suite: sketch")
    snakefile = (settings_file.PACKAGED / "Snakefile").resolve()
    if not _can_cache():  # Snakemake fails with a traceback if it cannot write its cache
        os.environ["XDG_CACHE_HOME"] = str(Path(".snakemake", "cache").absolute())
    command = [sys.executable, "-m", "snakemake", f"--snakefile={snakefile}", f"--configfile={file}", *(options or [])]
    os.execv(command[0], command)


@app.command(rich_help_panel=EVERYDAY)
def conform(
    method: Annotated[str, typer.Argument(help="Import path of the class of the method, such as my_method:Mine.")],
    options: Annotated[str, typer.Option(help="Options of the method, as JSON or YAML.")] = "{}",
    config: Annotated[Path | None, typer.Option(help="Profile that contains the method; its options are used.")] = None,
) -> None:
    """Check that a method meets the requirements of the benchmark, on a tiny encoder and generated tasks.

    This takes about a minute and needs no network. The exit code is 1 if a check fails.
    """
    with heavy_imports():
        from bench.conformance.suite import conform as verdicts

    logging.getLogger().setLevel(logging.ERROR)
    try:
        given = yaml.safe_load(options)
    except yaml.YAMLError as error:
        raise UserError(f"--options: neither JSON nor YAML: {' '.join(str(error).split())}") from None
    if not isinstance(given, dict):
        raise UserError(f"--options {options}: a mapping is needed, such as '{{epochs: 12, learning_rate: 3.0e-3}}'")
    failed = False
    for verdict in verdicts(method, given, config):
        typer.echo(verdict.line)
        failed |= bool(verdict.faults)
    sys.exit(failed)


@app.command(rich_help_panel=EVERYDAY)
def fetch(profile: Profile = None, config: Config = None) -> None:
    """Download all checkpoints and data of a profile, so that its jobs need no network."""
    from bench.runs.planning.fetch import fetch as everything

    for line in everything(settings_of(profile, config)):
        typer.echo(line)


@app.command(rich_help_panel=EVERYDAY)
def size(
    layers: Annotated[int, typer.Option(help="Number of layers.")] = 12,
    hidden: Annotated[int, typer.Option(help="Hidden size.")] = 768,
    heads: Annotated[int, typer.Option(help="Attention heads per layer.")] = 12,
    ffn: Annotated[int, typer.Option(help="FFN neurons per layer.")] = 3072,
    rank: Annotated[int | None, typer.Option(help="Rank of the word embedding. Default: full rank.")] = None,
    classes: Annotated[int, typer.Option(help="Number of classes; 1 for regression.")] = 2,
    length: Annotated[int, typer.Option(help="Length of the example in tokens.")] = 128,
    head_size: Annotated[int, typer.Option(help="Size of an attention head.")] = 64,
    vocabulary: Annotated[int, typer.Option(help="Size of the vocabulary.")] = 30522,
    positions: Annotated[int, typer.Option(help="Number of position embeddings.")] = 512,
    pooler: Annotated[bool, typer.Option(help="Use BERT's pooler and only the last exit.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the parameters of a shape, and its multiply-adds and FLOPs at each exit. Needs no weights."""
    from bench.runs.planning.checks import size_of

    facts = size_of(layers, hidden, heads, ffn, rank, classes, length, head_size, vocabulary, positions, pooler)
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
        return
    typer.echo(f"parameters  {facts['parameters']:>15,}   (encoder layers {facts['parameters_encoder']:,})")
    typer.echo(f"layers only {facts['layers_macs']:>15,} multiply-adds at {length} tokens")
    for exit_ in facts["exits"]:
        typer.echo(f"exit {exit_['exit']:>2}     {exit_['macs']:>15,} multiply-adds  {exit_['flops'] / 1e9:8.3f} GFLOP")


@app.command("forecast", rich_help_panel=EVERYDAY)
def say_forecast(
    profile: Profile = None,
    config: Config = None,
    cores: Cores = None,
) -> None:
    """Print a forecast of the time that the remaining runs take on this machine."""
    with heavy_imports():
        from bench.context import usable_cores
        from bench.runs.planning.progress import ahead

    found = ahead(settings_of(profile, config), cores or usable_cores())
    for line in found.lines() if found else ["forecast: every run is there"]:
        typer.echo(line)


@app.command("progress", rich_help_panel=EVERYDAY)
def say_progress(
    profile: Profile = None,
    config: Config = None,
    every: Annotated[
        float | None, typer.Option(callback=positive, help="Repeat every so many seconds until the benchmark is done.")
    ] = None,
) -> None:
    """Print the progress of the benchmark in one line: finished runs, current training steps, remaining time."""
    with heavy_imports():
        from bench.runs.planning.progress import line

    settings = settings_of(profile, config)
    typer.echo(line(settings))
    while every and not (settings.root / "complete").is_file():
        time.sleep(every)
        typer.echo(line(settings))
