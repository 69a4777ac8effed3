"""Every situation of the table ends as it says: one line, its exit status, and only the files that it names."""

from __future__ import annotations

import fnmatch
import hashlib
import re
from pathlib import Path

import pytest

from tests.jobs.situations.page import PAGE, to_markdown
from tests.jobs.situations.situation import Place, Situation
from tests.jobs.situations.table import TABLE

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

ALL = [situation for situations in TABLE.values() for situation in situations]


def as_parameter(situation: Situation) -> object:
    marks = [pytest.mark.ray, pytest.mark.filterwarnings("default")] if situation.needs_ray else []
    return pytest.param(situation, id=situation.what.replace(" ", "-"), marks=marks)


@pytest.mark.parametrize("situation", [as_parameter(each) for each in ALL])
def test_a_situation_ends_as_the_table_says(
    situation: Situation, tmp_path: Path, request: pytest.FixtureRequest
):
    here = tmp_path / "here"
    here.mkdir()
    place = Place(here, request)
    if situation.needs_ray:
        place.fixture("cluster")
    situation.prepare(place)
    before = entries(here)
    argv = [filled(argument, here) for argument in situation.command.split(" ")]
    environment = {name: filled(value, here) for name, value in situation.environment.items()}
    outcome = situation.run(argv, place, environment)
    output = outcome.stdout + outcome.stderr
    assert "Traceback" not in output, output
    line = filled(f"bonafide {argv[0]}: {situation.line}", here)
    last = (outcome.stderr.splitlines() or [""])[-1]
    assert re.fullmatch(".*".join(map(re.escape, line.split("…"))), last), output
    assert outcome.status == situation.status, output
    after = entries(here)
    left = {name for name in after.keys() | before.keys() if after.get(name) != before.get(name)}
    unnamed = {name for name in left if not any(fnmatch.fnmatch(name, each) for each in situation.leaves)}
    assert unnamed == set()
    assert [each for each in situation.leaves if not fnmatch.filter(left, each)] == []


def filled(text: str, here: Path) -> str:
    return text.replace("{here}", str(here))


def entries(folder: Path) -> dict[str, str]:
    """Every file with a digest of its content, and every empty folder, by relative path."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif not path.is_dir() or not any(path.iterdir()):
            found[name] = ""
    return found


def test_every_situation_has_its_own_name():
    names = [situation.what for situation in ALL]
    assert len(names) == len(set(names))


def test_the_page_is_made_from_the_table():
    assert PAGE.read_text(encoding="utf-8") == to_markdown(), "run: python -m tests.jobs.situations.page"
