import ast
import re
from pathlib import Path

from pipeline.drift import layout

ROOT = Path(__file__).parents[2]
NAMES = {layout.DRIFT_JSON, layout.DRIFT_TABLE, layout.DRIFT_PAGE}


def test_the_tree_in_the_docstring_has_every_name():
    assert layout.__doc__ is not None
    first_words = {line.split()[0] for line in layout.__doc__.splitlines() if line.strip()}
    assert NAMES | {layout.CONFIG} <= first_words


def test_no_other_module_spells_the_names():
    pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, NAMES))})\b")
    spelled = {
        f"{path.relative_to(ROOT)}: {node.value}"
        for folder in ("pipeline", "jobs")
        for path in (ROOT / folder).rglob("*.py")
        if path != Path(layout.__file__)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and pattern.search(node.value)
    }
    assert spelled == set()
