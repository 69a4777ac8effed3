"""What holds for every module that lists the files of a folder."""

import ast
import re
from collections.abc import Collection
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]


def entries_of_tree(layout: ModuleType) -> set[str]:
    """The names in the tree of the docstring."""
    assert layout.__doc__ is not None
    return {line.split()[0] for line in layout.__doc__.splitlines() if line.strip()}


def spelled_elsewhere(layout: ModuleType, names: Collection[str]) -> set[str]:
    """The texts of other modules that have one of the names, with their files."""
    pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, names))})\b")
    return {
        f"{path.relative_to(ROOT)}: {node.value}"
        for folder in ("pipeline", "jobs")
        for path in (ROOT / folder).rglob("*.py")
        if path != Path(str(layout.__file__))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and pattern.search(node.value)
    }
