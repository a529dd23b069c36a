"""Cut a trained encoder to a smaller shape: heads, FFN neurons, embedding rank, layers, hidden size.

A cut encoder computes what the full one computes if the outputs of the removed heads and neurons are set to zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.encoder.model import Encoder, EncoderConfig
from bench.errors import UserError


def cut(
    model: Encoder,
    heads: Sequence[Sequence[int]] | None = None,
    neurons: Sequence[Sequence[int]] | None = None,
    rank: int | None = None,
) -> Encoder:
    """Return a copy of `model` with fewer heads, fewer FFN neurons or a word embedding of lower rank.

    Args:
        model: The encoder.
        heads: Indices of the heads that each layer keeps; None: all.
        neurons: Indices of the FFN neurons that each layer keeps; None: all.
        rank: Rank to which the word embedding is factorised by a truncated SVD (COST-EFF, section 3.1); None: as it
            is.

    Raises:
        UserError: An index that a layer does not have, a layer that keeps nothing, or a rank above the present one.
    """
    config = _own_layers(model)
    heads = [range(count) for count in config.heads] if heads is None else heads
    neurons = [range(count) for count in config.ffn] if neurons is None else neurons
    _check("heads", heads, config.heads)
    _check("neurons", neurons, config.ffn)
    now = config.rank or config.hidden_size
    if rank is not None and not 1 <= rank <= now:
        raise UserError(f"cut: rank {rank} must be between 1 and the current rank, {now}")

    weights = dict(model.state_dict())
    for i, (kept_heads, kept_neurons) in enumerate(zip(heads, neurons, strict=True)):
        rows = _head_rows(kept_heads, config.head_size, model.device)
        kept = torch.as_tensor(list(kept_neurons), device=model.device)
        for part in ("query", "key", "value", *model.neuron_rows):
            chosen = kept if part in model.neuron_rows else rows
            for name in (f"layers.{i}.{part}.weight", f"layers.{i}.{part}.bias"):
                if name in weights:
                    weights[name] = weights[name][chosen]
        weights[f"layers.{i}.attention_output.weight"] = weights[f"layers.{i}.attention_output.weight"][:, rows]
        weights[f"layers.{i}.ffn_out.weight"] = weights[f"layers.{i}.ffn_out.weight"][:, kept]
    if rank is not None and rank < now:
        words, factor = factorised(model, rank)
        weights["embeddings.words.weight"] = words
        weights["embeddings.factor.weight"] = factor.T
    smaller = _reshaped(
        config,
        heads=[len(kept) for kept in heads],
        ffn=[len(kept) for kept in neurons],
        rank=config.rank if rank is None or rank == now else rank,
    )
    return _filled(smaller, weights, model)


def factorised(model: Encoder, rank: int) -> tuple[Tensor, Tensor]:
    """Return the best rank-r factors W V_r [V, r] and V_r^T [r, d] of the word embedding W = U S V^T.

    V comes from the eigenvectors of W^T W in float64, which takes a twentieth of the time of an SVD of W.
    """
    words = model.embeddings.words.weight.detach()
    if model.embeddings.factor is not None:
        words = words @ model.embeddings.factor.weight.detach().T
    doubled = words.double()
    _, vectors = torch.linalg.eigh(doubled.T @ doubled)  # ascending
    right = vectors.flip(-1)[:, :rank]
    return (doubled @ right).to(words.dtype), right.T.to(words.dtype).contiguous()


def take_layers(model: Encoder, layers: Sequence[int], exits: Sequence[int] | None = None) -> Encoder:
    """Return a copy of `model` with some of its layers.

    An exit of the copy starts from the exit head at the same layer of `model`, or else from the last exit head.

    Args:
        model: The encoder.
        layers: Layers of `model` to keep (0-based), in this order.
        exits: Layers of the copy (1-based) that are followed by an exit. Default: the last.

    Raises:
        UserError: A layer that `model` does not have, or none at all.
    """
    config = _own_layers(model)
    if not layers or min(layers) < 0 or max(layers) >= len(config.heads):
        raise UserError(f"cut: layers {list(layers)}; use layers from 0 to {len(config.heads) - 1}, at least one")
    exits = [len(layers)] if exits is None else list(exits)
    state = model.state_dict()
    weights = {k: v for k, v in state.items() if not k.startswith(("layers.", "exit_heads."))}
    moved = [(f"layers.{old}.", f"layers.{new}.") for new, old in enumerate(layers)]
    for new, exit_layer in enumerate(exits):
        at = layers[exit_layer - 1] + 1
        old = config.exits.index(at) if at in config.exits else len(config.exits) - 1
        moved.append((f"exit_heads.{old}.", f"exit_heads.{new}."))
    for before, after in moved:
        weights |= {after + k.removeprefix(before): v for k, v in state.items() if k.startswith(before)}
    each = ["heads", "ffn"] + ["windows", "thetas", "attention_norms"] * (config.layout == "modernbert")
    smaller = _reshaped(config, exits=exits, **{key: [getattr(config, key)[i] for i in layers] for key in each})
    return _filled(smaller, weights, model)


def narrow(
    model: Encoder,
    hidden: Sequence[int],
    matched: Sequence[Sequence[int]],
    carried: Sequence[Sequence[int]],
    neurons: Sequence[Sequence[int]],
) -> Encoder:
    """Return a copy of `model` with a smaller hidden size and head size and the same number of heads.

    Queries are rescaled: attention scores stay sums over the kept rows divided by the root of the old head size.

    Args:
        model: The encoder.
        hidden: Dimensions of the hidden states to keep, the same in embeddings, LayerNorms and all matrices.
        matched: For each layer the rows of queries and keys to keep, head by head, equally many of each head.
        carried: The same for values.
        neurons: For each layer the FFN neurons to keep.

    Raises:
        UserError: The encoder has ModernBERT's layout, whose rotary positions give each row of a head its own angle.
    """
    if model.config.layout != "bert":
        raise UserError("cut: the head size of an encoder with rotary positions cannot be reduced; use BERT's layout")
    config, hidden = _own_layers(model), list(hidden)
    size = len(matched[0]) // config.heads[0]
    weights = dict(model.state_dict())
    for key, value in weights.items():
        if key.startswith("embeddings.factor."):
            weights[key] = value[hidden]
        elif key.startswith("embeddings.words.") and config.rank:
            continue
        elif ".dense." in f".{key}":
            weights[key] = value[hidden][:, hidden] if value.dim() == 2 else value[hidden]
        elif key.startswith("embeddings.") or key.endswith(("classifier.weight", "signal.weight")) or "_norm." in key:
            weights[key] = value[..., hidden]
    scale = (size / config.head_size) ** 0.5
    for i in range(len(config.heads)):
        inputs = {"query": matched[i], "key": matched[i], "value": carried[i], "ffn_in": neurons[i]}
        for part, rows in inputs.items():
            name, factor = f"layers.{i}.{part}", scale if part == "query" else 1.0
            weights[f"{name}.weight"] = weights[f"{name}.weight"][list(rows)][:, hidden] * factor
            weights[f"{name}.bias"] = weights[f"{name}.bias"][list(rows)] * factor
        for part, columns in {"attention_output": carried[i], "ffn_out": neurons[i]}.items():
            name = f"layers.{i}.{part}"
            weights[f"{name}.weight"] = weights[f"{name}.weight"][hidden][:, list(columns)]
            weights[f"{name}.bias"] = weights[f"{name}.bias"][hidden]
    smaller = _reshaped(config, hidden_size=len(hidden), head_size=size, ffn=[len(kept) for kept in neurons])
    return _filled(smaller, weights, model)


def _own_layers(model: Encoder) -> EncoderConfig:
    """Return the configuration of a model whose layers have weights of their own.

    Raises:
        UserError: The layers share their weights, so that none can be cut alone.
    """
    if model.config.shared:
        raise UserError("cut: the layers of this encoder share their weights; cut it before they are shared")
    return model.config


def _reshaped(config: EncoderConfig, **changes: object) -> EncoderConfig:
    return EncoderConfig.from_dict(config.to_dict() | changes)


def _filled(config: EncoderConfig, weights: dict[str, Tensor], model: Encoder) -> Encoder:
    # On the meta device no weights are initialised: that would take longer than the cut and draw random numbers.
    with torch.device("meta"):
        smaller = Encoder(config)
    smaller.load_state_dict({key: value.clone() for key, value in weights.items()}, assign=True)
    for parameter in smaller.parameters():
        parameter.requires_grad_(True)
    return smaller.to(model.device).train(model.training)


def _head_rows(heads: Sequence[int], size: int, device: torch.device) -> Tensor:
    return (torch.as_tensor(list(heads), device=device)[:, None] * size + torch.arange(size, device=device)).flatten()


def _check(what: str, kept: Sequence[Sequence[int]], present: Sequence[int]) -> None:
    if len(kept) != len(present):
        raise UserError(f"cut: {what} are given for {len(kept)} layers, but the encoder has {len(present)}")
    for layer, (indices, count) in enumerate(zip(kept, present, strict=True)):
        if not indices or len(set(indices)) != len(indices) or min(indices) < 0 or max(indices) >= count:
            raise UserError(
                f"cut: {what} {list(indices)[:8]} of layer {layer}; use distinct indices below {count}, at least one"
            )
