"""The server: forks a child for each command of a client and ends with the process that started it."""

from __future__ import annotations

import fcntl
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from bench.serve.client import SERVER, end_with, installation, leave_at_once, run_to_its_end, same_user

THREADS = {
    *("OMP_NUM_THREADS", "GOTO_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
    *("VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS"),
}
"""Variables that Snakemake sets to the number of a job's threads."""
MAY_DIFFER = THREADS | {
    *("CUDA_VISIBLE_DEVICES", "PATH", "PWD", "OLDPWD", "SHLVL", "_", "COLUMNS", "LINES", SERVER),
    *("TMPDIR", "TMP", "TEMP", "TEMPDIR"),
}
"""Variables that may differ: libraries read them when they are used, or the child sets them itself."""
PRELOADED = (
    "bench.cli",
    "bench.reporting.everything",
    "bench.runs.planning.checks",
    "bench.runs.collect",
    "bench.runs.train_run",
    "bench.runs.ratios",
    "bench.training.lease",
    "pyarrow.dataset",  # pandas imports it for its first table
    "sklearn.model_selection",
    "transformers.modeling_layers",
    "transformers.models.bert.modeling_bert",
    "transformers.models.bert.tokenization_bert",
)
"""Modules that the server imports; no contestants, which are small and may be edited or lie in the client's folder."""

_CUDA_CHECK = "PYTORCH_NVML_BASED_CUDA_CHECK"  # queries the driver without CUDA, which does not survive a fork


def serve(command: Callable[[], None]) -> NoReturn:
    """Print the name of the socket and serve until stdin, a pipe from the process that started this one, is closed.

    The command of each client runs in a child, which ends with its client.
    """
    leave_at_once()
    environment = dict(os.environ)
    os.environ |= dict.fromkeys({*THREADS, _CUDA_CHECK}, "1")
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(0, fcntl.F_SETFL, os.O_ASYNC)  # the pipe's end sends SIGIO, which ends this process at once
    with socket.socket(socket.AF_UNIX) as listener:
        name = f"costeff-{os.urandom(8).hex()}-{installation()}"
        listener.bind(f"\0{name}")
        listener.listen(1024)
        print(name, flush=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        _preload()
        client = _next_client(listener)
    _become(client, environment)
    run_to_its_end(command)


def _preload() -> None:
    """Import what commands need, and read the version of the suite.

    Raises:
        RuntimeError: where an import started a thread, which forked children would lack.
    """
    gc.disable()
    for module in PRELOADED:
        importlib.import_module(module)
    importlib.import_module("bench.provenance").suite_version()  # that of the imported code; children inherit it
    gc.freeze()
    gc.enable()
    tasks = [task for task in Path("/proc/self/task").iterdir() if task.name != str(os.getpid())]
    others = {(task / "comm").read_text().strip() for task in tasks} - {"jemalloc_bg_thd"}  # handles forks
    if others:
        raise RuntimeError(f"an import has started threads: {', '.join(sorted(others))}")


def _next_client(listener: socket.socket) -> socket.socket:
    """Fork a child for each client, without end; return in the child, with the connection to its client.

    When a client ends, its child and the child's process group are killed. Where no child can be made (limits on
    processes or memory), the connection is closed, and the client runs the command itself.
    """
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    server = os.getpid()
    clients: dict[int, Any] = {}  # file descriptor -> (connection, child)
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    poll.register(woken, select.POLLIN)
    while True:
        for ready, _ in poll.poll():
            if ready == listener.fileno():
                try:
                    client, _ = listener.accept()
                except OSError:
                    continue
                try:
                    child = os.fork() if same_user(client) else None
                except OSError:
                    child = None
                if child is None:
                    client.close()
                    continue
                if not child:
                    end_with(server)
                    os.setpgid(0, 0)
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    for other, _ in clients.values():
                        other.close()
                    os.close(woken)
                    os.close(wake)
                    return client
                clients[client.fileno()] = client, child
                poll.register(client, 0)  # only its end; the child reads its data
            elif ready == woken:
                os.read(woken, 4096)
                ended = dict(_ended())
                for file, (client, child) in list(clients.items()):
                    if child in ended:
                        with suppress(OSError):
                            client.sendall(struct.pack("i", ended[child]))
                        with suppress(KeyError):
                            poll.unregister(file)
                        del clients[file]
                        client.close()
            elif ready in clients:
                poll.unregister(ready)
                with suppress(OSError):
                    os.kill(clients[ready][1], signal.SIGKILL)
                    os.killpg(clients[ready][1], signal.SIGKILL)


def _ended() -> Iterator[tuple[int, int]]:
    """Yield the children that have ended, each with its exit status."""
    with suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            yield found[0], os.waitstatus_to_exitcode(found[1])


def _become(client: socket.socket, environment: dict[str, str]) -> None:
    """Take over the state of the client; end this process where that cannot equal a process of the client's own.

    Args:
        client: the connection.
        environment: the environment in which the server was started.
    """
    try:
        header, files, _, _ = socket.recv_fds(client, struct.calcsize("i"), 3)
        state = json.loads(client.makefile("rb").read(struct.unpack("i", header)[0]))
        own = state["environment"]
        # Imports may set variables: a client that has imported the same libraries has them too.
        if any(
            own.get(name) not in (environment.get(name), os.environ.get(name))
            for name in {*own, *environment} - MAY_DIFFER
        ):
            raise ValueError("a library may load differently")
        (threads,) = {int(own[name]) for name in THREADS & own.keys() | {"OMP_NUM_THREADS"}}
        _set_threads(threads)
        os.chdir(state["folder"])
        os.setpriority(os.PRIO_PROCESS, 0, state["niceness"])
        os.sched_setaffinity(0, state["processors"])
        for limit, values in state["limits"]:
            resource.setrlimit(limit, values)
        for file, number in zip(files, (0, 1, 2), strict=True):
            os.dup2(file, number)
            os.close(file)
    except (OSError, ValueError, KeyError, struct.error):
        os._exit(0)
    os.umask(state["umask"])
    for name in {*MAY_DIFFER, _CUDA_CHECK}:
        os.environ.pop(name, None)
    os.environ |= own
    sys.argv = state["argv"]
    tempfile.tempdir = None
    _draw_anew()
    client.sendall(b"y")
    client.close()


def _set_threads(number: int) -> None:
    """Set the number of threads as OMP_NUM_THREADS does when libraries are loaded."""
    import torch
    from threadpoolctl import threadpool_limits

    threadpool_limits(number)
    torch.set_num_threads(number)


def _draw_anew() -> None:
    """Seed random generators again, as in a new process; Python's `random` reseeds itself after a fork."""
    import numpy
    import torch

    numpy.random.seed()
    torch.default_generator.seed()
