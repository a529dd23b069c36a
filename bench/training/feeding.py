"""Batches on the device, each prepared while the one before it is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from bench.tasks.batches import collate
from bench.tasks.examples import Examples

A = TypeVar("A")
B = TypeVar("B")


def feed(examples: Examples, schedule: Sequence[Sequence[int]], device: torch.device) -> Iterator[dict[str, Tensor]]:
    """Yield the batches of a schedule (positions of `examples`) on `device`.

    For a GPU a thread pads and pins the next batch in the meantime. On a CPU, where the thread would slow down the
    computation, each batch is made when it is needed.
    """

    def made(rows: Sequence[int]) -> dict[str, Tensor]:
        return collate([examples[i] for i in rows])

    def pinned(rows: Sequence[int]) -> dict[str, Tensor]:
        return {key: value.pin_memory() for key, value in made(rows).items()}

    if device.type != "cuda":
        yield from map(made, schedule)
    else:
        for batch in ahead(pinned, schedule):
            yield {key: value.to(device, non_blocking=True) for key, value in batch.items()}


def ahead(make: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """Yield `make(item)` for every item in order, computed one item ahead; exceptions are raised in turn."""
    with ThreadPoolExecutor(1) as worker:
        coming: Future[B] | None = None
        for item in items:
            ready, coming = coming, worker.submit(make, item)
            if ready is not None:
                yield ready.result()
        if coming is not None:
            yield coming.result()
