"""Pre-trained encoders: where they lie (the Hub, a folder, a Python package) and how their weights are read."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoTokenizer
from transformers.utils.hub import cached_file

from bench.encoder.exits import HeadKind, Pooling, has_dense
from bench.encoder.model import Encoder, EncoderConfig
from bench.encoder.shape import Shape, Width
from bench.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# How the layouts of the Hub name what we have, as pattern -> our name; `#` is the layer.
_BERT = {
    r"embeddings\.word_embeddings\.weight": "embeddings.words.weight",
    r"embeddings\.position_embeddings\.weight": "embeddings.positions.weight",
    r"embeddings\.token_type_embeddings\.weight": "embeddings.segments.weight",
    r"embeddings\.LayerNorm\.(weight|bias)": r"embeddings.norm.\1",
    r"encoder\.layer\.(\d+)\.attention\.self\.(query|key|value)\.(weight|bias)": r"layers.\1.\2.\3",
    r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(weight|bias)": r"layers.\1.attention_output.\2",
    r"encoder\.layer\.(\d+)\.attention\.output\.LayerNorm\.(weight|bias)": r"layers.\1.attention_norm.\2",
    r"encoder\.layer\.(\d+)\.intermediate\.dense\.(weight|bias)": r"layers.\1.ffn_in.\2",
    r"encoder\.layer\.(\d+)\.output\.dense\.(weight|bias)": r"layers.\1.ffn_out.\2",
    r"encoder\.layer\.(\d+)\.output\.LayerNorm\.(weight|bias)": r"layers.\1.ffn_norm.\2",
    r"pooler\.dense\.(weight|bias)": r"dense.\1",
}
_DISTILBERT = {
    r"embeddings\.word_embeddings\.weight": "embeddings.words.weight",
    r"embeddings\.position_embeddings\.weight": "embeddings.positions.weight",
    r"embeddings\.LayerNorm\.(weight|bias)": r"embeddings.norm.\1",
    r"transformer\.layer\.(\d+)\.attention\.q_lin\.(weight|bias)": r"layers.\1.query.\2",
    r"transformer\.layer\.(\d+)\.attention\.k_lin\.(weight|bias)": r"layers.\1.key.\2",
    r"transformer\.layer\.(\d+)\.attention\.v_lin\.(weight|bias)": r"layers.\1.value.\2",
    r"transformer\.layer\.(\d+)\.attention\.out_lin\.(weight|bias)": r"layers.\1.attention_output.\2",
    r"transformer\.layer\.(\d+)\.sa_layer_norm\.(weight|bias)": r"layers.\1.attention_norm.\2",
    r"transformer\.layer\.(\d+)\.ffn\.lin1\.(weight|bias)": r"layers.\1.ffn_in.\2",
    r"transformer\.layer\.(\d+)\.ffn\.lin2\.(weight|bias)": r"layers.\1.ffn_out.\2",
    r"transformer\.layer\.(\d+)\.output_layer_norm\.(weight|bias)": r"layers.\1.ffn_norm.\2",
}


def locate(name: str) -> str:
    """A Hub id or folder as it is; `package:<module>/<folder>` as the folder inside that installed Python package.

    Raises UserError where the package, or a folder that looks like a path, does not exist.
    """
    if name.startswith("package:"):
        module, _, folder = name.removeprefix("package:").partition("/")
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            raise UserError(f"backbone {name}: the Python package {module} is not installed (pip install it)")
        path = Path(spec.origin).parent / folder
    elif name.startswith((".", "/", "~")):
        path = Path(name).expanduser()
    else:
        return name
    if not (path / "config.json").is_file():
        raise UserError(f"backbone {name}: no config.json in that folder; a checkpoint in the Hub's layout is needed")
    return str(path)


def tokenizer(name: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The fast tokenizer that belongs to a checkpoint. Raises UserError where it cannot be loaded."""
    return _from_pretrained(AutoTokenizer, name, revision)


def width_of(name: str, revision: str | None = None) -> Width:
    """The full width of a checkpoint, read from its configuration alone."""
    return shape_of(name, revision).slender


def shape_of(name: str, revision: str | None = None) -> Shape:
    """The shape of a checkpoint, read from its configuration alone. Raises UserError where it cannot be found."""
    shape, _ = _layout(name, revision)
    return EncoderConfig(**shape).shape


def masked_lm(name: str, revision: str | None = None) -> PreTrainedModel | None:
    """The checkpoint as transformers' masked language model; None where it holds no such head."""
    model, report = _from_pretrained(AutoModelForMaskedLM, name, revision, output_loading_info=True)
    return None if report["missing_keys"] else model


def load(
    name: str,
    *,
    num_labels: int,
    head: HeadKind,
    pooling: Pooling,
    exits: str | list[int] = "last",
    revision: str | None = None,
    device: torch.device | str = "cpu",
) -> Encoder:
    """An `Encoder` with the pre-trained weights of `name` and fresh exit heads.

    Reads checkpoints in BERT's and in DistilBERT's layout (no segment embeddings). `exits`: "last", "all", or the
    layers (1-based). The dense layer of the heads starts from the checkpoint's pooler where it has one. Fresh weights
    are drawn from torch's global generator. Raises UserError for a layout that it does not know.
    """
    shape, names = _layout(name, revision)
    depth = len(shape["heads"])
    layers = {"last": [depth], "all": list(range(1, depth + 1))}[exits] if isinstance(exits, str) else exits
    head_dropout = {"distilbert": 0.2, "tinybert": 0.0}.get(head, shape["dropout"])
    encoder = Encoder(
        EncoderConfig(
            **shape,
            exits=layers,
            head=head,
            pooling=pooling,
            head_dropout=head_dropout,
            num_labels=num_labels,
        )
    )
    weights = _translate(_from_pretrained(AutoModel, name, revision).state_dict(), names)
    if not has_dense(head) or head == "distilbert":
        weights = {key: value for key, value in weights.items() if not key.startswith("dense.")}
    missing, unexpected = encoder.load_state_dict(weights, strict=False)
    missing = [key for key in missing if not key.startswith(("heads.", "dense."))]
    if missing or unexpected:
        raise UserError(f"backbone {name}: weights missing {missing[:3]}, not understood {unexpected[:3]}")
    return encoder.to(device)


@cache  # asked for once a contestant and task
def _layout(name: str, revision: str | None) -> tuple[dict[str, Any], dict[str, str]]:
    """The shape of a checkpoint as `EncoderConfig` takes it, and how its weights are named."""
    config = _from_pretrained(AutoConfig, name, revision)
    if config.model_type == "bert":
        return _bert_shape(config), _BERT
    if config.model_type == "distilbert":
        return _distilbert_shape(config), _DISTILBERT
    raise UserError(f"backbone {name}: model type {config.model_type!r}; bert and distilbert can be read")


def _from_pretrained(loader: Any, name: str, revision: str | None, **options: Any) -> Any:
    path = locate(name)
    try:
        return loader.from_pretrained(path, **({"revision": revision} if revision else {}), **options)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"checkpoint {name} cannot be loaded (Hub id, folder or package:module/folder?): {reason}"
        ) from error


@cache
def digest(name: str, revision: str | None = None) -> str:
    """sha256 over the weights, configuration and tokenizer files of a checkpoint, wherever they lie."""
    wanted = ("config.json", "model.safetensors", "pytorch_model.bin", "tokenizer.json", "vocab.txt")
    found = [(file, path) for file in wanted if (path := _file(name, file, revision))]
    digest = hashlib.sha256()
    for file, path in found:
        digest.update(file.encode())
        with path.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def _file(name: str, file: str, revision: str | None) -> Path | None:
    path = cached_file(locate(name), file, revision=revision, _raise_exceptions_for_missing_entries=False)
    return Path(path) if path else None


def _translate(weights: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    translated = {}
    for key, value in weights.items():
        for pattern, ours in names.items():
            match = re.fullmatch(pattern, key)
            if match:
                translated[match.expand(ours)] = value.to(torch.float32)
    return translated


def _bert_shape(config: Any) -> dict[str, Any]:
    depth = config.num_hidden_layers
    return {
        "vocab_size": config.vocab_size,
        "max_positions": config.max_position_embeddings,
        "type_vocab_size": config.type_vocab_size,
        "hidden_size": config.hidden_size,
        "head_size": config.hidden_size // config.num_attention_heads,
        "heads": [config.num_attention_heads] * depth,
        "ffn": [config.intermediate_size] * depth,
        "hidden_act": config.hidden_act,
        "dropout": config.hidden_dropout_prob,
        "attention_dropout": config.attention_probs_dropout_prob,
        "layer_norm_eps": config.layer_norm_eps,
        "initializer_range": config.initializer_range,
        "pad_token_id": config.pad_token_id or 0,
    }


def _distilbert_shape(config: Any) -> dict[str, Any]:
    depth = config.n_layers
    return {
        "vocab_size": config.vocab_size,
        "max_positions": config.max_position_embeddings,
        "type_vocab_size": 0,
        "hidden_size": config.dim,
        "head_size": config.dim // config.n_heads,
        "heads": [config.n_heads] * depth,
        "ffn": [config.hidden_dim] * depth,
        "hidden_act": config.activation,
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "initializer_range": config.initializer_range,
        "pad_token_id": config.pad_token_id or 0,
    }
