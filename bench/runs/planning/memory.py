"""Memory that a job requests from a cluster: an upper bound, at most a few times its peak."""

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
"""Bytes of a process after its imports."""
CUDA = 3.0e9
"""Bytes of host memory that the CUDA libraries add."""
JOB = 1.0e9
"""Bytes of Snakemake's two processes on a node."""
PARAMETER = 28
"""Bytes per parameter: weights, gradient, Adam's two moments, best weights, a teacher, and the copy being saved."""
TOKEN = 250
"""Bytes per token while text is tokenized."""
LETTERS = 3.0
"""Lower bound of letters per token; English word pieces have four or five."""
BATCH = 32


def memory_mb(settings: Settings, key: RunKey, text: Survey) -> int:
    """Return the megabytes that the job of a run requests; `text` is the survey of its task."""
    shape = _shape(settings)
    longest = settings.data.of(key.task).max_length[len(task_named(key.task, settings.own_tasks).columns) - 1]
    tokens = {split: _tokens(text, split, longest) for split in text.sizes}
    kept = min(settings.training.kept_gigabytes * 1e9, _targets(shape, tokens["train"], text.sizes["train"]))
    needed = PROCESS + JOB + PARAMETER * shape.parameters() + TOKEN * sum(tokens.values())
    if wants_gpu(settings):  # models, batches and, where they fit, targets are on the GPU
        return round((needed + CUDA + kept) / 1e6)
    return round((needed + kept + _activations(shape, min(longest, _longest(text)))) / 1e6)


def latency_mb(settings: Settings, keys: Iterable[RunKey]) -> int:
    """Return the megabytes that the latency job requests; it holds all models of a task at once."""
    keys = list(keys)
    models = max(sum(key.task == task for key in keys) for task in settings.tasks)
    needed = PROCESS + JOB + CUDA * wants_gpu(settings) + (1 + models) * 4 * _shape(settings).parameters()
    return round(needed / 1e6)


def _shape(settings: Settings) -> Shape:
    return backbones.shape_of(settings.backbone.name, settings.backbone.revision, settings.backbone.layers)


def _tokens(text: Survey, split: str, longest: int) -> float:
    return min(text.letters[split] / LETTERS + 3 * text.sizes[split], longest * text.sizes[split])


def _longest(text: Survey) -> float:
    """Return about the number of tokens of the longest example."""
    return text.longest / LETTERS + 3


def _targets(shape: Shape, tokens: float, examples: int) -> float:
    """Return the bytes of a teacher's hidden states and attention scores on the training text, in float32."""
    mean = tokens / max(1, examples)
    return 4 * (tokens * (shape.layers + 1) * shape.hidden + 2 * tokens * mean * sum(shape.heads))


def _activations(shape: Shape, length: float) -> float:
    """Return the bytes of activations that the backward pass needs, for a batch of the longest examples."""
    sizes = zip(shape.ffn, shape.heads, strict=True)
    inner = 3 if shape.layout == "bert" else 6  # neurons before and after each step, and of a gate
    return 4 * BATCH * length * sum(16 * shape.hidden + inner * ffn + 4 * heads * length for ffn, heads in sizes)
