"""Download what a profile takes from the Hub, so that its jobs need no network."""

from __future__ import annotations

from collections.abc import Iterator

from bench.context import data_survey
from bench.encoder import backbones
from bench.method import contestant
from bench.runs.plan import runs
from bench.settings import Settings
from bench.tasks.catalogue import task as task_named


def fetch(settings: Settings) -> Iterator[str]:
    """Download text and checkpoints into the Hub's caches and yield a line for each.

    Folders and packages are only read. Jobs then run with HF_HUB_OFFLINE=1.

    Raises:
        UserError: where a text or checkpoint is not available.
    """
    backbone = settings.backbone
    yield f"checkpoint {backbone.name}: {backbones.digest(backbone.name, backbone.revision)[:12]}"
    methods = [
        contestant(settings, run.key.method, run.key.task).checkpoints(run.key.variant) for run in runs(settings)
    ]
    for name in dict.fromkeys(name for names in methods for name in names):
        yield f"checkpoint {name}: {backbones.digest(name)[:12]}"
    for task in settings.tasks:
        text = data_survey(settings, task_named(task, settings.own_tasks))
        sizes = ", ".join(f"{split} {count}" for split, count in text.sizes.items())
        yield f"text {task} ({settings.source_of(task)}): {sizes}; {text.fingerprint}"
    yield "everything is on this machine; run the workflow with HF_HUB_OFFLINE=1 where there is no network"
