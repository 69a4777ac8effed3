from __future__ import annotations

import math
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.fields import Bounds, Names, Pairs, Range, each_of, local_path, location, one_of


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("store", "HERE/store"),
        ("./store/", "HERE/store"),
        ("../a/../store", "PARENT/store"),
        ("/a//b/.", "/a/b"),
        ("//a", "/a"),
        ("/", "/"),
        ("~/store", "/home/me/store"),
        ("./~", "HERE/~"),
        ("with space, comma=and ü", "HERE/with space, comma=and ü"),
        ("file:///a/b", "/a/b"),
        ("s3://bucket/a//b/", "s3://bucket/a//b/"),
    ],
)
def test_a_location_is_absolute(text: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    expected = path.replace("HERE", str(tmp_path)).replace("PARENT", str(tmp_path.parent))
    assert location(text) == expected
    assert location(location(text)) == location(text)


@pytest.mark.parametrize(
    "text", ["", "s3:/bucket", "s3://", "gs://b/c", "models:/m/1", "~no-such-user/x", "a\0b"]
)
def test_what_is_no_location_is_refused(text: str):
    with pytest.raises(ValueError):
        location(text)


def test_a_local_path_is_not_on_s3():
    with pytest.raises(ValueError):
        local_path("s3://bucket/a")


def test_nan_is_in_no_range_and_an_end_only_if_the_range_includes_it():
    closed, above, also = Range(0, 1), Range(0, 1, above=True), Range(1, 2, also=math.inf)
    assert [closed.accepts(number) for number in (0, 1, -1e-9, math.nan, math.inf)] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert [above.accepts(number) for number in (0, 1e-9, math.nan)] == [False, True, False]
    assert [also.accepts(number) for number in (0, 1, math.inf, math.nan)] == [False, True, True, False]


def test_a_range_holds_for_every_number_of_a_field():
    assert Range(1, 8).accepts(Bounds((1, 8)))
    assert not Range(1, 8).accepts(Bounds((0, 8)))
    assert not Range(0, 1).accepts({"spoof": 0.5, "bonafide": 1.5})


def test_a_range_is_described_with_its_ends():
    assert str(Range(0, 1)) == "from 0 to 1"
    assert str(Range(0.025, 14_400, also=0)) == "from 0.025 to 14,400, or 0"
    assert str(Range(0, 1e9, above=True, also=math.inf)) == "above 0 up to 1,000,000,000, or inf"


@pytest.mark.parametrize("text", ["", ",", "a,", "a,,b", "[]", '["a", ""]', "a,a"])
def test_a_list_has_different_names(text: str):
    with pytest.raises(ValueError):
        Names.parse(text)


@pytest.mark.parametrize("text", ["a", "a=", "=b", "a=1,a=2"])
def test_pairs_have_different_names_and_values(text: str):
    with pytest.raises(ValueError):
        Pairs.parse(text)


def test_a_minimum_is_not_above_the_maximum():
    assert Bounds.parse("4,4") == (4, 4)
    with pytest.raises(ValueError):
        Bounds.parse("4,3")


def test_an_unknown_name_is_answered_with_the_nearest_one():
    with pytest.raises(InputError, match=r"unknown codec 'opsu'; did you mean opus\?"):
        one_of("codec", ["opus", "gsm"]).read("opsu")
    with pytest.raises(InputError, match="unknown codec 'x'; known: opus, gsm"):
        each_of("codec", ["opus", "gsm"]).read("gsm,x")
