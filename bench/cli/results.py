"""Everyday commands on results: compare, publish, merge, export, and time what was exported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bench.cli.arguments import (
    EVERYDAY,
    ChosenSeed,
    Config,
    Contestant,
    Folder,
    Profile,
    Speedup,
    Task,
    app,
    contestants,
    one_profile,
    positive,
    settings_of,
)
from bench.cli.process import heavy_imports
from bench.errors import UserError

if TYPE_CHECKING:
    from bench.exit_policies.policies import Policy
    from bench.settings import Settings


Runtime = Literal["torch", "onnx", "openvino"]
ExportFormat = Literal["every-eval-ever", "model-index", "ro-crate", "croissant"]


@app.command(rich_help_panel=EVERYDAY)
def compare(
    a: Annotated[str, typer.Argument(help="Contestant A, as named in the results.", autocompletion=contestants)],
    others: Annotated[
        list[str] | None,
        typer.Argument(
            help="Contestants to compare with, and a profile that ends in .yaml. Default: all others.",
            autocompletion=contestants,
        ),
    ] = None,
    config: Config = None,
    speedup: Annotated[
        list[float] | None,
        typer.Option(callback=positive, help="Budget, as a FLOPs speed-up; can be given several times."),
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
    from bench.analysis.budgets import BUDGETS as OF_TABLES
    from bench.analysis.budgets import has_traces, succeeded
    from bench.analysis.comparing.pairings import every_pair, pairings
    from bench.analysis.comparing.resampling import resamples_of
    from bench.analysis.comparing.verdicts import ALL, BUDGETS, comparable
    from bench.analysis.comparing.verdicts import compare as verdicts
    from bench.analysis.statistics import learned_tasks, select_tasks
    from bench.reporting.tables.comparisons import FORMATS, how, note_seeds, printed, sentences
    from bench.reporting.tables.format.table import Table, display_names
    from bench.sharing.folders import open_folder
    from bench.store import read_points
    from bench.tasks.catalogue import tasks_of

    files = [Path(each) for each in others or () if each.endswith((".yaml", ".yml"))]
    others = [each for each in others or () if not each.endswith((".yaml", ".yml"))]
    if len(files) > 1:
        raise UserError(f"two profiles are given, {files[0]} and {files[1]}; name one")
    config = one_profile(files[0] if files else None, config)
    if results and config:
        raise UserError(f"--results {results} and --config {config} are both given; give one of them")
    if results:
        folder = open_folder(results)
        settings, points = folder.settings, folder.points(splits=("validation",))
    else:
        settings = settings_of(None, config)
        points = read_points(settings)
    if succeeded(points).empty:
        raise UserError(f"{settings.root}: no run has finished, so there is nothing to compare")
    untraced = points[~has_traces(points)]
    points = points[has_traces(points)]
    if missing := {a, *others} & (set(untraced["method"]) - set(points["method"])):
        raise UserError(f"{min(missing)}: published without traces, so it cannot be compared; see tables/main.md")
    comparison, reference = settings.comparison, settings.reference
    pairs = every_pair(points, reference=reference, ablations=settings.ablations, first=comparison.primary.contestant)
    of_tables = pairings(points, pairs, comparison, reference=reference, budgets=OF_TABLES)
    primary = comparable(points, [each for each in of_tables if each.primary])
    if tasks is not None:
        known = tasks_of(settings.own_tasks)
        points = points[points["task"].isin(select_tasks(tasks, points, known, reference=settings.reference))]
    if a in others:
        raise UserError(f"{a} cannot be compared with itself; name another contestant")
    rivals = others or [method for method in dict.fromkeys(points["method"]) if method != a]
    resamples = resamples_of(points, settings.root / "runs", comparison)
    wanted = pairings(
        points, [(a, rival) for rival in rivals], comparison, reference=reference, budgets=speedup or BUDGETS
    )
    # The family of primary comparisons has those of other contestants too, so none of these is called primary.
    wanted = [replace(each, primary=False) for each in wanted]
    learned = learned_tasks(points, reference=reference)
    found = verdicts(points, wanted, resamples, comparison, learned=learned)
    names = display_names(points)
    average = ALL if tasks is None else f"selected: {tasks}"
    values = printed(note_seeds(found, points, learned), names).drop(columns=["Comparison", "A"])
    values["Tasks"] = values["Tasks"].replace(ALL, average)
    said = (
        f"{names[a]} (A) minus B on validation, both at least so many times cheaper than the reference, "
        f"{names.get(reference, reference)}"
    )
    counts = {average if scope == ALL else scope: count for (_, scope), count in found.attrs["comparisons"].items()}
    covered = ", ".join(f"{scope} {count}" for scope, count in counts.items()) or "none"
    typer.echo(
        f"Verdicts are corrected for the comparisons printed here ({covered}). The tables of the profile correct for "
        f"all of theirs ({primary} primary), so their verdicts can differ."
    )
    typer.echo("".join(f"{line}\n" for line in sentences(found, names)))
    typer.echo(Table("compare", said, values, FORMATS, notes=[how(settings.comparison, covered)]).markdown())


@app.command(rich_help_panel=EVERYDAY)
def publish(
    out: Folder,
    profile: Profile = None,
    config: Config = None,
    points_only: Annotated[
        bool, typer.Option("--points-only", help="Publish chosen points only, without traces: 4 kB a run.")
    ] = False,
) -> None:
    """Write a published folder: points, traces, costs and the results page, without weights and text."""
    from bench.sharing.results import publish as copied

    size = copied(settings_of(profile, config), out, points_only=points_only)
    typer.echo(f"wrote {out}, {size / 1e6:.1f} MB")


@app.command(rich_help_panel=EVERYDAY)
def validate(folders: Annotated[list[Path], typer.Argument(help="Published folders, each an entry.")]) -> None:
    """Check published folders of others, a line for each check; the exit code is 2 if one fails."""
    from bench.sharing.entries.validating import validate_all

    failed = 0
    for folder, check in validate_all(folders):
        typer.echo(f"{folder.name if folder else 'together'}: {check.line()}")
        failed += check.state == "failed"
    if failed:
        raise UserError(f"{failed} checks failed" if failed > 1 else "one check failed")


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
    typer.echo(f"merged {len(folders)} folders into {out}")


@app.command(rich_help_panel=EVERYDAY)
def export(
    folder: Annotated[Path, typer.Argument(help="Results folder or published folder.")],
    out: Folder,
    to: Annotated[ExportFormat, typer.Option("--to", help="Format to write.")],
) -> None:
    """Write results, or the text of own and generated tasks, in the format of another tool."""
    from bench.exports.formats import export as exported

    written = exported(folder, to, out)
    typer.echo(f"wrote {len(written)} {to} record{'s' * (len(written) != 1)} in {out}")


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
    typer.echo(f"wrote {out}; its README.md explains how to use it")


@app.command(rich_help_panel=EVERYDAY)
def runtimes(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders that `costeff take` wrote; the first is the reference.")
    ],
    rounds: Annotated[int, typer.Option(min=1, max=10**6, help="Number of rounds.")] = 15,
    threads: Annotated[int, typer.Option(min=1, max=1024, help="Number of threads of each runtime.")] = 1,
) -> None:
    """Time exported models under PyTorch, ONNX Runtime and OpenVINO on this machine; run nothing else meanwhile."""
    with heavy_imports():
        from bench.deploy.timing import summary, time_runtimes

    typer.echo(summary(time_runtimes(folders, rounds=rounds, threads=threads)))


@app.command(rich_help_panel=EVERYDAY)
def load(
    folders: Annotated[list[Path], typer.Argument(help="Folders that `costeff take` wrote for PyTorch.")],
    texts: Annotated[
        Path, typer.Option(help="File with one text on each line; a tab separates the two texts of a pair.")
    ],
    out: Annotated[Path, typer.Option(help="CSV file to write; the figure is written beside it.")] = Path("load.csv"),
    rate: Annotated[
        list[float] | None,
        typer.Option(callback=positive, help="Texts that arrive in a second; can be given several times."),
    ] = None,
    seconds: Annotated[float, typer.Option(callback=positive, help="How long texts arrive, at each rate.")] = 10.0,
    batch: Annotated[int, typer.Option(min=1, max=10**4, help="Largest number of texts in a batch.")] = 1,
    window: Annotated[
        float, typer.Option(min=0, max=10**6, help="Milliseconds that the first text of a batch waits for more texts.")
    ] = 0.0,
    threads: Annotated[int, typer.Option(min=1, max=1024, help="Number of threads of the computation.")] = 1,
    runtime: Annotated[Runtime, typer.Option("--format", help="Runtime that computes.")] = "torch",
    int8: Annotated[bool, typer.Option("--int8", help="Compute in 8-bit integers (ONNX).")] = False,
) -> None:
    """Measure latency under load: texts arrive at random, with and without early exit; run nothing else meanwhile."""
    with heavy_imports():
        from bench.deploy.load import measure, printed, texts_of
        from bench.deploy.writing import Form
        from bench.reporting.load import write_load

    if out.suffix != ".csv":
        raise UserError(f"--out {out}: a name that ends in .csv is needed")
    if out.exists():
        raise UserError(f"{out} already exists; name another file, or remove it")
    if window and batch == 1:
        raise UserError(f"--window {window:g} has no effect on batches of 1; give --batch too")
    table = measure(
        folders,
        texts_of(texts),
        rates=rate or (),
        seconds=seconds,
        batch_size=batch,
        window=window / 1e3,
        threads=threads,
        form=Form(runtime, int8),
    )
    typer.echo(printed(table))
    typer.echo("\nwrote " + ", ".join(map(str, write_load(table, out))))


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
    from bench.store import RunKey, read_points, seed_of

    settings = settings_of(profile, config)
    for task in settings.tasks:
        seed_of(settings, task, seed)

    def rule_on(task: str) -> Policy:
        from bench.method import contestant

        return contestant(settings, method, task).exit_policy()

    def trace(key: RunKey) -> None:
        from bench.runs.train_run import trace_tests  # slow to import, and rarely needed

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
