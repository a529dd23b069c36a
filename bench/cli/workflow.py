"""The command `workflow`: run Snakemake, and show one line of progress in place of its text."""

from __future__ import annotations

import argparse
import json
import os
import re
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Annotated, Any

import typer
import yaml

from bench import settings as settings_file
from bench.cli.arguments import EVERYDAY, SETTINGS, app, profiles
from bench.errors import UserError
from bench.names import FINDINGS, PROGRESS

QUIET = {
    *("--cores", "-c", "--jobs", "-j", "--config", "-C", "--configfile", "--configfiles", "--keep-going", "-k"),
    *("--profile", "--workflow-profile", "--executor", "-e", "--default-resources", "--resources", "--retries"),
    *("--rerun-incomplete", "--ri", "--forcerun", "-R", "--forceall", "-F", "--set-threads", "--set-resources"),
    *("--latency-wait", "-w", "--rerun-triggers", "--local-cores"),
}
"""Snakemake's options that change how a benchmark runs. With any other, Snakemake prints its own text."""
SECONDS = 30.0
"""Seconds between two lines where the output is not a terminal."""
_SIZED = re.compile(r"(-[cj]\d*|-e|--(cores|jobs|executor|profile|workflow-profile)(=.*)?)$")
_ERROR = re.compile(r"^(Error in rule (?P<rule>\w+)|.*(WorkflowError|Error|Exception)\b.*):?$")


@app.command(
    rich_help_panel=EVERYDAY,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
def workflow(
    profile: Annotated[str | None, typer.Argument(help=SETTINGS, autocompletion=profiles)] = None,
    options: Annotated[
        list[str] | None,
        typer.Argument(help="Options for Snakemake, such as --cores 8, -n or --config seeds=[0,1]."),
    ] = None,
) -> None:
    """Run the whole benchmark of a profile with Snakemake; an interrupted benchmark resumes.

    All cores are used without --cores. Results are written to `results/` in the current folder. One line shows the
    progress; the text of Snakemake goes to a file in `.snakemake/log`. With options such as -n or --verbose Snakemake
    prints its own text. The exit code is that of Snakemake.
    """
    command, quiet = snakemake_command([*([profile] if profile else []), *(options or [])])
    if not _can_cache():  # Snakemake fails with a traceback if it cannot write its cache
        os.environ["XDG_CACHE_HOME"] = str(Path(".snakemake", "cache").absolute())
    if not quiet:
        os.execv(command[0], command)
    sys.exit(run(command))


def snakemake_command(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """Return the command of Snakemake, and whether progress is shown in place of its text.

    Args:
        arguments: A profile, if any, and Snakemake's options. `--config PROFILE` names the profile too; `--config` with
            values that contain "=" is Snakemake's.

    Raises:
        UserError: If there are two profiles, or no such file.
    """
    options = list(arguments)
    named = [options.pop(0)] if options and not options[0].startswith("-") else []
    for place, option in reversed([*enumerate(options)]):
        value = option.removeprefix("--config=") if option.startswith("--config=") else None
        if option == "--config" and place + 1 < len(options):
            value = options[place + 1]
        if value and "=" not in value and not value.startswith("-"):
            named.append(value)
            del options[place : place + 1 + (option == "--config")]
    _check_changes(options)
    if len(named) > 1:
        raise UserError(f"two profiles are given, {named[0]} and {named[1]}; name one")
    own_file = any(re.match(r"--configfiles?(=|$)", option) for option in options)
    if named or not own_file:
        options.insert(0, f"--configfile={_file(named[0] if named else 'sketch')}")
    if not any(_SIZED.match(option) for option in options):
        options += ["--cores", "all"]
    plain = {re.sub(r"=.*|(?<=^-[cj])\d+$", "", option) for option in options if option.startswith("-")}
    snakefile = (settings_file.PACKAGED / "Snakefile").resolve()
    return [sys.executable, "-m", "snakemake", f"--snakefile={snakefile}", *options], plain <= QUIET


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


def _file(profile: str) -> Path:
    file = settings_file.profile_file(profile, Path(), "settings").absolute()
    if not file.is_file():
        own = ", ".join(settings_file.packaged_profiles())
        raise UserError(f"settings {profile}: No such file; name a YAML file, or a profile of the suite: {own}")
    return file


def _can_cache() -> bool:
    """Return whether the user's cache folder is writable."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return False
    return os.access(folder, os.W_OK)


def run(command: Sequence[str]) -> int:
    """Run Snakemake with its text in a file; show progress and failures, then what was found.

    Returns:
        The exit code of Snakemake, or 128 + n where signal n ended it.
    """
    log = Path(".snakemake", "log", time.strftime("costeff-%Y%m%d-%H%M%S.log"))
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        text = log.open("w", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{log} cannot be written ({error.strerror}); change to a folder that you can write to"
        ) from None
    began, display = time.monotonic(), Display(sys.stdout)
    display.say(f"log of Snakemake: {log}")
    display.progress("making the plan")
    read, write = os.pipe()
    with text, os.fdopen(read, "rb", buffering=0) as pipe:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=text, stderr=text, pass_fds=[write], start_new_session=True,
            env=os.environ | {PROGRESS: str(write)},
        )  # fmt: skip
        os.close(write)
        stopped = _forward_signals(child, display)
        root = _show(pipe, log, display)
        code = child.wait()
    display.clear()
    for line in _ending(code, root, log, time.monotonic() - began, stopped=bool(stopped)):
        display.say(line)
    return code if code >= 0 else 128 - code


class Display:
    """A line of progress that is renewed on a terminal, and printed now and then elsewhere."""

    def __init__(self, out: IO[str]) -> None:
        self._out, self._terminal = out, out.isatty()
        self._last, self._line = -SECONDS, ""

    def say(self, line: str) -> None:
        """Print a line that stays."""
        shown = self._line
        self.clear()
        self._write(line + "\n")
        if self._terminal and shown:
            self.progress(shown)

    def progress(self, line: str) -> None:
        """Show the line of progress."""
        if self._terminal and line != self._line:
            width = shutil.get_terminal_size().columns - 1
            self._write(f"\r\x1b[K{line[:width]}")
            self._line = line
        elif not self._terminal and line != self._line and time.monotonic() - self._last >= SECONDS:
            self._last = time.monotonic()
            self._write(line + "\n")
            self._line = line

    def clear(self) -> None:
        """Remove the line of progress from a terminal."""
        if self._terminal and self._line:
            self._write("\r\x1b[K")
            self._line = ""

    def _write(self, text: str) -> None:
        try:
            self._out.write(text)
            self._out.flush()
        except BrokenPipeError:  # the reader has gone; the benchmark goes on
            self._out = open(os.devnull, "w")  # noqa: PTH123, SIM115


def _show(pipe: IO[bytes], log: Path, display: Display) -> Path | None:
    """Show what the workflow reports until its pipe closes; return the folder of results, if it was reported."""
    root, rest, errors = None, b"", _errors(log)
    with selectors.DefaultSelector() as ready:
        ready.register(pipe, selectors.EVENT_READ)
        while True:
            chunk = pipe.read(65536) if ready.select(timeout=1) else None
            for line in errors:
                if line is None:
                    break
                display.say(line)
            if chunk == b"":
                return root
            *lines, rest = (rest + (chunk or b"")).split(b"\n")
            for message in map(json.loads, lines):
                if "root" in message:
                    root = Path(message["root"]).absolute()
                for failure in message.get("failures", ()):
                    display.say(f"failed: {failure}")
                if "progress" in message:
                    display.progress(message["progress"])


def _errors(log: Path) -> Iterator[str | None]:
    """Yield a line for each rule that fails, from Snakemake's text; None wherever the text ends for now."""
    with log.open(encoding="utf-8", errors="replace") as text:
        while True:
            line = text.readline()
            if not line:
                yield None
            elif (found := _ERROR.match(line.rstrip())) and found["rule"]:
                yield f"failed: rule {found['rule']}; see {log}"


def _forward_signals(child: subprocess.Popen[Any], display: Display) -> list[int]:
    """Pass Ctrl-C and SIGTERM on to Snakemake; return a list that holds the signals received."""
    received: list[int] = []

    def stop(number: int, frame: Any) -> None:
        received.append(number)
        if number == signal.SIGTERM:  # Snakemake waits for the running jobs
            child.send_signal(number)
        else:  # as a terminal does, to all processes of the workflow
            display.say(
                "stopping; the run can be resumed. Press Ctrl-C again to end all processes at once"
                if len(received) == 1
                else "ending all processes"
            )
            os.killpg(child.pid, signal.SIGINT if len(received) == 1 else signal.SIGKILL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    return received


def _ending(code: int, root: Path | None, log: Path, seconds: float, *, stopped: bool) -> Iterator[str]:
    """Yield the last lines: the page, what was found and what to try next; or why the workflow ended."""
    page = root / "index.html" if root else None
    if stopped:
        yield "stopped; run the same command to resume"
    elif code and not root:
        yield from _reason(log)
    elif code:
        yield f"not complete (exit code {code}): the failures are named above and on the page; see {log}"
    else:
        yield f"done in {seconds / 60:.0f} min" if seconds >= 90 else f"done in {seconds:.0f} s"
    if root and page and page.is_file() and not stopped:
        findings = root / FINDINGS
        yield from findings.read_text(encoding="utf-8").splitlines() if findings.is_file() else ()
        yield f"page:  {page}"
        file = root / "settings.yaml"
        settings = settings_file.load(file)
        others = [name for name in settings.contestants if name != settings.reference]
        if one := settings.comparison.primary.contestant or next(iter(others), None):
            yield f"next:  costeff compare {one} --config {shlex.quote(str(file))}    (verdicts with intervals)"
        yield "also:  costeff tour    (committed results on GLUE)"


def _reason(log: Path) -> Iterator[str]:
    """Yield the error with which Snakemake ended before the first job."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    first = next((place for place, line in enumerate(lines) if _ERROR.match(line)), max(0, len(lines) - 5))
    yield from (line for line in lines[first : first + 5] if line.strip())
