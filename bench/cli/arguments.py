"""The application, its help panels, and the arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bench import settings as settings_file
from bench.errors import UserError
from bench.names import LARGEST_SEED
from bench.settings import Settings

app = typer.Typer(
    name="costeff",
    help="Benchmark and ablation suite for compressing and accelerating text encoders.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
_MOST = 10**6
"""Largest number of cores, speed-up, and seconds between two lines of `costeff progress`."""
EVERYDAY, STAGES = "Everyday", "Stages of the workflow"


def profiles(incomplete: str = "") -> list[str]:
    """Return the names of the packaged profiles and of YAML files here, for completion."""
    names = (*settings_file.packaged_profiles(), *map(str, Path().glob("*.y*ml")))
    return sorted(name for name in names if name.startswith(incomplete))


def _named(context: typer.Context) -> Settings | None:
    """Return the settings of the profile on an unfinished command line; None if it cannot be loaded."""
    given = context.params.get("config") or context.params.get("profile") or "sketch"
    try:
        return settings_file.load(given)
    except UserError:
        return None


def tasks(context: typer.Context, incomplete: str = "") -> list[str]:
    """Return the tasks of the profile, for completion."""
    found = _named(context)
    return [name for name in (found.tasks if found else ()) if name.startswith(incomplete)]


def contestants(context: typer.Context, incomplete: str = "") -> list[str]:
    """Return the contestants of the profile, for completion."""
    found = _named(context)
    return [name for name in (found.contestants if found else ()) if name.startswith(incomplete)]


SETTINGS = "Profile: a YAML file, or the name of a packaged profile. Default: sketch."
Profile = Annotated[Path | None, typer.Argument(help=SETTINGS, autocompletion=profiles)]
Config = Annotated[Path | None, typer.Option("--config", help=SETTINGS, autocompletion=profiles)]
Task = Annotated[str, typer.Argument(help="Task of the profile, such as sst2.", autocompletion=tasks)]
Contestant = Annotated[str, typer.Argument(help="Contestant of the profile.", autocompletion=contestants)]
Layout = Annotated[str, typer.Option(help="Layout of the encoder: bert or modernbert.")]
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
    return settings_file.load(one_profile(profile, config) or "sketch")


def one_profile(profile: Path | None, config: Path | None) -> Path | None:
    """Return the profile that is given as an argument or with `--config`, if any.

    Raises:
        UserError: If both are given.
    """
    if profile and config:
        raise UserError(f"two profiles are given, {profile} and --config {config}; name one")
    return profile or config


def positive(context: typer.Context, parameter: typer.CallbackParam, value: Any) -> Any:
    """Return the value of an option.

    Raises:
        UserError: If a number is not above 0, too large or NaN.
    """
    for each in value if isinstance(value, list | tuple) else [value]:
        if each is not None and not 0 < each <= _MOST:
            raise UserError(f"--{parameter.name} {each}: a number above 0, and at most {_MOST:,}, is needed")
    return value


Cores = Annotated[
    int | None, typer.Option(callback=positive, help="Number of cores in the forecast. Default: all usable cores.")
]
Speedup = Annotated[float, typer.Option(callback=positive, help="Budget, as a FLOPs speed-up: its best point is used.")]
