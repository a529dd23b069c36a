"""What `costeff workflow` shows while another process reports to it, and how it ends."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from bench.cli import workflow
from bench.cli.workflow import Display, run
from bench.names import FINDINGS, PROGRESS
from bench.settings import load

REPORTER = f"""
import json, os, signal, sys, time
pipe = os.fdopen(int(os.environ["{PROGRESS}"]), "w")
def send(**message):
    pipe.write(json.dumps(message) + chr(10)); pipe.flush()
"""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


LINES = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=60)


@budget(deadline=None)
@given(st.lists(st.tuples(st.booleans(), LINES), min_size=1, max_size=12))
def test_messages_stay_and_progress_is_one_line(events):
    """On a terminal each message ends in a newline, and only the last line of the progress remains."""
    out = Terminal()
    display = Display(out)
    for stays, line in events:
        (display.say if stays else display.progress)(line)
    display.clear()
    written = out.getvalue()
    assert written.count("\n") == sum(stays for stays, _ in events)
    rows = [row.rpartition("\x1b[K")[2] for row in written.split("\n")]
    assert rows[:-1] == [line for stays, line in events if stays] and rows[-1] in ("", *[events[-1][1]] * events[-1][0])


@budget(deadline=None)
@given(st.lists(LINES, min_size=1, max_size=20), st.lists(st.floats(0, 60), min_size=20, max_size=20))
def test_without_a_terminal_progress_is_printed_every_half_minute_at_most(lines, pauses):
    out, now = io.StringIO(), [0.0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workflow.time, "monotonic", lambda: now[0])
        display = Display(out)
        times = []
        for line, pause in zip(lines, pauses, strict=False):
            before = out.getvalue()
            display.progress(line)
            if out.getvalue() != before:
                times.append(now[0])
            now[0] += pause
    assert "\r" not in out.getvalue() and all(line in lines for line in out.getvalue().splitlines())
    assert all(later - sooner >= workflow.SECONDS for sooner, later in pairwise(times))


def ended(script: str, folder: Path, monkeypatch, capsys) -> tuple[int, list[str]]:
    monkeypatch.chdir(folder)
    code = run([sys.executable, "-c", REPORTER + script])
    return code, capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("code", [0, 1, 2, 77])
def test_the_exit_code_is_the_one_of_the_process(code, tmp_path, monkeypatch, capsys):
    assert ended(f"send(root='x'); sys.exit({code})", tmp_path, monkeypatch, capsys)[0] == code


def test_a_process_that_is_killed_ends_with_128_and_its_signal(tmp_path, monkeypatch, capsys):
    assert ended("os.kill(os.getpid(), signal.SIGKILL)", tmp_path, monkeypatch, capsys)[0] == 128 + signal.SIGKILL


def test_its_text_goes_to_a_file_and_failures_are_shown_at_once(tmp_path, monkeypatch, capsys):
    """The process waits until both failures are printed; the file `shown` counts them."""
    say = Display.say

    def noted(self: Display, line: str) -> None:
        say(self, line)
        if line.startswith("failed: "):
            with (tmp_path / "shown").open("a") as file:
                file.write("x")

    monkeypatch.setattr(Display, "say", noted)
    script = (
        "print('text of Snakemake', flush=True); send(root='r', progress='1 of 2 runs')\n"
        "send(failures=['sst2/mine/full/seed0: KeyError: 1']); print('Error in rule report:', flush=True)\n"
        "until = time.monotonic() + 60\n"
        "while not (os.path.exists('shown') and os.path.getsize('shown') == 2):\n"
        "    if time.monotonic() > until: sys.exit(2)\n"
        "    time.sleep(0.01)\n"
        "print('more', flush=True); sys.exit(1)"
    )
    code, lines = ended(script, tmp_path, monkeypatch, capsys)
    [log] = (tmp_path / ".snakemake" / "log").glob("costeff-*.log")
    assert code == 1 and "text of Snakemake" in log.read_text() and not any("text of" in line for line in lines)
    failed = sorted(line for line in lines if line.startswith("failed: "))  # they come from two pipes
    assert len(failed) == 2 and "rule report" in failed[0] and "KeyError" in failed[1]


def test_an_error_before_the_first_job_is_shown(tmp_path, monkeypatch, capsys):
    script = (
        "print('chatter'); print('WorkflowError in file x, line 1:'); print('settings: tasks: no such'); sys.exit(1)"
    )
    code, lines = ended(script, tmp_path, monkeypatch, capsys)
    assert code == 1 and "settings: tasks: no such" in lines and "chatter" not in lines


def test_the_page_and_the_findings_come_last(tmp_path, monkeypatch, capsys):
    root = tmp_path / "with a space"
    root.mkdir()
    (root / "index.html").touch()
    (root / FINDINGS).write_text("one\ntwo\nthree\n")
    settings = load("conform", {"contestants": {"costeff": None, "search": None}}).model_dump(mode="json")
    (root / "settings.yaml").write_text(yaml.safe_dump(settings, sort_keys=True))
    code, lines = ended(f"send(root={str(root)!r})", tmp_path, monkeypatch, capsys)
    place = lines.index("one")
    assert code == 0 and lines[place : place + 3] == ["one", "two", "three"]
    assert lines[place + 3] == f"page:  {root / 'index.html'}"
    one = min(name for name in settings["contestants"] if name != "teacher")
    assert lines[place + 4].startswith(f"next:  costeff compare {one} ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_passed_on_once_and_the_end_is_awaited(number, tmp_path):
    """The process counts the signals, tidies up and ends on its own; only then does the command end."""
    script = REPORTER + (
        "got = []\n"
        "for each in (signal.SIGINT, signal.SIGTERM): signal.signal(each, lambda n, f: got.append(int(n)))\n"
        "send(root='x', failures=['ready'])\n"
        "while not got: time.sleep(0.05)\n"
        "time.sleep(0.5); open('got', 'w').write(json.dumps(got)); sys.exit(1)"
    )
    starter = f"import sys; from bench.cli.workflow import run; sys.exit(run([sys.executable, '-c', {script!r}]))"
    path = str(Path(__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, "-c", starter], cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, text=True,
        stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert process.stdout
    while "ready" not in process.stdout.readline():
        assert process.poll() is None
    os.killpg(process.pid, number)  # as a terminal does
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 1 and json.loads((tmp_path / "got").read_text()) == [number]
    assert "run the same command to resume" in said


def test_the_process_stops_if_the_command_is_killed(tmp_path):
    """The thread that reports writes to a pipe without a reader."""
    path = str(Path(__file__).parents[2])
    child = (
        "import os, time, types\nfrom bench.names import PROGRESS\nfrom bench.runs.planning import progress\n"
        "progress.EVERY = 0.1\n"
        "source = types.SimpleNamespace(failures=lambda: [], line=lambda: 'x')\n"
        "pipe = os.fdopen(int(os.environ[PROGRESS]), 'w')\n"
        "import threading\n"
        "threading.Thread(target=progress._report, args=(pipe, types.SimpleNamespace(root='r'), source)).start()\n"
        "open('pid', 'w').write(str(os.getpid()))\ntime.sleep(600)"
    )
    starter = f"import sys; from bench.cli.workflow import run; sys.exit(run([sys.executable, '-c', {child!r}]))"
    process = subprocess.Popen([sys.executable, "-c", starter], cwd=tmp_path, env=os.environ | {"PYTHONPATH": path})
    file, until = tmp_path / "pid", time.monotonic() + 300
    while not (file.is_file() and file.read_text()):
        assert time.monotonic() < until
        time.sleep(0.1)
    process.kill()
    process.wait()
    number = int(file.read_text())
    while Path(f"/proc/{number}").exists() and "zombie" not in Path(f"/proc/{number}/status").read_text():
        assert time.monotonic() < until
        time.sleep(0.1)
