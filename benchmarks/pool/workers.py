"""Processes that each make one run after another."""

from __future__ import annotations

import gc
import multiprocessing
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

import torch

from bench.runs.identity import Identities
from bench.runs.train_run import produce, reason_of
from bench.settings import Settings, load
from bench.store import RunKey

ENDED = "its process ended"
_SPAWN = multiprocessing.get_context("spawn")


def spoiled(reason: str) -> bool:
    """Return whether a failed run leaves its process unusable or short of memory; another attempt may succeed."""
    return any(words in reason for words in (ENDED, "CUDA error", "out of memory"))


@dataclass
class Workers:
    """A fixed number of processes. One that ends, or that a run has spoiled, is replaced; the others are not affected.

    Attributes:
        count: Number of processes.
        profile: Path of the profile.
        overrides: Settings that replace those of the profile.
        lost: Number of processes that were replaced.
    """

    count: int
    profile: str
    overrides: dict[str, Any]
    lost: int = 0
    _processes: dict[Connection, SpawnProcess] = field(default_factory=dict)
    _busy: dict[Connection, RunKey] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for _ in range(self.count):
            self._start()

    @property
    def idle(self) -> int:
        """Number of processes without a run."""
        return self.count - len(self._busy)

    def give(self, key: RunKey) -> None:
        """Let an idle process make a run."""
        connection = next(each for each in self._processes if each not in self._busy)
        self._busy[connection] = key
        with suppress(OSError):  # the process has ended, which `ended` reports
            connection.send(key)

    def ended(self, seconds: float) -> list[tuple[RunKey, str]]:
        """Wait until a run has ended; return all that have, each with the reason of its failure or "".

        Args:
            seconds: Seconds to wait at most.
        """
        found = []
        for connection in wait(list(self._busy), seconds):
            assert isinstance(connection, Connection)
            key = self._busy.pop(connection)
            try:
                reason = connection.recv()
            except (EOFError, OSError):
                self._processes[connection].join(5)
                reason = f"{ENDED} (exit code {self._processes[connection].exitcode})"
            if spoiled(reason):
                self._stop(connection)
                self._start()
                self.lost += 1
            found.append((key, reason))
        return found

    def stop(self) -> None:
        """End all processes, and the runs that they make."""
        for connection in list(self._processes):
            self._stop(connection)
        self._busy.clear()

    def _start(self) -> None:
        ours, theirs = _SPAWN.Pipe()
        process = _SPAWN.Process(target=_serve, args=(theirs, self.profile, self.overrides), daemon=True)
        process.start()
        theirs.close()  # so that the end of the process closes the pipe
        self._processes[ours] = process

    def _stop(self, connection: Connection) -> None:
        process = self._processes.pop(connection)
        process.kill()
        process.join(5)
        connection.close()


def _serve(connection: Connection, profile: str, overrides: dict[str, Any]) -> None:
    """Make the runs that `connection` names, until it is closed."""
    settings = load(profile, overrides)
    identities = Identities(settings)
    if settings.training.device != "cpu":
        torch.backends.cuda.enable_cudnn_sdp(False)  # cuDNN plans its attention anew for each length of text
    while True:
        try:
            key = connection.recv()
        except EOFError:
            return
        try:
            facts = identities.recorded(key)
            reason = "" if facts and facts["status"] == "ok" else _make(settings, key)
        except Exception as error:
            reason = reason_of(error)
        connection.send(reason)


def _make(settings: Settings, key: RunKey) -> str:
    """Make a run; return why it failed, or ""."""
    reason = produce(settings, key)
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()  # other processes share the GPU
    return reason
