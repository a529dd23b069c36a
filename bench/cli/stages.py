"""The stages that the workflow runs."""

from __future__ import annotations

import gc
import sys
from typing import Annotated

import typer

from bench.cli.arguments import (
    STAGES,
    ChosenSeed,
    Config,
    Contestant,
    File,
    Generation,
    Profile,
    Task,
    app,
    settings_of,
)
from bench.cli.process import heavy_imports

sweep = typer.Typer(help="The stages of a ratio study.", no_args_is_help=True)
app.add_typer(sweep, name="sweep", rich_help_panel=STAGES)


@app.command(rich_help_panel=STAGES)
def run(
    task: Task,
    method: Contestant,
    variant: Annotated[str, typer.Argument(help="Variant of the contestant.")],
    seed: ChosenSeed = None,
    profile: Profile = None,
    config: Config = None,
    as_job: Annotated[
        bool, typer.Option("--as-job", help="Return exit code 0 for a failed run that is recorded as a result.")
    ] = False,
) -> None:
    """Train and trace one variant of a contestant; an interrupted run resumes."""
    with heavy_imports():
        from bench.runs.train_run import produce
        from bench.store import RunKey, seed_of
        from bench.training.lease import gpu_lease

    settings = settings_of(profile, config)
    key = RunKey(task, method, variant, seed_of(settings, task, seed))
    with gpu_lease(settings.training.device, settings.training.gpu_share):
        reason = produce(settings, key, release=as_job)
    if reason and not as_job:
        typer.echo(f"costeff: {task} {method} {variant} failed: {reason}", err=True)
        sys.exit(1)


@app.command(rich_help_panel=STAGES)
def replay(task: Task, seed: ChosenSeed = None, profile: Profile = None, config: Config = None) -> None:
    """Compute the operating points of all runs of a task and seed from their traces. Trains nothing."""
    with heavy_imports():
        from bench.runs.replay import replay as replay_all
        from bench.store import finished_settings, seed_of

    settings = settings_of(profile, config)
    seed = seed_of(settings, task, seed)
    replay_all(finished_settings(settings, task, seed), task, seed)


@app.command(rich_help_panel=STAGES)
def latency(out: File, profile: Profile = None, config: Config = None) -> None:
    """Measure the latency of every contestant and of the reference on all tasks; run nothing else meanwhile."""
    with heavy_imports():
        from bench.runs.clock import measure_latency
        from bench.store import finished_settings

    measure_latency(finished_settings(settings_of(profile, config)), out)


@app.command(rich_help_panel=STAGES)
def collect(out: File, profile: Profile = None, config: Config = None) -> None:
    """Merge the operating points of all runs into one table."""
    from bench.runs.collect import collect as union
    from bench.store import finished_settings, write_parquet

    write_parquet(out, union(finished_settings(settings_of(profile, config))))


@app.command("failures", rich_help_panel=STAGES)
def name_failures(profile: Profile = None, config: Config = None) -> None:
    """List the failed runs; the exit code is 1 if there are any."""
    with heavy_imports():
        from bench.runs.collect import failures
        from bench.store import finished_settings

    failed = failures(finished_settings(settings_of(profile, config)))
    for line in failed:
        typer.echo(f"failed: {line}", err=True)
    sys.exit(bool(failed))


@app.command("wrap-up", rich_help_panel=STAGES)
def wrap_up(profile: Profile = None, config: Config = None) -> None:
    """Replay, merge and report the finished runs; the workflow does this after a job that was killed."""
    with heavy_imports():
        from bench.reporting.everything import write_everything
        from bench.runs.collect import bring_up_to_date, failures, forget_crashes
        from bench.store import finished_settings

    settings = finished_settings(settings_of(profile, config))
    forget_crashes(settings)  # first: the rest fails, for instance, where a run has other settings
    if bring_up_to_date(settings):
        for line in write_everything(settings):
            typer.echo(line)
    for line in failures(settings):
        typer.echo(f"failed: {line}")


@sweep.command("ask")
def sweep_ask(
    task: Task, method: Contestant, generation: Generation = 0, profile: Profile = None, config: Config = None
) -> None:
    """Draw the trials of a generation, given the results of the generations before it."""
    with heavy_imports():
        from bench.runs.ratios import ask

    ask(settings_of(profile, config), task, method, generation)


@sweep.command("tell")
def sweep_tell(
    task: Task, method: Contestant, generation: Generation = 0, profile: Profile = None, config: Config = None
) -> None:
    """Add the results of the runs of a generation to the history of the study."""
    with heavy_imports():
        from bench.runs.ratios import tell

    tell(settings_of(profile, config), task, method, generation)


@sweep.command("finish")
def sweep_finish(task: Task, method: Contestant, profile: Profile = None, config: Config = None) -> None:
    """Write the table of all trials, in which those on the frontier are marked."""
    with heavy_imports():
        from bench.runs.ratios import finish
        from bench.runs.training.models import release

    settings = settings_of(profile, config)
    finish(settings, task, method)
    release(settings, task, settings.seeds_of(task)[0])


@app.command(rich_help_panel=STAGES)
def report(profile: Profile = None, config: Config = None) -> None:
    """Write all tables and figures and the results page from all-points.parquet."""
    with heavy_imports():
        from bench.reporting.everything import write_everything

    gc.disable()  # saves a tenth of the time; the process ends after the report
    for line in write_everything(settings_of(profile, config)):
        typer.echo(line)
