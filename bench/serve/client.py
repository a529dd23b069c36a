"""The console script: a small process that hands on its command and reports a signal that ends it."""

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
"""The environment variable with the name of the server's abstract socket."""
_WAKE_ON_DEATH = 1  # PR_SET_PDEATHSIG of prctl.h
_running: list[Any] = []
_status: list[int] = []
"""The exit status of this process's command, after its end."""


def record_death(arguments: list[str], number: int) -> bool:
    """Report that a signal ended the command; for a run job of the workflow also record the run as failed.

    Args:
        arguments: the command's arguments.
        number: the signal; 9 (SIGKILL) is usually sent by the kernel for a lack of memory.

    Returns:
        Whether a failed run was recorded.
    """
    reason = f"ended by {signal.Signals(number).name}" + (
        "; a likely cause is a lack of memory" if number == signal.SIGKILL else ""
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
    """Run the command line and exit with its status, or with 128 + n where signal n ended it."""
    command = command or _command
    if sys.platform != "linux":
        return command()
    if sys.argv[1:] == ["serve"]:
        from bench.serve.server import serve  # imports much

        serve(command)
    if sys.argv[1:2] == ["workflow"]:
        return command()  # becomes Snakemake, which handles signals itself
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # only the command shows a traceback
    code = _by_server(os.environ.get(SERVER, ""))
    if code is None:
        code = _by_child(command)
    if code < 0:
        code = 0 if record_death(sys.argv[1:], -code) else 128 - code
    sys.exit(code)


def start() -> None:
    """Start a server for the jobs of this process, which ends with it, unless there is one or none can run."""
    import shutil
    import subprocess

    program = shutil.which("costeff")
    if sys.platform != "linux" or program is None or _running:
        return
    server = subprocess.Popen(
        [program, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    _running.append(server)  # the server ends when this pipe is closed
    assert server.stdout
    os.environ[SERVER] = server.stdout.readline().strip()


def _command() -> None:
    from bench.cli import main as command_line

    command_line()


def installation() -> str:
    """Return a checksum of this installation's place."""
    return f"{zlib.crc32(f'{sys.prefix} {__file__}'.encode()):08x}"


def same_user(peer: socket.socket) -> bool:
    """Return whether the other end of a socket belongs to the user of this process."""
    _, user, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return user == os.getuid()


def _by_child(command: Callable[[], None]) -> int:
    """Run the command in a child that ends with this process; return its exit status (-n: ended by signal n)."""
    parent = os.getpid()
    child = os.fork()
    if not child:
        end_with(parent)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        leave_at_once()
        run_to_its_end(command)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def leave_at_once() -> None:
    """Let this process end without freeing its modules, which takes half a second.

    Call this before libraries are imported, so that their own exit functions run first.
    """

    def leave() -> None:
        if _status:
            with suppress(OSError):  # a closed pipe
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(_status[0])

    atexit.register(leave)


def run_to_its_end(command: Callable[[], None]) -> NoReturn:
    """Run the command and end this process with its exit status."""
    try:
        command()
        sys.exit()
    except SystemExit as end:
        _status.append(end.code if isinstance(end.code, int) else 1 if end.code else 0)
        raise


def end_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends."""
    import ctypes

    ctypes.CDLL(None).prctl(_WAKE_ON_DEATH, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _by_server(name: str) -> int | None:
    """Run the command in the server `name`; return its status as `_by_child` does, None where it was declined."""
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
    """Return what a process inherits from the one that starts it, except open files."""
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
