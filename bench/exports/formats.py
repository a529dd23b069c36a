"""The formats of `costeff export` by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from bench.exports import croissant, every_eval_ever, model_index, ro_crate
from bench.sharing.folders import open_folder
from bench.store import complete_or_not_at_all

Format = Literal["every-eval-ever", "model-index", "ro-crate", "croissant"]
_WRITERS: dict[Format, Callable[[Path, Path], list[Path]]] = {
    "every-eval-ever": lambda folder, out: every_eval_ever.write(open_folder(folder), out),
    "model-index": lambda folder, out: model_index.write(open_folder(folder), out),
    "ro-crate": lambda folder, out: ro_crate.write(open_folder(folder), out),
    "croissant": croissant.write,
}


def export(folder: Path, to: Format, out: Path) -> list[Path]:
    """Write a results folder, or its text, in the format of another tool.

    Args:
        folder: A results folder or a published folder.
        to: The format.
        out: The folder to write; must not exist or be empty.

    Returns:
        The paths of the records written.

    Raises:
        UserError: `out` is not empty, the folder is refused, or the format needs a package that is not installed.
    """
    with complete_or_not_at_all(out) as part:
        return [out / path.relative_to(part) for path in _WRITERS[to](folder, part)]
