"""Every command: help for each argument, a profile in either place, completion; doctor and tour."""

import os
import socket
import time
from pathlib import Path

import click
import pytest
import typer
from hypothesis import HealthCheck, given
from hypothesis import settings as budget
from hypothesis import strategies as st
from typer.testing import CliRunner

from bench.cli import app, arguments, machine
from bench.cli.workflow import QUIET, snakemake_command
from bench.errors import UserError

ROOT = Path(__file__).parents[2]


def commands(group: click.Group, prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], click.Command]:
    found = {}
    for name, command in group.commands.items():
        inner = commands(command, (*prefix, name)) if hasattr(command, "commands") else {(*prefix, name): command}
        found |= inner
    return found


COMMANDS = commands(typer.main.get_command(app))
WITH_PROFILE = [name for name, command in COMMANDS.items() if any(each.name == "config" for each in command.params)]


@pytest.mark.parametrize("name", COMMANDS, ids=" ".join)
def test_every_command_and_argument_has_help(name):
    command = COMMANDS[name]
    assert command.help and all(getattr(each, "help", None) for each in command.params if each.name != "help")


@pytest.mark.parametrize("name", WITH_PROFILE, ids=" ".join)
def test_a_profile_is_understood_in_either_place_and_not_in_both(name, tmp_path):
    """A file that is no profile is named in one line wherever it stands; two profiles are refused."""
    file = tmp_path / "mine.yaml"
    file.write_text("- no mapping\n")
    required = [each for each in COMMANDS[name].params if each.required]
    given = ["none.pkg:Mine" if name == ("conform",) else "sst2" for _ in required]
    for arguments_ in ([str(file)], ["--config", str(file)]):
        done = CliRunner().invoke(app, [*name, *given, *arguments_])
        assert isinstance(done.exception, UserError) and "mapping" in str(done.exception), (arguments_, done.output)
    done = CliRunner().invoke(app, [*name, *given, str(file), "--config", str(file)])
    assert "two profiles" in str(done.exception)
    assert list(tmp_path.iterdir()) == [file]


OPTIONS = st.lists(
    st.sampled_from([["--cores", "2"], ["-c2"], ["-j", "1"], ["-k"], ["--config", "seeds=[0,1]", "tasks=[rte]"], ["-n"],
                     ["--verbose"], ["--summary"], ["--forcerun", "report"], ["--config=seeds=[1]"]]),
    max_size=4, unique_by=tuple,
)  # fmt: skip


@budget(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(OPTIONS, st.sampled_from(["sketch", "tiny", str(ROOT / "config" / "paper.yaml")]), st.integers(0, 4))
def test_the_workflow_s_profile_may_stand_in_three_places(options, profile, place):
    """First, as --config PROFILE or as --config=PROFILE: the same command; Snakemake's --config is untouched."""
    flat = [each for option in options for each in option]
    expected = snakemake_command([profile, *flat])
    place = min(place, len(options))
    before, after = ([each for option in part for each in option] for part in (options[:place], options[place:]))
    assert snakemake_command([*before, "--config", profile, *after]) == expected
    assert snakemake_command([*before, f"--config={profile}", *after]) == expected
    command, quiet = expected
    assert all(each in command for each in flat)
    assert quiet == (not {"-n", "--verbose", "--summary"} & {*flat})
    sized = any(each.startswith(("--cores", "-c", "-j")) and not each.startswith("--config") for each in flat)
    assert ("all" in command) != sized


def test_the_workflow_without_a_profile_runs_the_default_one_or_snakemake_s():
    assert snakemake_command([]) == snakemake_command(["sketch"])
    command, _ = snakemake_command(["--configfile", "config/paper.yaml"])
    assert not [each for each in command if "sketch" in each]
    for two in (["sketch", "--config", "tiny"], ["--config", "tiny", "--config=sketch"]):
        with pytest.raises(UserError, match="two profiles"):
            snakemake_command(two)
    with pytest.raises(UserError, match="No such file"):
        snakemake_command(["nothing.yaml"])


def test_options_that_keep_snakemake_quiet_are_snakemake_s():
    from snakemake.cli import get_argument_parser

    known = {option for action in get_argument_parser()._actions for option in action.option_strings}
    assert known >= QUIET


@budget(deadline=None)
@given(st.sampled_from(["", "sk", "glue-", "x"]))
def test_completion_offers_names_with_the_given_prefix(begun):
    context = click.Context(click.Command("x"))
    context.params = {"config": "tiny"}
    for found, every in (
        (arguments.profiles(begun), arguments.profiles()),
        (arguments.tasks(context, begun), ["sst2", "stsb"]),
        (arguments.contestants(context, begun), arguments.contestants(context)),
    ):
        assert found == [name for name in every if name.startswith(begun)]
    assert {"sketch", "sketch-full", "paper"} <= {*arguments.profiles()}
    context.params = {"config": "no-such-profile"}
    assert arguments.tasks(context) == arguments.contestants(context) == []


@pytest.mark.parametrize("name", machine._committed())
def test_the_tour_shows_every_committed_page(name):
    done = CliRunner().invoke(app, ["tour", name, "--no-open"])
    page = Path(done.stdout.splitlines()[0].removeprefix("page:").strip())
    assert done.exit_code == 0 and page.is_file() and page.parent.name == name


def test_an_unknown_tour_names_the_committed_results():
    done = CliRunner().invoke(app, ["tour", "nothing"])
    assert "glue-laptop" in str(done.exception) and "\n" not in str(done.exception)


@pytest.mark.parametrize(("folder", "needed", "code"), [("/proc", 0, 1), (".", 0, 0), (".", float("inf"), 1)])
def test_the_doctor_s_exit_code_depends_on_whether_results_can_be_written(
    folder, needed, code, costeff, tmp_path, monkeypatch
):
    monkeypatch.setattr(machine, "FREE", needed)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = costeff("doctor", folder=tmp_path / folder)
    assert done.returncode == code, done.stdout
    assert ("<-" in done.stdout) == bool(code) and not list(tmp_path.iterdir())
    for name in ("python", "torch", "cores", "gpu", "disk", "writing", "hub"):
        assert f"\n{name} " in f"\n{done.stdout}"


@pytest.mark.parametrize("listens", [True, False])
def test_the_doctor_waits_a_limited_time_for_the_hub(listens, monkeypatch):
    """A server that accepts connections and never answers, and a port without a server."""
    for name in {name for name in os.environ if name.lower().endswith("_proxy")}:
        monkeypatch.delenv(name)
    monkeypatch.setattr(machine, "SECONDS", 0.5)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listens:
            server.listen()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        began = time.monotonic()
        assert "not reached" in machine._reaches_hub()
        assert time.monotonic() - began < machine.SECONDS + 30
