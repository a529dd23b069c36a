"""The commands: each stage of the benchmark, for the workflow and for a person."""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

if TYPE_CHECKING:
    from bench.exit_policies.policies import Policy
    from bench.settings import Settings

from bench import settings as settings_file
from bench.errors import UserError, is_disk_full
from bench.settings import Settings


@contextmanager
def heavy_imports() -> Iterator[None]:
    """Imports whose half a million objects stay for good: the garbage collector need not look at them, now or later."""
    gc.disable()
    yield
    gc.freeze()
    gc.enable()


def keep_memory() -> None:
    """Makes glibc keep the memory of large tensors for the next step, as a GPU's allocator does.

    It would give each back to the kernel and fault it in again, page by page: a run takes 5 % longer, and on a clock
    the model with the larger tensors, the teacher, looks slower than it is. Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        for threshold in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
            mallopt(threshold, 1 << 30)


app = typer.Typer(
    name="costeff",
    help="Benchmark and ablation suite for compressing and accelerating text encoders.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
sweep = typer.Typer(help="The study over pruning ratios, one stage at a time.", no_args_is_help=True)
app.add_typer(sweep, name="sweep")

_SETTINGS = "The settings: a YAML file, or the bare name of a packaged profile; default: sketch."
Profile = Annotated[Path | None, typer.Argument(help=_SETTINGS)]
Config = Annotated[Path | None, typer.Option("--config", help=_SETTINGS)]


def settings_of(profile: Path | None, config: Path | None) -> Settings:
    """Return the settings of the profile that is named as an argument or with --config."""
    if profile and config:
        raise UserError(f"two profiles, {profile} and --config {config}; name one")
    return settings_file.load(profile or config or "sketch")


def _positive(context: typer.Context, parameter: typer.CallbackParam, value: Any) -> Any:
    """Refuse numbers that are not above zero, and NaN."""
    for each in value if isinstance(value, list | tuple) else [value]:
        if each is not None and not 0 < each < math.inf:
            raise UserError(f"--{parameter.name} {each}: a number above 0 is needed")
    return value


Cores = Annotated[
    int | None, typer.Option(callback=_positive, help="Cores that the forecast is for; default: all usable ones.")
]
Speedup = Annotated[float, typer.Option(callback=_positive, help="The best point at this FLOPs speed-up.")]


@app.command()
def check(
    profile: Profile = None,
    config: Config = None,
    cores: Cores = None,
) -> None:
    """Prints the plan, what is missing, and how long it will take here; trains nothing."""
    with heavy_imports():
        from bench.context import usable_cores
        from bench.runs.planning.checks import report  # heavy imports only where they are needed

    for line in report(settings_of(profile, config), cores or usable_cores()):
        typer.echo(line)


def _can_cache() -> bool:
    """Return whether the user's cache folder can be written to; it cannot if there is no writable home."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return False
    return os.access(folder, os.W_OK)


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def workflow(
    config: Annotated[Path, typer.Argument(help=_SETTINGS)],
    options: Annotated[
        list[str] | None, typer.Argument(help="Options of Snakemake, passed on: --cores 8, -n, --config seeds=[0,1].")
    ] = None,
) -> None:
    """Runs the whole benchmark of a profile with Snakemake, from any folder; goes on where it was stopped.

    Results land in `results/` of the folder you are in. Exits as Snakemake does.
    """
    if str(config).startswith("-"):
        raise UserError(f"the profile comes first, then Snakemake's options: costeff workflow mine.yaml {config} ...")
    file = settings_file.profile_file(settings_file.expand(str(config), "settings"), Path(), "settings").absolute()
    if not file.is_file():
        raise UserError(f"settings {config}: No such file; name a YAML file, or a profile of the suite: sketch")
    snakefile = (settings_file.PACKAGED / "Snakefile").resolve()
    if not _can_cache():  # Snakemake ends with a traceback where it has no cache
        os.environ["XDG_CACHE_HOME"] = str(Path(".snakemake", "cache").absolute())
    command = [sys.executable, "-m", "snakemake", f"--snakefile={snakefile}", f"--configfile={file}", *(options or [])]
    os.execv(command[0], command)


@app.command()
def conform(
    method: Annotated[str, typer.Argument(help="The import path of its class: my_method:Mine.")],
    options: Annotated[str, typer.Option(help="The method's options, as JSON or YAML.")] = "{}",
    config: Annotated[Path | None, typer.Option(help="A profile that has the method, for its options.")] = None,
) -> None:
    """Holds a method to what every contestant owes, on a tiny encoder and generated tasks: a minute, no network.

    Exits with 1 where a check fails.
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


@app.command()
def fetch(profile: Profile = None, config: Config = None) -> None:
    """Brings every checkpoint and text of a profile onto this machine: its jobs then need no network."""
    from bench.runs.planning.fetch import fetch as everything

    for line in everything(settings_of(profile, config)):
        typer.echo(line)


@app.command()
def size(
    layers: int = 12,
    hidden: int = 768,
    heads: int = 12,
    ffn: int = 3072,
    rank: Annotated[int | None, typer.Option(help="Rank of the word embedding; default: whole.")] = None,
    classes: int = 2,
    length: Annotated[int, typer.Option(help="Tokens of the example that is counted.")] = 128,
    head_size: int = 64,
    vocabulary: int = 30522,
    positions: int = 512,
    pooler: Annotated[bool, typer.Option(help="One dense layer shared by the exits, and only the last exit.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Parameters, multiply-adds and FLOPs of a shape at each exit; no weights needed."""
    from bench.runs.planning.checks import size_of

    facts = size_of(layers, hidden, heads, ffn, rank, classes, length, head_size, vocabulary, positions, pooler)
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
        return
    typer.echo(f"parameters  {facts['parameters']:>15,}   (encoder layers {facts['parameters_encoder']:,})")
    typer.echo(f"layers only {facts['layers_macs']:>15,} multiply-adds at {length} tokens")
    for exit_ in facts["exits"]:
        typer.echo(f"exit {exit_['exit']:>2}     {exit_['macs']:>15,} multiply-adds  {exit_['flops'] / 1e9:8.3f} GFLOP")


@app.command()
def run(
    task: str,
    method: str,
    variant: str,
    seed: int = 0,
    profile: Profile = None,
    config: Config = None,
    as_job: Annotated[
        bool, typer.Option("--as-job", help="A failure that is recorded as a result ends well: the workflow goes on.")
    ] = False,
) -> None:
    """Trains and traces one variant of one contestant; goes on where a killed run stopped."""
    with heavy_imports():
        from bench.runs.produce import produce
        from bench.store import RunKey
        from bench.training.lease import gpu_lease

    settings = settings_of(profile, config)
    with gpu_lease(settings.training.device, settings.training.gpu_share):
        reason = produce(settings, RunKey(task, method, variant, seed))
    if reason and not as_job:
        typer.echo(f"costeff: {task} {method} {variant} failed: {reason}", err=True)
        sys.exit(1)


@app.command()
def replay(task: str, seed: int = 0, profile: Profile = None, config: Config = None) -> None:
    """Makes the operating points of all runs of a task and seed from their kept traces; trains nothing."""
    with heavy_imports():
        from bench.runs.replay import replay as replay_all
        from bench.store import finished_settings

    replay_all(finished_settings(settings_of(profile, config), task, seed), task, seed)


@app.command()
def latency(out: Path, profile: Profile = None, config: Config = None) -> None:
    """Measures the wall-clock of every contestant's early exits beside the teacher's, on all tasks; run it alone."""
    with heavy_imports():
        from bench.runs.clock import measure_latency
        from bench.store import finished_settings

    measure_latency(finished_settings(settings_of(profile, config)), out)


@app.command()
def collect(out: Path, profile: Profile = None, config: Config = None) -> None:
    """Unites the points of all runs in one table."""
    from bench.runs.collect import collect as union
    from bench.store import finished_settings, write_parquet

    write_parquet(out, union(finished_settings(settings_of(profile, config))))


@app.command("forecast")
def say_forecast(
    profile: Profile = None,
    config: Config = None,
    cores: Cores = None,
) -> None:
    """Says how long the runs that are not there yet will take on this machine."""
    with heavy_imports():
        from bench.context import usable_cores
        from bench.runs.planning.progress import ahead

    found = ahead(settings_of(profile, config), cores or usable_cores())
    for line in found.lines() if found else ["forecast: every run is there"]:
        typer.echo(line)


@app.command("progress")
def say_progress(
    profile: Profile = None,
    config: Config = None,
    every: Annotated[
        float | None, typer.Option(callback=_positive, help="Say it again after so many seconds, until all is done.")
    ] = None,
) -> None:
    """Says in one line how far the benchmark is: runs done, trainings with their step, the time left."""
    with heavy_imports():
        from bench.runs.planning.progress import line

    settings = settings_of(profile, config)
    typer.echo(line(settings))
    while every and not (settings.root / "complete").is_file():
        time.sleep(every)
        typer.echo(line(settings))


@app.command("failures")
def name_failures(profile: Profile = None, config: Config = None) -> None:
    """Names the runs that failed, and exits with 1 where there are any."""
    with heavy_imports():
        from bench.runs.collect import failures
        from bench.store import finished_settings

    failed = failures(finished_settings(settings_of(profile, config)))
    for line in failed:
        typer.echo(f"failed: {line}", err=True)
    sys.exit(bool(failed))


@app.command("wrap-up")
def wrap_up(profile: Profile = None, config: Config = None) -> None:
    """Replays, unites and reports whatever is there: what the workflow does after a job that left nothing."""
    with heavy_imports():
        from bench.reporting.everything import write_everything
        from bench.runs.collect import bring_up_to_date, failures, forget_crashes
        from bench.store import finished_settings

    settings = finished_settings(settings_of(profile, config))
    if bring_up_to_date(settings):
        for line in write_everything(settings):
            typer.echo(line)
    for line in failures(settings):
        typer.echo(f"failed: {line}")
    forget_crashes(settings)


@sweep.command("ask")
def sweep_ask(task: str, method: str, generation: int = 0, profile: Profile = None, config: Config = None) -> None:
    """Writes the trials of a generation, from the history of those before it."""
    with heavy_imports():
        from bench.runs.ratios import ask

    ask(settings_of(profile, config), task, method, generation)


@sweep.command("tell")
def sweep_tell(task: str, method: str, generation: int = 0, profile: Profile = None, config: Config = None) -> None:
    """Adds the results of a generation's runs to the history."""
    with heavy_imports():
        from bench.runs.ratios import tell

    tell(settings_of(profile, config), task, method, generation)


@sweep.command("finish")
def sweep_finish(task: str, method: str, profile: Profile = None, config: Config = None) -> None:
    """Writes the table of all trials, with those marked that no other dominates."""
    with heavy_imports():
        from bench.runs.ratios import finish

    finish(settings_of(profile, config), task, method)


@app.command()
def report(profile: Profile = None, config: Config = None) -> None:
    """Writes every table and figure, and the results page, from all-points.parquet."""
    with heavy_imports():
        from bench.reporting.everything import write_everything

    gc.disable()  # a tenth of the time; what is drawn and printed goes with the process
    for line in write_everything(settings_of(profile, config)):
        typer.echo(line)


@app.command()
def compare(
    a: str,
    others: Annotated[list[str] | None, typer.Argument(help="The rivals; default: every other contestant.")] = None,
    config: Config = None,
    speedup: Annotated[
        list[float] | None,
        typer.Option(callback=_positive, help="Compare at least this many times cheaper; may be given several times."),
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="A results folder, published or not, in place of a profile's own.")
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Tasks by name, or pairs, single, learned; several with commas. Default: all.")
    ] = None,
) -> None:
    """Say whether contestant A is better than others, worse, equal or not decided, at the same speed-ups.

    A method without cheaper points, such as the teacher, is compared at 1x.
    """
    from bench.analysis.budgets import succeeded
    from bench.analysis.comparing.pairings import pairings
    from bench.analysis.comparing.resampling import resamples_of
    from bench.analysis.comparing.verdicts import BUDGETS
    from bench.analysis.comparing.verdicts import compare as verdicts
    from bench.analysis.statistics import learned_tasks
    from bench.analysis.task_groups import select_tasks
    from bench.reporting.tables.comparisons import FORMATS, how, printed
    from bench.reporting.tables.table import Table, display_names
    from bench.sharing.folders import open_folder
    from bench.store import read_points
    from bench.tasks.catalogue import tasks_of

    if results:
        folder = open_folder(results)
        settings, points = folder.settings, folder.points()
    else:
        settings = settings_of(None, config)
        points = read_points(settings)
    if succeeded(points).empty:
        raise UserError(f"{settings.root}: no run has finished, so there is nothing to compare")
    if tasks is not None:
        known = tasks_of(settings.own_tasks)
        points = points[points["task"].isin(select_tasks(tasks, points, known, reference=settings.reference))]
    if a in (others or ()):
        raise UserError(f"{a} cannot be compared with itself; name another contestant")
    rivals = others or [method for method in dict.fromkeys(points["method"]) if method != a]
    comparison, reference = settings.comparison, settings.reference
    resamples = resamples_of(points, settings.root / "runs", comparison)
    asked = pairings(
        points, [(a, rival) for rival in rivals], comparison, reference=reference, budgets=speedup or BUDGETS
    )
    found = verdicts(points, asked, resamples, comparison, learned=learned_tasks(points, reference=reference))
    names = display_names(points)
    values = printed(found, names).drop(columns="A")
    said = f"{names[a]} (A) minus B on validation, both at least so many times cheaper than the teacher"
    typer.echo(
        Table("compare", said, values, FORMATS, notes=[how(settings.comparison, found.attrs["comparisons"])]).markdown()
    )


@app.command()
def publish(out: Path, profile: Profile = None, config: Config = None) -> None:
    """Copies what others need of a profile's results (points, traces, costs, page; no weights, no text) into OUT."""
    from bench.sharing.results import publish as copied

    size = copied(settings_of(profile, config), out)
    typer.echo(f"wrote {out}, {size / 1e6:.1f} MB")


@app.command()
def merge(folders: list[Path], out: Annotated[Path, typer.Option("--out", help="The folder of the whole.")]) -> None:
    """Unites results folders, and makes page, tables and figures of the whole."""
    from bench.reporting.everything import write_everything
    from bench.sharing.results import merge as united

    def report_lines(settings: Settings) -> None:
        for line in write_everything(settings):
            typer.echo(line.replace(str(settings.root), str(out)))

    united(folders, out, report_lines)
    typer.echo(f"united {len(folders)} folders in {out}")


@app.command()
def take(
    task: str,
    method: str,
    out: Path,
    profile: Profile = None,
    config: Config = None,
    speedup: Speedup = 1.0,
    seed: Annotated[int | None, typer.Option(help="Of this seed; default: the first.")] = None,
) -> None:
    """Writes the model that the main table shows, with its exit rule, tokenizer and model card, into OUT."""
    with heavy_imports():
        from bench.sharing.models import take as taken

    typer.echo(taken(settings_of(profile, config), task, method, out, speedup=speedup, seed=seed))
    typer.echo(f"wrote {out}; its README.md says how to use it")


@app.command()
def submit(
    method: str,
    out: Path,
    profile: Profile = None,
    config: Config = None,
    speedup: Speedup = 1.0,
    seed: int | None = None,
) -> None:
    """Writes the zip that the GLUE server takes; traces a contestant's runs on the test splits where they were not."""
    from bench.reporting.submit import write_submission
    from bench.store import RunKey, read_points

    settings = settings_of(profile, config)

    def rule_on(task: str) -> Policy:
        from bench.method import contestant

        return contestant(settings, method, task).rule()

    def trace(key: RunKey) -> None:
        from bench.runs.produce import trace_tests  # heavy, and only where a test split has not been traced

        trace_tests(settings, key)

    points, runs = read_points(settings), settings.root / "runs"
    used = write_submission(
        points,
        runs,
        out,
        method,
        glue=settings.glue_caps,
        speedup=speedup,
        seed=seed,
        rule_on=rule_on,
        make_traces=trace,
    )
    typer.echo(used[["task", "variant", "kind", "threshold", "score", "speedup"]].to_markdown(index=False))
    typer.echo(f"\nwrote {out}; the scores above are those on validation")


def main() -> None:
    """The console script: one line and exit code 2 for what the user can mend."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    for chatty in ("httpx", "fontTools"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    keep_memory()
    sys.path.insert(0, str(Path.cwd()))  # a contestant of the user's own may lie beside the settings
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


if __name__ == "__main__":
    main()
