"""Batches on their way to the device, each made ready while the one before it is worked on."""

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
    """The batches of a schedule, on `device`.

    For a GPU a thread pads and pins the next one meanwhile, and its copy waits for nothing. A CPU has no time to spare:
    there each is made when it is asked for.
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
    """`make` of every item, in order, one item ahead of what is asked for; an error comes where its item would."""
    with ThreadPoolExecutor(1) as worker:
        coming: Future[B] | None = None
        for item in items:
            ready, coming = coming, worker.submit(make, item)
            if ready is not None:
                yield ready.result()
        if coming is not None:
            yield coming.result()
