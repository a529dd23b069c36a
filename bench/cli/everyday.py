"""Everyday commands: check and run a benchmark, and forecast its time."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Annotated

import typer
import yaml

from bench.cli import workflow  # noqa: F401  (the first command of the list)
from bench.cli.arguments import (
    EVERYDAY,
    Config,
    Cores,
    Layout,
    Profile,
    app,
    one_profile,
    profiles,
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


CONTAINS = "Profile that contains the method; its options are used."


@app.command(rich_help_panel=EVERYDAY)
def conform(
    method: Annotated[str, typer.Argument(help="Import path of the class of the method, such as my_method:Mine.")],
    options: Annotated[str, typer.Option(help="Options of the method, as JSON or YAML.")] = "{}",
    profile: Annotated[Path | None, typer.Argument(help=f"{CONTAINS} Default: none.", autocompletion=profiles)] = None,
    config: Annotated[Path | None, typer.Option("--config", help=CONTAINS, autocompletion=profiles)] = None,
    layout: Layout = "bert",
) -> None:
    """Check that a method meets the requirements of the benchmark, on a tiny encoder and generated tasks.

    This takes about a minute and needs no network. The exit code is 1 if a check fails.
    """
    with heavy_imports():
        from bench.conformance.suite import conform as verdicts
        from bench.encoder.shape import layout_named

    given_profile = one_profile(profile, config)
    logging.getLogger().setLevel(logging.ERROR)
    try:
        given = yaml.safe_load(options)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that does not exist
        raise UserError(f"--options: neither JSON nor YAML: {' '.join(str(error).split())}") from None
    if not isinstance(given, dict):
        raise UserError(f"--options {options}: a mapping is needed, such as '{{epochs: 12, learning_rate: 3.0e-3}}'")
    failed = False
    for verdict in verdicts(method, given, given_profile, layout_named(layout)):
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
    positions: Annotated[int, typer.Option(help="Tokens of the longest text; BERT has an embedding of each.")] = 512,
    layout: Layout = "bert",
    pooler: Annotated[bool, typer.Option(help="Use BERT's pooler and only the last exit.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the parameters of a shape, and its multiply-adds and FLOPs at each exit. Needs no weights."""
    from bench.runs.planning.checks import size_of

    facts = size_of(layers, hidden, heads, ffn, rank, classes, length, head_size, vocabulary, positions, pooler, layout)
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
        return
    typer.echo(f"parameters  {facts['parameters']:>15,}   (encoder layers {facts['parameters_encoder']:,})")
    typer.echo(f"layers only {facts['layers_macs']:>15,} multiply-adds at {length} tokens")
    for exit_ in facts["exits"]:
        typer.echo(f"exit {exit_['exit']:>2}     {exit_['macs']:>15,} multiply-adds  {exit_['flops'] / 1e9:8.3f} GFLOP")


@app.command("forecast", rich_help_panel=EVERYDAY)
def print_forecast(
    profile: Profile = None,
    config: Config = None,
    cores: Cores = None,
) -> None:
    """Print a forecast of the time that the remaining runs take on this machine."""
    with heavy_imports():
        from bench.context import usable_cores
        from bench.runs.planning.progress import ahead

    found = ahead(settings_of(profile, config), cores or usable_cores())
    for line in found.lines() if found else ["forecast: all runs have results"]:
        typer.echo(line)


@app.command("progress", rich_help_panel=EVERYDAY)
def print_progress(profile: Profile = None, config: Config = None) -> None:
    """Print the progress of the benchmark in one line: finished runs, current training steps, remaining time."""
    with heavy_imports():
        from bench.runs.planning.progress import Progress

    typer.echo(Progress(settings_of(profile, config)).line())
