"""Types of the fields of a config: how the text of a flag becomes a value, and which values are accepted.

    store: Location
    shard_mib: Annotated[float, Range(0.01, 65_536)] = 256.0

`pipeline.config` reads every flag, and every key of a TOML file, by the type of its field. So a value that cannot work
is refused before the command begins, and a relative path is absolute before any code uses it.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from pipeline.errors import InputError, did_you_mean
from pipeline.paths import absolute_path


@dataclass(frozen=True)
class Range:
    """The numbers that a field accepts; each number of a field that holds several. NaN is in no range."""

    minimum: float
    maximum: float
    above: bool = False
    """Whether the minimum itself is excluded."""
    also: float | None = None
    """One more number with a meaning of its own, such as 0 or infinity."""

    def accepts(self, value: Any) -> bool:
        """Whether a number is in the range; or all numbers of a tuple, or all values of a dictionary."""
        if isinstance(value, dict):
            return all(map(self.accepts, value.values()))
        if isinstance(value, tuple):
            return all(map(self.accepts, value))
        is_inside = self.minimum <= value <= self.maximum and not (self.above and value == self.minimum)
        return is_inside or value == self.also

    def __str__(self) -> str:
        start = f"above {_digits(self.minimum)} up to" if self.above else f"from {_digits(self.minimum)} to"
        more = "" if self.also is None else f", or {_digits(self.also)}"
        return f"{start} {_digits(self.maximum)}{more}"


def _digits(number: float) -> str:
    return f"{number:,.0f}" if float(number).is_integer() else f"{number:g}"


Count = Annotated[int, Range(1, 10**9)]
"""A number of things, at least one."""

CountOrZero = Annotated[int, Range(0, 10**9)]

Positive = Annotated[float, Range(0, 1e9, above=True)]

PositiveOrZero = Annotated[float, Range(0, 1e9)]

Share = Annotated[float, Range(0, 1)]

Seed = Annotated[int, Range(0, 2**32 - 1)]
"""A seed that every generator of random numbers accepts."""


class Names(tuple[str, ...]):
    """Different names: separated by commas on the command line, a list in TOML."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Names:
        """Read names separated by commas, or a JSON list; raises ValueError if one is empty or occurs twice."""
        names = _items(text)
        if len(names) > len(set(names)):
            raise ValueError
        return cls(names)


class Pairs(tuple[tuple[str, str], ...]):
    """`name=value` pairs with different names: separated by commas on the command line, a list of strings in TOML."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Pairs:
        """Read pairs separated by commas, or a JSON list of them; raises ValueError for anything else."""
        parts = [item.partition("=") for item in _items(text)]
        pairs = cls((name, value) for name, _, value in parts)
        if not all(map(all, pairs)) or len(pairs) > len(set(pairs.names)):
            raise ValueError
        return pairs

    @property
    def names(self) -> list[str]:
        """The names, in order."""
        return [name for name, _ in self]

    def get(self, name: str) -> str | None:
        """The value of a name, or None."""
        return dict(self).get(name)


class Bounds(tuple[int, int]):
    """Minimum and maximum: one integer for both, or two as `4,16` on the command line and `[4, 16]` in TOML."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Bounds:
        """Read one or two integers in ascending order; raises ValueError for anything else."""
        numbers = [int(item) for item in _items(text)]
        minimum, maximum = numbers * 2 if len(numbers) == 1 else numbers
        if minimum > maximum:
            raise ValueError
        return cls((minimum, maximum))


def _items(text: str) -> list[str]:
    """The items of a list, which is separated by commas or written in JSON; raises ValueError if one is empty."""
    items = json.loads(text) if text.startswith("[") else text.split(",")
    names = [str(item).strip() for item in items]
    if not names or not all(names):
        raise ValueError
    return names


def check_ranges(config: Any) -> None:
    """Check the numbers of a config that code has made, as they are checked in a command line.

    Raises:
        InputError: a number is not in the range of its field.
    """
    for name, hint in types_of(config.__class__).items():
        for mark in marks_of(hint):
            value = getattr(config, name)
            if isinstance(mark, Range) and not mark.accepts(value):
                raise InputError(f"--{name.replace('_', '-')} {value}: expected numbers {mark}")


@functools.cache
def types_of(config: Any) -> Mapping[str, Any]:
    """The types of the fields of a config by name, in order."""
    return get_type_hints(config, include_extras=True)


def marks_of(hint: Any) -> tuple[Any, ...]:
    """What `Annotated` adds to a type."""
    return get_args(hint)[1:] if get_origin(hint) is Annotated else ()


@dataclass(frozen=True)
class Reader:
    """How the text of a flag becomes a value."""

    read: Callable[[str], Any]
    """Raises ValueError for a text that is no such value, or an InputError that says why."""
    expected: str
    """What the text has to be, for messages: `true or false`."""
    alone: str | None = None
    """The text that a flag without a value stands for; None: the flag needs a value."""


def _text(text: str) -> str:
    if not text:
        raise ValueError
    return text


def _numbers(text: str) -> dict[str, float]:
    items = json.loads(text) if text.startswith("{") else dict(Pairs.parse(text))
    return {name: float(number) for name, number in items.items()}


READERS: Mapping[Any, Reader] = {
    str: Reader(_text, "text"),
    bool: Reader(lambda text: bool(("false", "true").index(text)), "true or false", alone="true"),
    int: Reader(int, "an integer"),
    float: Reader(lambda text: float(text.replace(".inf", "inf")), "a number"),
    Names: Reader(Names.parse, "names separated by commas, none of them empty or repeated"),
    Pairs: Reader(Pairs.parse, "name=value pairs separated by commas, no name repeated"),
    Bounds: Reader(Bounds.parse, "an integer, or two in ascending order separated by a comma,"),
    dict[str, float]: Reader(_numbers, "name=number pairs separated by commas, no name repeated,"),
}
"""How to read a field of each type that has no reader of its own."""


def one_of(kind: str, known: Collection[str]) -> Reader:
    """A reader of names that are known; the message about another one has the nearest name.

    Args:
        kind: what the names are, for messages: `variant`.
        known: the names.
    """

    def read(text: str) -> str:
        if text not in known:
            raise InputError(f"unknown {kind} {text!r}{did_you_mean(text, known)}")
        return text

    return Reader(read, kind)


def each_of(kind: str, known: Collection[str]) -> Reader:
    """A reader of several names, each as in `one_of`."""
    read = one_of(kind, known).read
    return Reader(lambda text: Names(map(read, Names.parse(text))), READERS[Names].expected)


def local_path(text: str) -> str:
    """The absolute form of a local path, as `pipeline.paths.absolute_path` gives it.

    Raises:
        ValueError: the text is empty, has a scheme such as `s3:`, or names the home of an unknown user.
    """
    if not text or "\0" in text or re.match(r"\w[\w+.-]*:/", text):
        raise ValueError
    return absolute_path(text)


def location(text: str) -> str:
    """The absolute form of a path or `file://` URI; an `s3://` URI as it is. Raises ValueError for anything else."""
    if re.match("s3://[^/]", text):
        return text
    return local_path(text.removeprefix("file://"))


def _checkpoint(text: str) -> str:
    return text if text.startswith("models:/") else location(text)


def _file(text: str) -> str:
    if text.endswith("/"):
        raise InputError(f"{text} is a folder; give the name of a file")
    return location(text)


def _locations(text: str) -> Names:
    return Names.parse(json.dumps([location(name) for name in Names.parse(text)]))


def _named_locations(text: str) -> Pairs:
    return Pairs((name, location(path)) for name, path in Pairs.parse(text))


_PATH = "a path or an s3:// URI"

Text = Annotated[str, Reader(str, "text")]
"""Text that may be empty on the command line, because that has a meaning of its own."""

LocalPath = Annotated[str, Reader(local_path, "a local path")]

Location = Annotated[str, Reader(location, _PATH)]
"""A file or folder. Its value is absolute, so that it means the same in every process."""

OutputFile = Annotated[str, Reader(_file, _PATH)]
"""A file that the command writes."""

Checkpoint = Annotated[str, Reader(_checkpoint, f"{_PATH}, or models:/NAME@best")]

Locations = Annotated[Names, Reader(_locations, "paths or s3:// URIs separated by commas, none repeated")]

NamedLocations = Annotated[
    Pairs, Reader(_named_locations, "NAME=PATH pairs separated by commas, no name repeated")
]
"""Locations by name."""
