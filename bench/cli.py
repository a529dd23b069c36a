"""The `costeff` command line: everyday commands, and the stages that the workflow runs."""

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
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
import yaml

if TYPE_CHECKING:
    from bench.exit_policies.policies import Policy
    from bench.settings import Settings

from bench import settings as settings_file
from bench.errors import UserError, is_disk_full
from bench.names import LARGEST_SEED
from bench.settings import Settings


@contextmanager
def heavy_imports() -> Iterator[None]:
    """Import large packages without garbage collection, and exclude their objects from later collections.

    The imports create about half a million objects that live until the process ends.
    """
    gc.disable()
    yield
    gc.freeze()
    gc.enable()


def keep_memory() -> None:
    """Make glibc reuse the memory of freed tensors instead of returning it to the kernel.

    Otherwise the pages of every large tensor are faulted in again: a run takes 5 % longer, and measured latencies favor
    models with small tensors. Other C libraries are not changed.
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
EVERYDAY, STAGES = "Everyday", "Stages of the workflow"
sweep = typer.Typer(help="The stages of a ratio study.", no_args_is_help=True)
app.add_typer(sweep, name="sweep", rich_help_panel=STAGES)

_SETTINGS = "Profile: a YAML file, or the name of a packaged profile. Default: sketch."
Profile = Annotated[Path | None, typer.Argument(help=_SETTINGS)]
Config = Annotated[Path | None, typer.Option("--config", help=_SETTINGS)]
Task = Annotated[str, typer.Argument(help="Task of the profile, such as sst2.")]
Contestant = Annotated[str, typer.Argument(help="Contestant of the profile.")]
Seed = Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the run.")]
ChosenSeed = Annotated[
    int | None, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the run. Default: the first seed of the task.")
]
Generation = Annotated[int, typer.Option(help="Generation of the study, from 0.")]
File = Annotated[Path, typer.Argument(help="Parquet file to write.")]
Folder = Annotated[Path, typer.Argument(help="Folder to write.")]


def settings_of(profile: Path | None, config: Path | None) -> Settings:
    """Return the settings of the profile that is given as an argument or with `--config`.

    Raises:
        UserError: If both are given.
    """
    if profile and config:
        raise UserError(f"two profiles, {profile} and --config {config}; name one")
    return settings_file.load(profile or config or "sketch")


def _positive(context: typer.Context, parameter: typer.CallbackParam, value: Any) -> Any:
    """Return the value of an option.

    Raises:
        UserError: If a number is not above 0, infinite or NaN.
    """
    for each in value if isinstance(value, list | tuple) else [value]:
        if each is not None and not 0 < each < math.inf:
            raise UserError(f"--{parameter.name} {each}: a number above 0 is needed")
    return value


Cores = Annotated[
    int | None, typer.Option(callback=_positive, help="Number of cores in the forecast. Default: all usable cores.")
]
Runtime = Literal["torch", "onnx", "openvino"]
Speedup = Annotated[
    float, typer.Option(callback=_positive, help="Budget, as a FLOPs speed-up: its best point is used.")
]


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


@app.command(
    rich_help_panel=EVERYDAY,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
def workflow(
    config: Annotated[Path, typer.Argument(help=_SETTINGS)],
    options: Annotated[
        list[str] | None,
        typer.Argument(help="Options for Snakemake, such as --cores 8, -n or --config seeds=[0,1]."),
    ] = None,
) -> None:
    """Run the whole benchmark of a profile with Snakemake; an interrupted benchmark resumes.

    Results are written to `results/` in the current folder. The exit code is that of Snakemake.
    """
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


@app.command(rich_help_panel=STAGES)
def run(
    task: Task,
    method: Contestant,
    variant: Annotated[str, typer.Argument(help="Variant of the contestant.")],
    seed: Seed = 0,
    profile: Profile = None,
    config: Config = None,
    as_job: Annotated[
        bool, typer.Option("--as-job", help="Return exit code 0 for a failed run that is recorded as a result.")
    ] = False,
) -> None:
    """Train and trace one variant of a contestant; an interrupted run resumes."""
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


@app.command(rich_help_panel=STAGES)
def replay(task: Task, seed: Seed = 0, profile: Profile = None, config: Config = None) -> None:
    """Compute the operating points of all runs of a task and seed from their traces. Trains nothing."""
    with heavy_imports():
        from bench.runs.replay import replay as replay_all
        from bench.store import finished_settings

    replay_all(finished_settings(settings_of(profile, config), task, seed), task, seed)


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
        float | None, typer.Option(callback=_positive, help="Repeat every so many seconds until the benchmark is done.")
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
    if bring_up_to_date(settings):
        for line in write_everything(settings):
            typer.echo(line)
    for line in failures(settings):
        typer.echo(f"failed: {line}")
    forget_crashes(settings)


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

    finish(settings_of(profile, config), task, method)


@app.command(rich_help_panel=STAGES)
def report(profile: Profile = None, config: Config = None) -> None:
    """Write all tables and figures and the results page from all-points.parquet."""
    with heavy_imports():
        from bench.reporting.everything import write_everything

    gc.disable()  # saves a tenth of the time; the process ends after the report
    for line in write_everything(settings_of(profile, config)):
        typer.echo(line)


@app.command(rich_help_panel=EVERYDAY)
def compare(
    a: Annotated[str, typer.Argument(help="Contestant A, as named in the results.")],
    others: Annotated[
        list[str] | None, typer.Argument(help="Contestants to compare with. Default: all others.")
    ] = None,
    config: Config = None,
    speedup: Annotated[
        list[float] | None,
        typer.Option(callback=_positive, help="Budget, as a FLOPs speed-up; can be given several times."),
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="Results folder or published folder. Default: the results of the profile.")
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(help="Names of tasks, or pairs, single or learned, separated by commas. Default: all."),
    ] = None,
) -> None:
    """Print the verdict on contestant A against others: better, worse, equal or not decided, at equal budgets.

    A method that has only points at full depth, such as the teacher, is compared at 1x.
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

    if results and config:
        raise UserError(f"both --results {results} and --config {config}; give one of them")
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


@app.command(rich_help_panel=EVERYDAY)
def publish(out: Folder, profile: Profile = None, config: Config = None) -> None:
    """Write a published folder: points, traces, costs and the results page, without weights and text."""
    from bench.sharing.results import publish as copied

    size = copied(settings_of(profile, config), out)
    typer.echo(f"wrote {out}, {size / 1e6:.1f} MB")


@app.command(rich_help_panel=EVERYDAY)
def merge(
    folders: Annotated[list[Path], typer.Argument(help="Results folders or published folders.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
) -> None:
    """Merge results folders into one, with its own results page, tables and figures."""
    from bench.reporting.everything import write_everything
    from bench.sharing.results import merge as united

    def report_lines(settings: Settings) -> None:
        for line in write_everything(settings):
            typer.echo(line.replace(str(settings.root), str(out)))

    united(folders, out, report_lines)
    typer.echo(f"united {len(folders)} folders in {out}")


@app.command(rich_help_panel=EVERYDAY)
def take(
    task: Task,
    method: Contestant,
    out: Folder,
    profile: Profile = None,
    config: Config = None,
    speedup: Speedup = 1.0,
    seed: ChosenSeed = None,
    runtime: Annotated[Runtime, typer.Option("--format", help="Runtime that the model is for.")] = "torch",
    int8: Annotated[bool, typer.Option("--int8", help="Store weights in 8-bit integers (ONNX).")] = False,
) -> None:
    """Export a trained model with its exit policy, tokenizer and model card."""
    with heavy_imports():
        from bench.deploy.writing import Form
        from bench.sharing.models import take as taken

    form, settings = Form(runtime, int8), settings_of(profile, config)
    typer.echo(taken(settings, task, method, out, speedup=speedup, seed=seed, form=form))
    typer.echo(f"wrote {out}; its README.md says how to use it")


@app.command(rich_help_panel=EVERYDAY)
def runtimes(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders that `costeff take` wrote; the first is the reference.")
    ],
    rounds: Annotated[int, typer.Option(min=1, help="Number of rounds.")] = 15,
    threads: Annotated[int, typer.Option(min=1, help="Number of threads of each runtime.")] = 1,
) -> None:
    """Time exported models under PyTorch, ONNX Runtime and OpenVINO on this machine; run nothing else meanwhile."""
    with heavy_imports():
        from bench.deploy.timing import summary, time_runtimes

    typer.echo(summary(time_runtimes(folders, rounds=rounds, threads=threads)))


@app.command(rich_help_panel=EVERYDAY)
def submit(
    method: Contestant,
    out: Annotated[Path, typer.Argument(help="Zip file to write.")],
    profile: Profile = None,
    config: Config = None,
    speedup: Speedup = 1.0,
    seed: ChosenSeed = None,
) -> None:
    """Write a zip file for the GLUE server; runs that have no traces of the test splits are traced first."""
    from bench.reporting.submit import write_submission
    from bench.store import RunKey, read_points

    settings = settings_of(profile, config)

    def rule_on(task: str) -> Policy:
        from bench.method import contestant

        return contestant(settings, method, task).rule()

    def trace(key: RunKey) -> None:
        from bench.runs.produce import trace_tests  # slow to import, and rarely needed

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


if __name__ == "__main__":
    main()
