"""The names of the files in SCORES and REPORT folders."""

import ast
import re
from pathlib import Path

from pipeline.evaluation import layout

ROOT = Path(__file__).parents[2]
NAMES = {
    layout.IDENTITY,
    layout.PLAN,
    layout.DESCRIPTION,
    layout.METRICS_JSON,
    layout.METRICS_TABLE,
    layout.REPORT_PAGE,
}


def test_a_part_and_its_rejects_have_the_same_number():
    assert layout.part_name(7) == "scores/part-000007.parquet"
    assert layout.part_rejects_name(7) == "rejects/part-000007.parquet"


def test_a_window_policy_has_a_folder_with_a_safe_name():
    policies = ("whole", "window:4:mean", "window:4.04:first", "window:1e+16:max")
    folders = [layout.policy_folder(policy) for policy in policies]
    assert folders == ["whole", "window-4-mean", "window-4.04-first", "window-1e-16-max"]
    assert [layout.folder_of_marker(layout.policy_marker(policy)) for policy in policies] == folders
    assert layout.folder_of_marker(f"{layout.POLICIES}/whole.txt.0123") is None


def test_the_tree_in_the_docstring_has_every_name():
    assert layout.__doc__ is not None
    first_words = {line.split()[0] for line in layout.__doc__.splitlines() if line.strip()}
    folders = {f"{name}/" for name in (layout.PARTS, layout.PART_REJECTS, layout.POLICIES)}
    assert NAMES | {layout.CONFIG, layout.REJECTS} | folders <= first_words


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
