"""The import contracts in pyproject.toml cover every package."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_package_has_one_exhaustive_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    covered = [
        container
        for contract in contracts
        if contract.get("exhaustive")
        for container in contract["containers"]
    ]
    packages = [
        ".".join(file.parent.relative_to(ROOT).parts)
        for root in ("pipeline", "jobs")
        for file in (ROOT / root).rglob("__init__.py")
    ]
    assert sorted(covered) == sorted(packages)
