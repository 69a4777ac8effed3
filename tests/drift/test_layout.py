"""The names of the files in a DRIFT folder."""

from pipeline.drift import layout
from tests.layouts import entries_of_tree, spelled_elsewhere

NAMES = {layout.DRIFT_JSON, layout.DRIFT_TABLE, layout.DRIFT_PAGE}


def test_the_tree_in_the_docstring_has_every_name():
    assert NAMES | {layout.CONFIG} <= entries_of_tree(layout)


def test_no_other_module_spells_the_names():
    assert spelled_elsewhere(layout, NAMES) == set()
