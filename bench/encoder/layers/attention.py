"""Functions of both layouts: splitting into heads, and the bias that limits attention to some of the tokens."""

from __future__ import annotations

import torch
from torch import Tensor


def by_head(values: Tensor, size: int) -> Tensor:
    """Return [B, n, heads x size] as [B, heads, n, size]."""
    return values.unflatten(-1, (-1, size)).transpose(1, 2)


def attention_bias(mask: Tensor, dtype: torch.dtype, window: int | None = None) -> Tensor | None:
    """Return the bias that attention adds to its scores: 0 for tokens, the lowest number for all that is not read.

    On a CPU the result is None if every token reads every other; on a GPU that test would wait for the device.

    Args:
        mask: [B, n] 1 for tokens and 0 for padding.
        dtype: Number type of the bias.
        window: Largest distance between a token and those that it reads; None: all.

    Returns:
        [B, 1, 1, n], or with a window [B or 1, 1, n, n].
    """
    exporting = torch.compiler.is_compiling()  # a graph must not depend on the values or the length of an example
    full = not exporting and mask.device.type == "cpu" and bool(mask.all())
    length = mask.shape[1]
    if window is None or (not exporting and window >= length - 1):
        if full:
            return None
        return torch.zeros_like(mask, dtype=dtype).masked_fill(mask == 0, torch.finfo(dtype).min)[:, None, None, :]
    places = torch.arange(length, device=mask.device)
    distance = (places[:, None] - places).abs()[None, None]
    unread = distance > window
    if not full:  # padding reads itself: the softmax over nothing is not a number in bfloat16
        unread = unread | ((mask == 0)[:, None, None, :] & (distance > 0))
    return torch.zeros_like(unread, dtype=dtype).masked_fill(unread, torch.finfo(dtype).min)
