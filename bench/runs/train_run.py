"""Make one run: train a variant, trace every split and count its costs."""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from filelock import AcquireReturnProxy, FileLock, Timeout
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_log

from bench.context import Context, load_model
from bench.encoder.saved import has_weights
from bench.errors import NeedFailed, NoStages, TrainingFailed, UserError, is_disk_full
from bench.measuring import counting
from bench.measuring.recording import record
from bench.method import Method, Stage, contestant
from bench.provenance import code_of, suite_version
from bench.runs.identity import Identities, Identity, where
from bench.runs.reuse import reusable_runs
from bench.runs.training.collapse import collapsed
from bench.runs.training.cost import training_cost
from bench.runs.training.facts import Usage, describe
from bench.runs.training.lineage import within_budget
from bench.runs.training.models import release_after
from bench.settings import Settings
from bench.sharing.records import check_run
from bench.store import (
    PART,
    RunKey,
    check_folders,
    clear_run,
    mark_model,
    read_facts,
    read_json,
    record_failure,
    remove_folder,
    run_folder,
    state_folder,
    weights_file,
    weights_of,
    write_json,
    written_at_once,
)
from bench.tasks.catalogue import Task
from bench.trace import Trace

log = logging.getLogger(__name__)


def produce(settings: Settings, key: RunKey, release: bool = False) -> str:
    """Make all files of one run (see docs/architecture.md); an interrupted run resumes.

    Checkpoints of an interrupted run are used if identity, code and machine settings are the same; otherwise they are
    removed. An exception during training, or a failed run that this one depends on, is recorded as a failed run.

    Args:
        settings: Settings of the benchmark.
        key: The run.
        release: Whether weights that no remaining run needs are deleted at the end, before the checkpoints of this run:
            Snakemake removes the outputs of a job that is stopped, and the next attempt then resumes at the end.

    Returns:
        The reason of the failure; "" if the run succeeded.

    Raises:
        UserError: If another process makes this run, the variant does not exist or a needed run is missing.
        OSError: If the disk is full. Nothing is recorded.
    """
    began = Usage.start()
    suite_version()  # kept for run.json: the checkout may change during training
    prepare()
    method = contestant(settings, key.method, key.task)
    if not method.accepts(key.variant):
        known = ", ".join(method.variants())
        raise UserError(f"{key.method} has no variant {key.variant!r} on {key.task}; there are {known}")
    folder, state = run_folder(settings, key), state_folder(settings, key)
    check_folders(settings.root, folder / "model", state)
    with _run_lock(state, key):
        identities = Identities(settings)
        identity = identities.of(key)
        _fresh_state(state, identity, where(settings), code_of(type(method)).get("fingerprint"))
        context = Context(settings, method.task, key, state)
        reason = ""
        if kept := reusable_runs(settings, identities, key).get(key):
            _copy_run(kept, folder, method.task)
        else:
            failed = _failed_need(settings, method, key, identities)
            try:
                if failed:
                    raise failed
                _restore(settings, method, key, identities)
                facts = _make(method, context, folder, began)
                write_json(folder / "run.json", describe(context, method, identity, began) | facts)
                (folder / "failure.json").unlink(missing_ok=True)
            except Exception as error:
                if is_disk_full(error):
                    raise
                again = error.again if isinstance(error, NeedFailed) else not isinstance(error, TrainingFailed)
                reason = reason_of(error)
                record_failure(settings, key, reason, again=again)
                log.error("%s", error if isinstance(error, UserError) else traceback.format_exc())
        if release:
            release_after(settings, key)
        if not reason:
            remove_folder(state)
        return reason


def trace_tests(settings: Settings, key: RunKey) -> None:
    """Trace the test splits with the trained model of a run.

    Raises:
        UserError: If the run has no model.
    """
    prepare()
    tested = settings.model_copy(update={"data": settings.data.model_copy(update={"test": True})})
    context = Context(tested, contestant(settings, key.method, key.task).task, key, state_folder(settings, key))
    folder = run_folder(settings, key)
    model = load_model(folder, context.device)
    for split, examples in context.data.splits.items():
        if split.startswith("test"):
            log.info("%s: tracing %s, %d examples", key.path, split, len(examples))
            trace = record(model, examples, settings.training.eval_batch_size)
            trace.save(folder / f"trace-{split}.parquet", weights_of(folder) or "")


def reason_of(error: BaseException) -> str:
    """Return the reason of a failure in one line."""
    line = next(iter(str(error).strip().splitlines()), "")
    if isinstance(error, UserError):
        return line
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or "can't allocate memory" in line:
        return f"out of memory ({line or type(error).__name__})"
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def prepare() -> None:
    """Turn off the warnings and progress bars of transformers."""
    transformers_log.set_verbosity_error()
    transformers_log.disable_progress_bar()


@contextmanager
def tf32(wanted: bool) -> Iterator[None]:
    """Allow or forbid TF32 in the float32 matrix products of a GPU within the context.

    Traces are always recorded without TF32.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if wanted else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _make(method: Method, context: Context, folder: Path, began: Usage) -> dict[str, Any]:
    """Train, trace and count costs; return the facts for run.json."""
    return _write(*_trained(method, context), folder, began)


def _write(
    model: PreTrainedModel, selection: Trace, again: bool, context: Context, folder: Path, began: Usage
) -> dict[str, Any]:
    """Write the files of a run from what `_trained` returns, except run.json; return the facts for run.json."""
    settings = context.settings
    trained = time.monotonic()
    clear_run(folder)
    weights = _save_model(model, context, folder)
    for split, examples in context.data.splits.items():
        if split == settings.selection:
            selection.save(folder / f"trace-{split}.parquet", weights)
        elif split != "train":
            record(model, examples, settings.training.eval_batch_size).save(folder / f"trace-{split}.parquet", weights)
    traced = time.monotonic()
    counting.measure(model).save(folder / "costs.json", weights)
    counted = time.monotonic()
    seconds = {"train": trained - began.wall, "trace": traced - trained, "count": counted - traced}
    return {
        "status": "ok",
        "reason": "",
        "seconds": seconds,
        "weights": weights,
        "restarts": context.attempt,
        "collapsed": again,
        "training": training_cost(settings, context.key, context.data, all_tasks=model.common_parameters > 0)
        | {"trainable_parameters": max(context.trainable, default=0)},
        "common_parameters": model.common_parameters,
        "model_bytes": weights_file(folder).stat().st_size,
    }


def _trained(method: Method, context: Context) -> tuple[PreTrainedModel, Trace, bool, Context]:
    """Train a run, again with another seed where it collapses and the seed matters.

    Returns:
        The model, its trace of the selection split, whether it collapsed, and the context of the last attempt.
    """
    settings = context.settings
    torch.set_num_threads(settings.training.threads)
    method = within_budget(method, context.key.variant, len(context.train))
    stages = _stages(method, context)
    context = replace(context, stated=None if stages is None else sum(stage.steps for stage in stages))
    seeded = stages is None or any(stage.steps or stage.scored for stage in stages)  # else it draws nothing
    while True:
        with tf32(context.machine.tf32):
            model = method.train(context, context.key.variant).eval().requires_grad_(False)
        trace = record(model, context.selection, settings.training.eval_batch_size)
        again = collapsed(model, trace, context.task)
        if not again or context.attempt == settings.training.restarts or not seeded:
            return model, trace, again, context
        log.warning("%s: the same answer for all examples; training again with another seed", context.key.path)
        context = context.again()


def _stages(method: Method, context: Context) -> Sequence[Stage] | None:
    """Return the stages of a variant; None if the method does not state them."""
    try:
        return method.stages(context.key.variant, len(context.train))
    except NoStages:
        return None


def _restore(settings: Settings, method: Method, key: RunKey, identities: Identities) -> None:
    """Train the models that a run needs again where their weights were deleted; all other files stay.

    The weights of a run that was copied may come out otherwise on this machine; then all its files are made anew.

    Raises:
        UserError: If the new weights are not those that the files of the run name, which was made here.
    """
    for need in method.needed(key):
        folder, state = run_folder(settings, need), state_folder(settings, need)
        if has_weights(folder):
            continue
        with _run_lock(state, need, wait=True):
            if has_weights(folder):
                continue
            began, needed = Usage.now(), contestant(settings, need.method, need.task)
            _restore(settings, needed, need, identities)
            log.info("%s: it has no weights; training them again", need.path)
            identity = identities.of(need)
            _fresh_state(state, identity, where(settings), code_of(type(needed)).get("fingerprint"))
            found = _trained(needed, Context(settings, needed.task, need, state))
            model, _, _, context = found
            again = folder / f"{PART}again"
            if _save_model(model, context, again) == weights_of(folder):
                with written_at_once(weights_file(folder)) as part:  # `model` may be a link to another disk
                    shutil.move(weights_file(again), part)
            elif "taken_from" in read_json(folder / "run.json"):
                log.info("%s: other weights than those of the copied run; replacing its files", need.path)
                facts = _write(*found, folder, began)
                write_json(folder / "run.json", describe(context, needed, identity, began) | facts)
            else:
                remove_folder(again)
                raise UserError(
                    f"{need.path}: training it again gives other weights than those recorded in run.json (another "
                    f"machine, or changed code); delete {folder} and run again"
                )
            remove_folder(again)
            remove_folder(state)


def _failed_need(settings: Settings, method: Method, key: RunKey, identities: Identities) -> NeedFailed | None:
    """Return the failure of a run that this one depends on; None if all succeeded.

    Raises:
        UserError: If such a run is missing or has another identity than planned.
    """
    for need in method.needed(key):
        path = run_folder(settings, need) / "run.json"
        if not path.is_file():
            raise UserError(f"{key.path} needs {need.path}, which has no result yet; run that first")
        facts = read_facts(path)
        if facts["status"] == "failed":
            other = f" on {need.task}" * (need.task != key.task)
            return NeedFailed(f"its {need.method}{other} failed: {facts['reason']}", again=facts["again"])
        if facts["identity"] != identities.of(need).hash:
            why = identities.of(need).difference(facts["asked"])
            raise UserError(
                f"{key.path} needs {need.path}, which was made with other settings ({why}); run that again first"
            )
    return None


def _copy_run(kept: Path, folder: Path, task: Task) -> None:
    """Copy a run from another results folder. A published folder has the configuration of the model but no weights."""
    check_run(kept, task, read_json(kept / "run.json"))
    clear_run(folder)
    (folder / "model").mkdir(parents=True, exist_ok=True)
    for file in sorted([*kept.glob("*.parquet"), *kept.glob("costs.json"), *kept.glob("model/*")]):
        shutil.copyfile(file, folder / file.relative_to(kept))
    mark_model(folder)
    write_json(folder / "run.json", read_json(kept / "run.json") | {"taken_from": kept.parents[4].name})
    log.info("copied from %s, a run with the same identity", kept)


def _run_lock(state: Path, key: RunKey, wait: bool = False) -> AcquireReturnProxy:
    """Lock a run for this process; the lock is released when the process ends.

    Args:
        state: Folder of the run's checkpoints.
        key: The run.
        wait: Whether to wait while another process holds the lock.

    Raises:
        UserError: If another process holds the lock.
    """
    path = state.with_name(state.name + ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return FileLock(path).acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise UserError(
            f"{key.path} is locked by another process that is training it; wait for it, or stop it"
        ) from None


def _fresh_state(state: Path, identity: Identity, here: dict[str, Any], code: str | None) -> None:
    """Remove the checkpoints of an interrupted run unless identity, code and machine settings are the same."""
    stamp = {"identity": identity.hash, "asked": identity.inputs, "where": here, "code": code}
    file = state / "identity.json"
    if state.exists() and _read_if_readable(file) != stamp:
        log.info("settings or code have changed since the interrupted run: starting again")
        remove_folder(state)
    if not file.is_file():
        write_json(file, stamp)


def _read_if_readable(file: Path) -> Any:
    """Return the content of a JSON file, or None if it is missing or broken."""
    try:
        return read_json(file)
    except UserError:
        return None


def _save_model(model: PreTrainedModel, context: Context, folder: Path) -> str:
    """Write model and tokenizer to `model`, following a link; return the digest of the weights."""
    final = folder / "model"
    part = final if final.is_symlink() else folder / f"{PART}model"
    remove_folder(part)
    model.save_pretrained(part)
    context.tokenizer.save_pretrained(part)
    if part != final:
        remove_folder(final)
        part.replace(final)
    with (final / "model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
