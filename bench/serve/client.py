"""The console script: a light process that hands its command on, and says so where a signal ended it."""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import struct
import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

SERVER = "COSTEFF_SERVER"
"""The environment variable that names the server's socket (an abstract one: it goes with the server)."""
_WAKE_ON_DEATH = 1  # PR_SET_PDEATHSIG of prctl.h
_running: list[Any] = []
_status: list[int] = []
"""The exit status of this process's command, once it has ended."""


def record_death(arguments: list[str], number: int) -> bool:
    """Says that a signal ended the command (9 where the kernel needed its memory); whether a result now says it too.

    It does for a job of the workflow that was to make a run: a failure is a row, whatever it was.
    """
    reason = f"ended by {signal.Signals(number).name}" + (
        "; was there memory enough?" if number == signal.SIGKILL else ""
    )
    print(f"costeff: `costeff {' '.join(arguments)}` was {reason}", file=sys.stderr)
    if arguments[:1] != ["run"] or "--as-job" not in arguments:
        return False
    import argparse
    from pathlib import Path

    from bench.settings import load
    from bench.store import RunKey, record_failure

    parser = argparse.ArgumentParser()
    for name in ("task", "method", "variant"):
        parser.add_argument(name)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--as-job", action="store_true")
    run = parser.parse_args(arguments[1:])
    key = RunKey(run.task, run.method, run.variant, run.seed)
    record_failure(load(run.config), key, reason, again=True)
    return True


def main(command: Callable[[], None] | None = None) -> None:
    """The console script: runs the command line and exits as it does, with 128 + n where signal n ended it."""
    command = command or _command
    if sys.platform != "linux":
        return command()
    if sys.argv[1:] == ["serve"]:
        from bench.serve.server import serve  # not light

        serve(command)
    if sys.argv[1:2] == ["workflow"]:
        return command()  # becomes Snakemake, which has its own ways with signals
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the command has a traceback to show, this process has not
    code = _by_server(os.environ.get(SERVER, ""))
    if code is None:
        code = _by_child(command)
    if code < 0:
        code = 0 if record_death(sys.argv[1:], -code) else 128 - code
    sys.exit(code)


def start() -> None:
    """Starts the server of this process's jobs, with the `costeff` that they will find. It ends when this process ends.

    Does nothing where there is one already, or none can be had: commands then run as they do without.
    """
    import shutil
    import subprocess

    program = shutil.which("costeff")
    if sys.platform != "linux" or program is None or _running:
        return
    server = subprocess.Popen(
        [program, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    _running.append(server)  # its stdin stays open for as long as this process lives: the server waits for its end
    assert server.stdout
    os.environ[SERVER] = server.stdout.readline().strip()


def _command() -> None:
    from bench.cli import main as command_line

    command_line()


def installation() -> str:
    return f"{zlib.crc32(f'{sys.prefix} {__file__}'.encode()):08x}"


def same_user(peer: socket.socket) -> bool:
    _, user, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return user == os.getuid()


def _by_child(command: Callable[[], None]) -> int:
    """The exit status of the command in a child (-n: ended by signal n), which ends where this process does."""
    parent = os.getpid()
    child = os.fork()
    if not child:
        end_with(parent)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        leave_at_once()
        run_to_its_end(command)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def leave_at_once() -> None:
    """Spares this process the taking apart of what it will have imported, half a second that nobody needs.

    To be called before the libraries are there: what they ask for at the end then comes before.
    """

    def leave() -> None:
        if _status:
            with suppress(OSError):  # else Python tells of it
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(_status[0])

    atexit.register(leave)


def run_to_its_end(command: Callable[[], None]) -> NoReturn:
    """Runs the command and ends this process with its exit status."""
    try:
        command()
        sys.exit()
    except SystemExit as end:
        _status.append(end.code if isinstance(end.code, int) else 1 if end.code else 0)
        raise


def end_with(parent: int) -> None:
    """Has the kernel kill this process as soon as its parent is gone."""
    import ctypes

    ctypes.CDLL(None).prctl(_WAKE_ON_DEATH, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _by_server(name: str) -> int | None:
    """The exit status of the command in the server `name`, as of `_by_child`; None where it did not take it."""
    if not name.endswith(installation()):
        return None
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(f"\0{name}")
            if not same_user(server):
                return None
            request = json.dumps(_own_state()).encode()
            socket.send_fds(server, [struct.pack("i", len(request))], [0, 1, 2])
            server.sendall(request)
            if server.recv(1) != b"y":
                return None
        except OSError:
            return None
        status = server.makefile("rb").read(struct.calcsize("i"))
    if len(status) < struct.calcsize("i"):
        print("costeff: the server of this workflow ended before the command did; run it again", file=sys.stderr)
        return 1
    return int(struct.unpack("i", status)[0])


def _own_state() -> dict[str, Any]:
    """What a process is given by the one that starts it, apart from its open files."""
    import resource

    umask = os.umask(0)
    os.umask(umask)
    limits = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]
    return {
        "argv": sys.argv,
        "folder": os.getcwd(),  # noqa: PTH109
        "environment": dict(os.environ),
        "umask": umask,
        "niceness": os.getpriority(os.PRIO_PROCESS, 0),
        "processors": sorted(os.sched_getaffinity(0)),
        "limits": [(limit, resource.getrlimit(limit)) for limit in limits],
    }
