"""Provenance of the code behind a run: commit, package, version, and a fingerprint that ignores comments and layout."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse


def identity_of(inputs: dict[str, Any]) -> str:
    """Return the identity of a run: a hash of the inputs that determine its result, 16 hexadecimal digits.

    `run.json` stores these inputs under the key `asked`.
    """
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


@cache
def suite_version() -> str:
    """Return the git commit of the suite, as `commit_of` does, or its version if it is installed.

    Runs ask at their start, so that later commits and edits do not count. A copy of the checkout without git names its
    commit in the environment variable COSTEFF_COMMIT.
    """
    file = Path(__file__)
    if commit := commit_of(file) or os.environ.get("COSTEFF_COMMIT"):
        return commit
    package = package_of("bench", file)
    return f"{package['package']} {package['version']}" if package else "unknown"


def code_of(kind: type) -> dict[str, Any]:
    """Return what is known of the code of a class when it is first asked; runs ask before they train.

    Returns:
        The file, hashes, and where they exist the package, version and git commit.
    """
    return dict(_code_of(kind))


@cache
def _code_of(kind: type) -> dict[str, Any]:
    file = Path(getattr(sys.modules[kind.__module__], "__file__", None) or "")
    if not file.is_file():
        return {}
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    known = {"file": file.name, "sha256": digest, "fingerprint": fingerprint(kind)}
    return {**known, **package_of(kind.__module__, file), "commit": commit_of(file) or None}


@cache
def commit_of(file: Path) -> str:
    """Return the commit of the checkout that tracks `file`; "" if none does.

    "-dirty" follows it if any tracked file of the checkout has changed since.
    """
    folder = str(file.parent)  # git must track the file: an environment inside a checkout is not part of it
    try:
        subprocess.run(["git", "-C", folder, "ls-files", "--error-unmatch", file.name], capture_output=True, check=True)
        command = ["git", "-C", folder, "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


@cache
def package_of(module: str, file: Path) -> dict[str, str]:
    """Return name and version of the installed distribution that contains `file`; empty if there is none."""
    for name in importlib.metadata.packages_distributions().get(module.partition(".")[0], ()):
        found = importlib.metadata.distribution(name)
        if file.resolve().is_relative_to(_package_folder(found).resolve()):
            return {"package": found.name, "version": found.version}
    return {}


def _package_folder(found: importlib.metadata.Distribution) -> Path:
    """Return the folder of a distribution's files; for an editable installation, its checkout."""
    origin = json.loads(found.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        return Path(unquote(urlparse(origin["url"]).path))
    return Path(str(found.locate_file("")))


def changed(kept: dict[str, Any], kind: type) -> bool:
    """Return whether the code of a method has changed since a run; False if this cannot be determined.

    Args:
        kept: The `method_code` of the run, as `code_of` returned it. Runs of version 0.2 have no fingerprint.
        kind: The class of the method.
    """
    then, now = kept.get("fingerprint") or "", fingerprint(kind)
    # Syntax trees differ between minor versions of Python.
    return then.split(":")[0] == now.split(":")[0] and then != now


@cache
def fingerprint(kind: type) -> str:
    """Return `<Python version>:<hash>` of the code of a method: the modules of its classes and the modules they import.

    Comments, docstrings and layout are ignored. The suite's own modules (covered by a version of their numerics) and
    installed packages other than the method's own are left out.
    """
    classes = [each for each in kind.__mro__ if each.__module__.partition(".")[0] not in ("bench", "builtins")]
    files: dict[str, Path] = {}
    to_read = [each.__module__ for each in classes]
    while to_read:
        module = to_read.pop()
        if module not in files and (file := _file(module)):
            files[module] = file
            to_read += [name for name in _imports(module, file) if _belongs(name, classes)]
    digest = hashlib.sha256()
    for module in sorted(files):
        digest.update(f"{module}\n{_code(files[module])}\n".encode())
    return f"{sys.version_info.major}.{sys.version_info.minor}:{digest.hexdigest()[:16]}"


def _file(module: str) -> Path | None:
    """Return the source file of a module, or None."""
    try:
        found = sys.modules.get(module) or importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):  # the name of an attribute, from `from package import attribute`
        return None
    name = getattr(found, "__file__", None) or getattr(found, "origin", None)
    return Path(name) if name and name.endswith(".py") and Path(name).is_file() else None


def _belongs(module: str, classes: list[type]) -> bool:
    """Return whether a module belongs to the method: it is in the same package or folder as the method's module."""
    top = module.partition(".")[0]
    packages = {each.__module__.partition(".")[0] for each in classes}
    if top in packages or top == "bench":
        return top in packages
    installed = {Path(sysconfig.get_path(name)) for name in ("purelib", "platlib", "stdlib")}
    homes = {file.parent for name in packages if (file := _file(name)) and not hasattr(sys.modules[name], "__path__")}
    file = _file(top)
    return file is not None and (file.parent.parent if file.name == "__init__.py" else file.parent) in homes - installed


def _imports(module: str, file: Path) -> Iterator[str]:
    """Yield the names that a file imports, both modules and attributes of modules."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parts, node.module or ""]).strip(".")
            yield from (base, *(f"{base}.{alias.name}" for alias in node.names))


def _code(file: Path) -> str:
    """Return the syntax tree of a file as text, without docstrings."""
    tree = _tree(file)
    for node in ast.walk(tree):
        for _, block in ast.iter_fields(node):
            if isinstance(block, list) and block and isinstance(block[0], ast.stmt):
                block[:] = [each for each in block if not _is_text(each)] or [ast.Pass()]
    return ast.dump(tree)


def _is_text(node: ast.stmt) -> bool:
    """Return whether a statement is only a string, such as the docstring of a function or an attribute."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_bytes())
