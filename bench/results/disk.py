"""Room on the disk: asked for before anything trains, and said in one line when it runs out."""

from __future__ import annotations

import errno
import shutil

from bench.encoder.backbones import shape_of
from bench.errors import UserError
from bench.plan import runs
from bench.results.store import run_folder
from bench.settings import Settings

# What safetensors says of it, then torch.save, of a large and of a small tensor.
_SIGNS = ("No space left on device", "PytorchStreamWriter failed writing", "] . unexpected pos")

KEPT = 0.81
"""What a run keeps as a share of the backbone's float32 weights: the mean over the sketch profile's 133 runs."""


def check_room(settings: Settings) -> str:
    """A line on the room that the runs to come need, and on what is free. Raises UserError where it lacks.

    Each run keeps a model, in float32 and smaller than the backbone or as large (`KEPT`); one in training also holds
    two checkpoints, of weights and Adam's two moments, and its best weights.
    """
    to_come = sum(not (run_folder(settings, run.key) / "points.parquet").is_file() for run in runs(settings))
    for study in settings.studies:
        for task in study.tasks:
            kept = len(list(settings.root.glob(f"runs/{task}/{study.method}/*/seed*/points.parquet")))
            to_come += max(0, study.generations * study.population - kept)
    model = 4 * shape_of(settings.backbone.name, settings.backbone.revision).parameters()
    needed = (KEPT * to_come + 2 * 3 + 1) * model if to_come else 0
    there = next(folder for folder in (settings.root.absolute(), *settings.root.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise UserError(
            f"results {settings.root}: the {to_come} runs to come need about {needed / 1e9:.1f} GB and "
            f"{free / 1e9:.1f} GB are free there; free some, or name a folder on a larger disk as `results`"
        )
    return f"disk: {to_come} runs to come need about {needed / 1e9:.1f} GB; {free / 1e9:.1f} GB are free"


def is_full(error: BaseException) -> bool:
    """Whether `error`, or what it came from, is a full disk; safetensors and torch have errors of their own."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    if any(sign in str(error) for sign in _SIGNS):
        return True
    source = error.__cause__ or error.__context__
    return source is not None and is_full(source)
