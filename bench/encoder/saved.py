"""Trained models on disk: weights in a run folder, or the configuration alone in a published folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from bench.compat import WEIGHTS, weight_name
from bench.errors import UserError, first_line
from bench.store import read_json, weights_file


class SavedModel(PreTrainedModel):
    """Base class of the suite's models, which also loads weights under their names of version 0.2.

    Attributes:
        fused: Whether the early-exit engine runs the model in its deployed form (`bench.encoder.early.deployed`).
            Otherwise it runs `begin` and `advance` of the model itself.
    """

    fused = True

    @property
    def common_parameters(self) -> int:
        """Number of the parameters that the models of all tasks of a profile share, so that they are stored once."""
        return 0

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.register_load_state_dict_pre_hook(_rename)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Self:
        """Load a model from a folder, as `PreTrainedModel.from_pretrained` does."""
        return super().from_pretrained(*args, **({"key_mapping": WEIGHTS} | kwargs))


def has_weights(folder: Path) -> bool:
    """Return whether a run folder holds the model's weights.

    A published folder holds the configuration only, and so does a run without `keep_models` that no other run needs.
    """
    file = weights_file(folder)
    return file.is_file() and file.stat().st_size > 0


def without_weights(folder: Path) -> tuple[str, str]:
    """Return why a run folder has no weights, and what gives it weights."""
    again = "set keep_models: true and run again"
    if not (folder / "run.json").is_file():
        return "they are missing", again
    if source := read_json(folder / "run.json").get("taken_from"):
        return "the run was published without them", f"remove {source} from `reuse`, delete {folder}, {again}"
    return "they were deleted after the run was traced, or never published", again


def load_model(folder: Path, device: torch.device) -> Any:
    """Load the `Encoder` or `Cascade` of a run folder in eval mode.

    Raises:
        UserError: The model is missing, damaged or of another class, or its weights do not match its configuration;
            missing weights are never replaced by random ones.
    """
    path = _path(folder)
    if not has_weights(folder):
        why, remedy = without_weights(folder)
        raise UserError(f"{path} has no weights: {why}; {remedy}")
    try:
        model, found = AutoModelForSequenceClassification.from_pretrained(path, output_loading_info=True)
    except Exception as error:  # a damaged file raises exceptions of several libraries
        remedy = "delete it and run again"
        if (kind := kind_of(folder)) not in CONFIG_MAPPING:
            remedy = f"import the module of its method first, which registers {kind!r}"
        raise UserError(f"the model in {path} cannot be loaded ({first_line(error)}); {remedy}") from error
    if not hasattr(model, "exit_macs"):
        raise UserError(f"the model in {path} is a {type(model).__name__}, not of this suite; delete it and run again")
    check_match(path, found, "delete it and run again")
    return model.to(device).eval()


def check_match(folder: Path, found: dict[str, Any], remedy: str) -> None:
    """Check that a loaded model had all its weights, since missing ones would be random.

    Args:
        folder: The folder of the model.
        found: What `from_pretrained` returns with `output_loading_info`.
        remedy: What to do, for the message.

    Raises:
        UserError: Weights are missing or unexpected.
    """
    wrong = [f"{kind[:-5]} {min(map(str, found[kind]))}" for kind in ("missing_keys", "unexpected_keys") if found[kind]]
    if wrong:
        raise UserError(f"the weights in {folder} do not match its configuration ({', '.join(wrong)}); {remedy}")


def kind_of(folder: Path) -> str:
    """Return the `model_type` of the model of a run folder, as its config.json names it.

    Raises:
        UserError: There is no configuration, or it has no `model_type`.
    """
    return str(read_json(_path(folder) / "config.json", "model_type")["model_type"])


def of_shape(folder: Path, device: torch.device) -> Any:
    """Return a model of a run folder's configuration in eval mode, with random weights.

    It serves measurements of latency, which depends on the shapes of the weights and not on their values.

    Raises:
        UserError: There is no configuration, or it cannot be read.
    """
    path = _path(folder)
    try:
        model = AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(path))
    except Exception as error:
        raise UserError(
            f"the configuration in {path} cannot be read ({first_line(error)}); publish the run again"
        ) from error
    return model.to(device).eval().requires_grad_(False)


def _rename(module: SavedModel, state: dict[str, Any], *_: Any) -> None:
    for name in list(state):
        state[weight_name(name)] = state.pop(name)


def _path(folder: Path) -> Path:
    path = folder / "model"
    if not (path / "config.json").is_file():
        raise UserError(f"no trained model in {path}; run the workflow, or `costeff run`, for it first")
    return path
