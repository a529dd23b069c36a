"""The identity of a run: a hash of all inputs that determine its result.

An existing run replaces a planned one if their identities are equal. The identity is stored with the run and its
checkpoints, is a parameter of the workflow's job, and is compared when results are merged. Device, arithmetic and
threads are recorded too (`where`), but are not part of it: they affect only the last digits of the numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.context import data_survey, machine_of, pick_device
from bench.encoder import backbones
from bench.errors import UserError
from bench.method import contestant
from bench.provenance import identity_of
from bench.store import read_facts, run_folder
from bench.tasks.catalogue import task as task_named

if TYPE_CHECKING:
    from bench.settings import Settings
    from bench.store import RunKey
    from bench.tasks.prepare import Survey

VERSION = 3
"""Version of training, tracing and cost counting; raise it when the same settings give other numbers."""


@dataclass(frozen=True)
class Identity:
    """The inputs that determine the result of a run.

    Attributes:
        inputs: The inputs as nested plain values. `run.json` stores them under the key `asked`.
    """

    inputs: dict[str, Any]

    @property
    def hash(self) -> str:
        """Hash of the inputs, 16 hexadecimal digits. Runs with equal hashes are interchangeable."""
        return identity_of(self.inputs)

    def difference(self, other: dict[str, Any]) -> str:
        """Describe the first input in which `other` differs."""
        return next(_differences(other, self.inputs), "no recorded input")


class Identities:
    """The identities of the runs of a profile. Data and identities are computed once and cached."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._known: dict[RunKey, Identity] = {}
        self._texts: dict[tuple[str, int], Survey] = {}

    def of(self, key: RunKey) -> Identity:
        """Return the identity of a run.

        Raises:
            UserError: If the data or a checkpoint cannot be read.
        """
        if key not in self._known:
            self._known[key] = Identity(self._inputs(key))
        return self._known[key]

    def recorded(self, key: RunKey) -> dict[str, Any] | None:
        """Return the content of a run's run.json if it has the planned identity, else None. The run may have failed."""
        path = run_folder(self.settings, key) / "run.json"
        try:
            facts = read_facts(path) if path.is_file() else {}
            return facts if facts and facts["identity"] == self.of(key).hash else None
        except (UserError, KeyError):
            return None

    def text(self, task: str, seed: int) -> Survey:
        """Return the fingerprint and split sizes of the data of a task and seed.

        Raises:
            UserError: If the data cannot be read.
        """
        if (task, seed) not in self._texts:
            known = task_named(task, self.settings.own_tasks)
            self._texts[task, seed] = data_survey(self.settings, known, seed)
        return self._texts[task, seed]

    def _inputs(self, key: RunKey) -> dict[str, Any]:
        settings, entry = self.settings, self.settings.contestants[key.method]
        method = contestant(settings, key.method, key.task)
        data, backbone, text = settings.data.of(key.task), settings.backbone, self.text(key.task, key.seed)
        inputs = {
            "suite": VERSION,
            "task": key.task,
            "variant": key.variant,
            "seed": key.seed,
            "method": {
                "class": entry.method,
                "version": method.version,
                "options": method.relevant_options(key.variant),
            },
            "selection": settings.selection,
            "data": {
                "fingerprint": text.fingerprint,
                "reported": text.reported,
                "max_length": data.max_length[len(method.task.columns) - 1],
            },
            "backbone": {
                "digest": backbones.digest(backbone.name, backbone.revision),
                "tokenizer": backbones.tokenizer_digest(backbone.name, backbone.revision),
                "pooling": backbone.pooling,
                **({"layers": backbone.layers} if backbone.layers else {}),
            },
            "checkpoints": {name: backbones.digest(name) for name in method.checkpoints(key.variant)},
            "needs": {_named(need, key): self.of(need).hash for need in method.needed(key)},
        }
        if key.task in settings.own_tasks:  # GLUE tasks are fixed by their names
            own: dict[str, Any] = {"metrics": list(method.task.metrics[:1]), "labels": list(method.task.labels)}
            if method.task.regression:  # training rescales labels from this range
                own["range"] = list(method.task.range)
            if group := settings.own_tasks[key.task].group:  # folds of the training rows do not divide a group
                own["group"] = group
            inputs["own"] = own
        inputs["restarts"] = settings.training.restarts
        if budget := settings.training.budget:
            steps = budget.of(key.task)
            inputs["budget"] = {"steps": steps, "batch_size": budget.batch_size, "share": entry.share}
        if settings.training.precision != "auto":  # "auto" depends on the machine, see `where`
            inputs["precision"] = settings.training.precision
        if settings.training.tf32:
            inputs["tf32"] = True
        return inputs


def _named(need: RunKey, key: RunKey) -> str:
    """Return the name of a needed run among those of the run `key`."""
    return f"{need.method}/{need.variant}" if need.task == key.task else str(need.path)


def where(settings: Settings) -> dict[str, Any]:
    """Return the conditions of computing on this machine, which affect the last digits of the numbers."""
    device = pick_device(settings)
    machine = machine_of(settings, device)
    return {
        "device": device.type,
        "precision": ("bfloat16 products" if machine.bfloat16 else "float32") + ", TF32" * machine.tf32,
        "threads": settings.training.threads,
        "eval_batch_size": settings.training.eval_batch_size,
        "kept_gigabytes": settings.training.kept_gigabytes,
    }


def _differences(kept: Any, inputs: Any, path: str = "") -> Iterator[str]:
    if isinstance(kept, dict) and isinstance(inputs, dict):
        for key in sorted({*kept, *inputs}):
            yield from _differences(kept.get(key), inputs.get(key), f"{path}.{key}" if path else key)
    elif json.dumps(kept) != json.dumps(inputs):
        yield f"{path} was {_short(kept)}, now {_short(inputs)}"


def _short(value: Any) -> str:
    text = "not there" if value is None else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
