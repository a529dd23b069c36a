"""Time exported models under PyTorch, ONNX Runtime and OpenVINO, side by side on this machine."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.utils import logging as transformers_log

from bench.deploy import energy
from bench.deploy.checking import runner
from bench.deploy.writing import TORCH, Form, Runtime, write
from bench.encoder import EarlyExitClassifier, EarlyExitConfig
from bench.encoder.early.deployed import Batch, deploy
from bench.encoder.early.engine import answer
from bench.encoder.saved import check_match
from bench.errors import UserError, first_line
from bench.exit_policies.operating import decision

KEPT = 0.75
"""Smallest ratio of the measured to the calculated speed-up with which a runtime is listed."""

_OTHERS: tuple[tuple[Runtime, bool], ...] = (("onnx", False), ("onnx", True), ("openvino", False))
Texts = dict[str, NDArray[np.int64]]
Run = Callable[[Texts], tuple[NDArray[np.float32], NDArray[np.int64]]]


@dataclass(frozen=True)
class _Timed:
    """A model under one runtime. `run` returns logits [B, C] and exits [B], from 1."""

    model: str
    runtime: str
    run: Run


def time_runtimes(
    folders: Sequence[Path],
    *,
    lengths: Sequence[int] = (16, 64, 128),
    rounds: int = 15,
    threads: int = 1,
) -> pd.DataFrame:
    """Time models on random tokens without padding, under every runtime that is installed.

    In each round every model is timed once under every runtime, in a random order, on the same texts. Examples exit
    as the exit policy of the model decides.

    Args:
        folders: Folders that `costeff take` wrote for PyTorch. The first model is the reference.
        lengths: Numbers of tokens.
        rounds: Number of rounds.
        threads: Number of threads of every runtime.

    Returns:
        One row for each model, batch size, length and runtime: `ms`, the median time of a batch; `exit`, the mean exit;
        `promised`, the multiply-adds of the reference divided by those of the model for these texts; `speedup`, the
        time of the reference under the same runtime divided by that of the model, median over rounds; `cpu_mj` and
        `gpu_mj`, the millijoules that this machine spends for each text, NaN without a counter.

    Raises:
        UserError: A folder has no exported model for PyTorch.
    """
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read by run.py
    models = {str(folder): load_model(folder) for folder in folders}
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        timed = [each for name, model in models.items() for each in _runtimes(name, model, Path(scratch))]
        shortest = min(model.positions() for model in models.values())
        words = min(_vocabulary(model) for model in models.values())
        for batch_size in (1, 32):
            for length in (length for length in lengths if length <= shortest):
                texts = [_texts(rng, batch_size, length, words) for _ in range(8 if batch_size == 1 else 1)]
                rows += _measure(timed, models, texts, rounds, rng)
    return pd.DataFrame(rows)


def summary(table: pd.DataFrame) -> str:
    """Return the table of `time_runtimes` as Markdown, and the runtimes that reach `KEPT` of the calculated speed-up.

    These are listed for batch size 1.
    """
    keys, runtimes = ["model", "batch", "tokens"], list(dict.fromkeys(table["runtime"]))
    reference = table["model"].iloc[0]
    others = table[table["model"] != reference]
    parts = ["Milliseconds of a batch (median over rounds):", _wide(table, keys, "exit", "ms", runtimes)]
    if len(others):
        parts.append(
            f"Measured speed-up over {reference} under the same runtime, beside the one calculated from FLOPs:"
        )
        parts.append(_wide(others.rename(columns={"promised": "calculated"}), keys, "calculated", "speedup", runtimes))
    for part in energy.PARTS:
        said = f"Millijoules for each text ({part}): not available"
        if table[f"{part}_mj"].notna().any():
            said = f"Millijoules for each text ({part}):\n\n" + _wide(table, keys, "exit", f"{part}_mj", runtimes)
        parts.append(said)
    for (name, length), rows in others[others["batch"] == 1].groupby(["model", "tokens"], sort=False):
        kept = {row["runtime"]: row["speedup"] / row["promised"] for row in rows.to_dict("records")}
        able = [f"{runtime} ({share:.2f})" for runtime, share in kept.items() if share >= KEPT]
        parts.append(
            f"{name}, batch 1, {length} tokens: measured speed-up at least {KEPT} of the calculated one under "
            f"{', '.join(able) or 'no runtime'}."
        )
    return "\n\n".join(parts)


def _wide(table: pd.DataFrame, keys: list[str], first: str, values: str, runtimes: list[str]) -> str:
    """Return a Markdown table with a column for each runtime, after the column `first` as it is under PyTorch."""
    wide = table.pivot_table(values=values, index=keys, columns="runtime", sort=False)[runtimes]
    under = table.drop_duplicates(keys).set_index(keys)[[first]]
    return under.join(wide).round(2).reset_index().to_markdown(index=False)


def _measure(
    timed: list[_Timed],
    models: dict[str, EarlyExitClassifier],
    texts: list[Texts],
    rounds: int,
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    """Return the rows of one batch size and length."""
    batch_size, length = texts[0]["input_ids"].shape
    exits = [np.concatenate([each.run(text)[1] for text in texts]) for each in timed]  # also allocates memory
    seconds, meter = np.empty((rounds, len(timed))), energy.Meter()
    spent = [dict.fromkeys(energy.PARTS, 0.0) for _ in timed]
    for own in seconds:
        for position in rng.permutation(len(timed)):
            timed[position].run(texts[0])
            before, began = meter.read(), time.perf_counter()
            for text in texts:
                timed[position].run(text)
            own[position] = (time.perf_counter() - began) / len(texts)
            spent[position] = {part: spent[position][part] + more for part, more in meter.since(before).items()}
    macs = [
        np.array(models[each.model].model.exit_macs(length))[at - 1].sum()
        for each, at in zip(timed, exits, strict=True)
    ]
    reference = {each.runtime: i for i, each in enumerate(timed) if each.model == timed[0].model}
    return [
        {
            "model": each.model,
            "batch": batch_size,
            "tokens": length,
            "runtime": each.runtime,
            "ms": 1e3 * np.median(seconds[:, i]),
            "exit": exits[i].mean(),
            "promised": macs[reference[each.runtime]] / macs[i],
            "speedup": np.median(seconds[:, reference[each.runtime]] / seconds[:, i]),
        }
        | energy.columns(spent[i], rounds * len(texts) * batch_size)
        for i, each in enumerate(timed)
    ]


def _runtimes(name: str, model: EarlyExitClassifier, scratch: Path) -> list[_Timed]:
    """Return a model under PyTorch and under every runtime that is installed."""
    found = [_Timed(name, TORCH.name, engine(model))]
    for runtime, int8 in _OTHERS:
        try:
            form = Form(runtime, int8)
        except UserError:
            continue
        folder = Path(tempfile.mkdtemp(dir=scratch))
        Tokenizer(WordLevel({"[PAD]": 0}, unk_token="[PAD]")).save(
            str(folder / "tokenizer.json")
        )  # texts are token ids
        write(model, folder, form, max_length=1)
        found.append(_Timed(name, form.name, runner(folder).answer))
    return found


def engine(model: EarlyExitClassifier) -> Run:
    """Return the early-exit engine of a model, as a function of padded texts."""
    deployed, policy = deploy(model.model), decision(model.config.leaving)

    def run(texts: Texts) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        lengths, segments = texts["attention_mask"].sum(axis=1), texts["token_type_ids"]
        second = torch.from_numpy(segments) if segments.any() else None
        with torch.inference_mode():
            exits, logits = answer(deployed, Batch(torch.from_numpy(texts["input_ids"]), second, lengths), policy)
        return logits, exits + 1

    return run


def load_model(folder: Path) -> EarlyExitClassifier:
    """Return the model of a folder that `costeff take` wrote for PyTorch.

    Raises:
        UserError: The folder has none, or its weights do not match its configuration.
    """
    transformers_log.disable_progress_bar()
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    try:
        config = AutoConfig.from_pretrained(folder)
        if isinstance(config, EarlyExitConfig):
            model, found = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    except Exception as error:  # a damaged file raises exceptions of several libraries
        why = first_line(error)
        raise UserError(f"{folder} holds no model that `costeff take --format torch` wrote ({why})") from error
    if not isinstance(config, EarlyExitConfig):
        raise UserError(f"{folder} is not a model that `costeff take --format torch` wrote")
    check_match(folder, found, "export the model again")
    return model.eval()


def _vocabulary(model: EarlyExitClassifier) -> int:
    return min(int(member["vocab_size"]) for member in model.config.model.get("members", [model.config.model]))


def _texts(rng: np.random.Generator, batch_size: int, length: int, words: int) -> Texts:
    """Return random token ids of one length."""
    ids = rng.integers(1, words, (batch_size, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
