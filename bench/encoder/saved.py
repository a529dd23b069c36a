"""A run's model as it lies in its folder: with its weights, or, of a published run, its shape alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from bench.errors import UserError


def has_weights(folder: Path) -> bool:
    """Whether a run folder holds a model's weights; a published one holds its configuration only."""
    return (folder / "model" / "model.safetensors").is_file()


def load_model(folder: Path, device: torch.device) -> Any:
    """The `Encoder` or `Cascade` of a run folder, on `device`, in eval mode.

    Raises UserError where it is missing, broken or of another kind; no weight is ever drawn for one that is not there.
    """
    path = _path(folder)
    try:
        model, found = AutoModelForSequenceClassification.from_pretrained(path, output_loading_info=True)
    except Exception as error:  # a damaged file raises what each library likes
        raise UserError(f"the model in {path} cannot be loaded ({_why(error)}); delete it and run again") from error
    if not hasattr(model, "exit_macs"):
        raise UserError(f"the model in {path} is a {type(model).__name__}, none of this suite; delete it and run again")
    wrong = [f"{kind[:-5]} {min(map(str, found[kind]))}" for kind in ("missing_keys", "unexpected_keys") if found[kind]]
    if wrong:
        raise UserError(f"the weights in {path} are not the model's ({', '.join(wrong)}); delete it and run again")
    return model.to(device).eval()


def of_shape(folder: Path, device: torch.device) -> Any:
    """A model of the shape of a run folder's, on `device`, in eval mode; its weights are drawn and mean nothing.

    It takes as long as the trained one to come to the same exits. Raises UserError where there is no configuration.
    """
    path = _path(folder)
    try:
        model = AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(path))
    except Exception as error:
        raise UserError(f"the configuration in {path} cannot be read ({_why(error)}); publish the run again") from error
    return model.to(device).eval().requires_grad_(False)


def _path(folder: Path) -> Path:
    path = folder / "model"
    if not (path / "config.json").is_file():
        raise UserError(f"no trained model in {path}; run the workflow, or `costeff run`, for it first")
    return path


def _why(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
