"""How much memory a job is to ask of a cluster: above what it takes at its peak, by no more than a few times."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from bench.context import wants_gpu
from bench.encoder import backbones
from bench.encoder.shape import Shape
from bench.tasks.catalogue import task as task_named

if TYPE_CHECKING:
    from bench.settings import Settings
    from bench.store import RunKey
    from bench.tasks.prepare import Survey

PROCESS = 0.9e9
"""A process that has imported everything."""
CUDA = 3.0e9
"""What the CUDA libraries take of the host's memory beside that."""
JOB = 1.0e9
"""Snakemake's two processes on a node, around the one that works."""
PARAMETER = 28
"""Bytes a parameter: weights, gradient, Adam's two moments, the best weights, a teacher, and a copy in being saved."""
TOKEN = 250
"""Bytes a token of the text: while it is tokenised; what is kept is less."""
LETTERS = 3.0
"""Letters a token, at least: word pieces of English have four or five, those of odd words fewer."""
BATCH = 32


def memory_mb(settings: Settings, key: RunKey, text: Survey) -> int:
    """Megabytes that the job of a run asks for; `text` is the survey of its task."""
    shape = _shape(settings)
    longest = settings.data.of(key.task).max_length[len(task_named(key.task, settings.own_tasks).columns) - 1]
    tokens = {split: _tokens(text, split, longest) for split in text.sizes}
    kept = min(settings.training.kept_gigabytes * 1e9, _targets(shape, tokens["train"], text.sizes["train"]))
    needed = PROCESS + JOB + PARAMETER * shape.parameters() + TOKEN * sum(tokens.values())
    if wants_gpu(settings):  # models, batches and, where they fit, targets lie on the GPU
        return round((needed + CUDA + kept) / 1e6)
    return round((needed + kept + _activations(shape, min(longest, _longest(text)))) / 1e6)


def latency_mb(settings: Settings, keys: Iterable[RunKey]) -> int:
    """Megabytes that the clock asks for: the models of a task lie side by side."""
    keys = list(keys)
    models = max(sum(key.task == task for key in keys) for task in settings.tasks)
    needed = PROCESS + JOB + CUDA * wants_gpu(settings) + (1 + models) * 4 * _shape(settings).parameters()
    return round(needed / 1e6)


def _shape(settings: Settings) -> Shape:
    return backbones.shape_of(settings.backbone.name, settings.backbone.revision)


def _tokens(text: Survey, split: str, longest: int) -> float:
    return min(text.letters[split] / LETTERS + 3 * text.sizes[split], longest * text.sizes[split])


def _longest(text: Survey) -> float:
    """Tokens of the longest example, roughly."""
    return text.longest / LETTERS + 3


def _targets(shape: Shape, tokens: float, examples: int) -> float:
    """Bytes of a teacher's hidden states and attention scores of the training text, in float32."""
    mean = tokens / max(1, examples)
    return 4 * (tokens * (shape.layers + 1) * shape.hidden + 2 * tokens * mean * sum(shape.heads))


def _activations(shape: Shape, length: float) -> float:
    """Bytes that a layer's backward pass needs of its forward pass, for a batch of the longest examples."""
    return (
        4
        * BATCH
        * length
        * sum(
            16 * shape.hidden + 3 * ffn + 4 * heads * length for ffn, heads in zip(shape.ffn, shape.heads, strict=True)
        )
    )
