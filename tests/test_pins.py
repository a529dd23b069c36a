"""pyproject.toml, requirements.lock, environment.yml and the running environment name the same versions."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent


def pins(lines: list[str]) -> dict[NormalizedName, Version]:
    """The version of each `name==version`; anything looser is an error."""
    found: dict[NormalizedName, Version] = {}
    for line in lines:
        requirement = Requirement(line)
        (specifier,) = requirement.specifier
        assert specifier.operator == "==" and not specifier.version.endswith("*"), f"not an exact pin: {line}"
        found[canonicalize_name(requirement.name)] = Version(specifier.version)
    return found


LOCKED = (ROOT / "requirements.lock").read_text().splitlines()
LOCK = pins([line for line in LOCKED if not line.startswith("#")])
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OPTIONAL = PROJECT["optional-dependencies"]
(EXTRAS,) = re.findall(r"^EXTRAS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
"""The optional dependencies that `make setup` installs; `make site` adds its own."""
DIRECT = [
    Requirement(line)
    for group in (PROJECT["dependencies"], *(OPTIONAL[name] for name in EXTRAS.split(",")))
    for line in group
]


def test_only_the_site_and_other_formats_have_packages_outside_the_lock() -> None:
    assert set(OPTIONAL) - set(EXTRAS.split(",")) == {"site", "onnx", "openvino", "exports"}


def test_the_lock_names_no_local_build() -> None:
    assert [f"{name}=={version}" for name, version in LOCK.items() if version.local] == []


@pytest.mark.parametrize("requirement", DIRECT, ids=lambda requirement: requirement.name)
def test_each_dependency_is_locked_within_its_bounds(requirement: Requirement) -> None:
    assert LOCK[canonicalize_name(requirement.name)] in requirement.specifier


def test_environment_pins_each_direct_dependency_as_the_lock_does() -> None:
    packages = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (pip,) = [entry["pip"] for entry in packages if isinstance(entry, dict)]
    environment = pins([line for line in pip if not line.startswith("-")])
    names = {canonicalize_name(requirement.name) for requirement in DIRECT}
    assert environment == {name: LOCK[name] for name in names}


@pytest.mark.parametrize("name", sorted(LOCK))
def test_what_is_installed_is_what_is_locked(name: NormalizedName) -> None:
    # A build tag such as +cpu is the platform's own and may differ.
    assert Version(metadata.version(name)).public == str(LOCK[name])
