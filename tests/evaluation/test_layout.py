"""The names of the files in SCORES and REPORT folders."""

from pipeline.evaluation import layout
from tests.layouts import entries_of_tree, spelled_elsewhere

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
    kinds = (layout.PARTS, layout.PART_REJECTS, layout.POLICIES, layout.EMBEDDINGS, layout.FRAMES)
    folders = {f"{name}/" for name in kinds}
    assert NAMES | {layout.CONFIG, layout.REJECTS, layout.REGIONS} | folders <= entries_of_tree(layout)


def test_no_other_module_spells_the_names():
    assert spelled_elsewhere(layout, NAMES) == set()
