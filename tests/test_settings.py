"""Tables of settings are read by the types of a dataclass, and every mistake is one line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest

from pipeline.config import to_dict
from pipeline.errors import InputError
from pipeline.fields import Range
from pipeline.settings import array_of_tables, read_settings


@dataclass(frozen=True, kw_only=True)
class Base:
    from_: tuple[str, ...]
    """Where it comes from."""


@dataclass(frozen=True, kw_only=True)
class Filter(Base):
    cutoff_hz: Annotated[tuple[float, float], Range(0, 8000)] = (100.0, 200.0)
    num_taps: tuple[int, int] = (3, 9)
    order: int = 2
    gain: float = 1.0
    is_steep: bool = False
    kinds: tuple[Literal["low", "high"], ...] = ("low",)
    title: str = "plain"

    def __post_init__(self) -> None:
        if self.order == 7:
            raise InputError("7 is no order; give another")


FULL = {
    "from": ["a", "b"],
    "cutoff_hz": [50, 60.5],
    "num_taps": [1, 1],
    "order": 3,
    "gain": 2,
    "is_steep": True,
    "kinds": ["high", "low"],
    "title": "x",
}


def test_a_table_becomes_a_dataclass_and_the_same_table_again():
    settings = read_settings(Filter, FULL, "filter")
    assert settings.cutoff_hz == (50.0, 60.5)
    assert isinstance(settings.gain, float)
    assert to_dict(settings) == FULL


def test_what_is_left_out_has_its_default_and_a_single_value_is_a_list_of_one():
    assert read_settings(Filter, {"from": "a", "kinds": "high"}, "filter") == Filter(
        from_=("a",), kinds=("high",)
    )


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "filter: missing from: Where it comes from"),
        ({"from_": "a"}, "filter: unknown setting 'from_'; did you mean from?"),
        ({"from": ""}, 'filter: from: expected a list of text, got ""'),
        ({"from": 1}, "filter: from: expected a list of text, got 1"),
        (
            {"cutoff_hz": [2, 1]},
            r"filter: cutoff_hz: expected \[low, high\] with low ≤ high from 0 to 8,000, got \[2, 1\]",
        ),
        ({"cutoff_hz": [1, 9000]}, r"cutoff_hz: expected .* got \[1, 9000\]"),
        ({"cutoff_hz": [1, 2, 3]}, r"cutoff_hz: expected \[low, high\]"),
        ({"cutoff_hz": float("nan")}, r"cutoff_hz: expected \[low, high\]"),
        ({"cutoff_hz": [float("nan"), 1]}, r"cutoff_hz: expected \[low, high\]"),
        ({"num_taps": [1.5, 2]}, r"num_taps: expected \[low, high\]"),
        ({"order": 1.0}, "order: expected an integer, got 1.0"),
        ({"order": True}, "order: expected an integer, got true"),
        ({"order": 7}, "filter: 7 is no order; give another"),
        ({"gain": "2"}, 'gain: expected a number, got "2"'),
        ({"is_steep": 1}, "is_steep: expected true or false, got 1"),
        ({"kinds": ["lo"]}, "kinds: unknown 'lo'; did you mean low?"),
        ({"kinds": []}, "kinds: expected a list of one of low, high, got "),
        ({"title": {}}, "title: expected text, got {}"),
    ],
)
def test_a_mistake_is_one_line_with_the_key(table: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message) as error:
        read_settings(Filter, {"from": "a"} | table if table else {}, "filter")
    assert "\n" not in str(error.value)


def test_an_array_of_tables_is_read_from_json_or_from_names():
    reader = array_of_tables(list)
    assert reader.read('[{"name": "a"}, "b"]') == [{"name": "a"}, "b"]
    assert reader.read("a,b") == ["a", "b"]
    for text in ("", "a,,b", '[{"name"'):
        with pytest.raises(ValueError):
            reader.read(text)
