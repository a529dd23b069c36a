"""Results of runs in a few tar files, each run as soon as it finishes."""

from __future__ import annotations

import tarfile
from pathlib import Path

from bench.sharing.folders import RUN_FILES

TAR_BYTES = 15_000_000
"""Bytes of a tar file after which the next one begins."""
_FILES = sorted(RUN_FILES, key=lambda name: name == "run.json")
"""The last file of a run makes it a finished one, so that a truncated tar file has no incomplete run."""


class Packing:
    """Tar files `runs-<n>.tar` in a folder, to which runs are appended. Those of an earlier packing are removed.

    A tar file is complete after every `add`. If the process is killed during one, the runs before it can be read.

    Args:
        root: Results folder of the profile. Names in the tar files are relative to it.
        out: Folder of the tar files.
        size: Bytes of a tar file at most, unless one run alone is larger.
    """

    def __init__(self, root: Path, out: Path, size: int = TAR_BYTES) -> None:
        self.root, self.out, self.size, self.number = root, out, size, 0
        for old in out.glob("runs-*.tar"):
            old.unlink()

    def add(self, folder: Path) -> None:
        """Append the files of a run that `costeff publish` would copy: all but weights and tokenizer.

        Raises:
            OSError: A file cannot be read or written. Later runs are appended to the next tar file.
        """
        files = [folder / name for name in _FILES if (folder / name).is_file()]
        file = self._file(sum(each.stat().st_size + 2 * tarfile.BLOCKSIZE for each in files))
        try:
            with tarfile.open(file, "a", format=tarfile.GNU_FORMAT) as archive:
                for each in files:
                    archive.add(each, arcname=each.relative_to(self.root).as_posix())
        except (OSError, tarfile.TarError) as error:
            self.number += 1
            raise OSError(f"{file}: {error}") from error

    def _file(self, more: int) -> Path:
        """Return the tar file that has room for `more` bytes."""
        file = self._path
        if file.exists() and file.stat().st_size + more > self.size:
            self.number += 1
        return self._path

    @property
    def _path(self) -> Path:
        return self.out / f"runs-{self.number}.tar"
