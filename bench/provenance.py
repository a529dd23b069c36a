"""The code behind a run: commit, package and version, and a fingerprint that tells changed code from changed text."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse


def suite_version() -> str:
    """Return the git commit of the suite's code ("-dirty" if files have changed since); if installed, its version."""
    file = Path(__file__)
    package = package_of("bench", file)
    return commit_of(file) or (f"{package['package']} {package['version']}" if package else "unknown")


def code_of(kind: type) -> dict[str, Any]:
    """Return what is known of a class's code: file, hashes, and package, version and git commit if there are any."""
    file = Path(getattr(sys.modules[kind.__module__], "__file__", None) or "")
    if not file.is_file():
        return {}
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    known = {"file": file.name, "sha256": digest, "fingerprint": fingerprint(kind)}
    return {**known, **package_of(kind.__module__, file), "commit": commit_of(file) or None}


@cache
def commit_of(file: Path) -> str:
    """Return the commit of the checkout that `file` is part of, with "-dirty" if that has changed since; else ""."""
    folder = str(file.parent)  # a file that only lies in a checkout, as an environment may, is no part of it
    try:
        subprocess.run(["git", "-C", folder, "ls-files", "--error-unmatch", file.name], capture_output=True, check=True)
        command = ["git", "-C", folder, "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


@cache
def package_of(module: str, file: Path) -> dict[str, str]:
    """Return name and version of the installed distribution that `file` is part of; empty if there is none."""
    for name in importlib.metadata.packages_distributions().get(module.partition(".")[0], ()):
        found = importlib.metadata.distribution(name)
        if file.resolve().is_relative_to(_home(found).resolve()):
            return {"package": found.name, "version": found.version}
    return {}


def _home(found: importlib.metadata.Distribution) -> Path:
    """Return the folder of a distribution's files: its checkout, if it is installed from there in place."""
    origin = json.loads(found.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        return Path(unquote(urlparse(origin["url"]).path))
    return Path(str(found.locate_file("")))


def changed(kept: dict[str, Any], kind: type) -> bool:
    """Return whether a kept run was made by other code than `kind` has today; False if that cannot be told.

    Args:
        kept: The run's `method_code`, as `code_of` gave it. Runs of 0.2 have no fingerprint.
        kind: The class of its method.
    """
    then, now = kept.get("fingerprint") or "", fingerprint(kind)
    # Python's grammar changes between minor versions, and syntax trees with it.
    return then.split(":")[0] == now.split(":")[0] and then != now


@cache
def fingerprint(kind: type) -> str:
    """Return `<Python version>:<hash>` of the code of a method: its classes' modules, and those they import.

    Comments, docstrings and layout do not count. The suite's own modules are left out (their numerics have a version),
    and so are installed packages other than the method's own.
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
    """Return the source file of a module, if there is one."""
    try:
        found = sys.modules.get(module) or importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):  # `from package import attribute` names no module
        return None
    name = getattr(found, "__file__", None) or getattr(found, "origin", None)
    return Path(name) if name and name.endswith(".py") and Path(name).is_file() else None


def _belongs(module: str, classes: list[type]) -> bool:
    """Return whether an imported module is the method's own: of its package, or in the same folder as its module."""
    top = module.partition(".")[0]
    packages = {each.__module__.partition(".")[0] for each in classes}
    if top in packages or top == "bench":
        return top in packages
    installed = {Path(sysconfig.get_path(name)) for name in ("purelib", "platlib", "stdlib")}
    homes = {file.parent for name in packages if (file := _file(name)) and not hasattr(sys.modules[name], "__path__")}
    file = _file(top)
    return file is not None and (file.parent.parent if file.name == "__init__.py" else file.parent) in homes - installed


def _imports(module: str, file: Path) -> Iterator[str]:
    """Yield the names of modules that a file may import, attributes of modules among them."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parts, node.module or ""]).strip(".")
            yield from (base, *(f"{base}.{alias.name}" for alias in node.names))


def _code(file: Path) -> str:
    """Return the syntax of a file without docstrings, as text."""
    tree = _tree(file)
    for node in ast.walk(tree):
        for _, block in ast.iter_fields(node):
            if isinstance(block, list) and block and isinstance(block[0], ast.stmt):
                block[:] = [each for each in block if not _is_text(each)] or [ast.Pass()]
    return ast.dump(tree)


def _is_text(node: ast.stmt) -> bool:
    """Return whether a statement is a string alone: a docstring, of attributes too."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_bytes())
