"""Read a table of settings, of TOML or JSON, into a frozen dataclass by the types and defaults of its fields.

The fields of a command are flags (`pipeline.config`). Settings in arrays of tables, such as `[[augment]]`, have no flag
of their own: their types are those of a dataclass, too, and their mistakes are reported in the same way.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar, get_args, get_origin

from pipeline.errors import InputError, did_you_mean
from pipeline.fields import Names, Range, Reader, marks_of, types_of

Settings = TypeVar("Settings")

NUMBER_WORDS: Mapping[type, str] = {int: "an integer", float: "a number"}


def array_of_tables(read: Callable[[Sequence[Any]], Any]) -> Reader:
    """A reader of `[[tables]]` of TOML; on the command line also of names, which stand for tables without settings.

    Args:
        read: turns names and tables into a value.
    """

    def parse(text: str) -> Any:
        return read(json.loads(text) if text.startswith("[") else Names.parse(text))

    return Reader(
        parse, "names separated by commas, none of them empty or repeated, or tables in a TOML file"
    )


def key_of(field: str) -> str:
    """The key of a field in TOML: its name, without the underscore that keeps a word of Python apart (`from_`)."""
    return field.rstrip("_")


def read_settings(
    kind: type[Settings],
    table: Mapping[str, Any],
    where: str,
    special: Mapping[str, Callable[[Any], Any]] | None = None,
) -> Settings:
    """Read a table into a dataclass; a range of numbers is a tuple of two, and [low, high] in the table.

    Args:
        kind: a frozen dataclass.
        table: values by key.
        where: what the table describes, for messages.
        special: readers of fields of other types, by key.

    Raises:
        InputError: a key is unknown or missing, or a value does not fit its field.
    """
    special = special or {}
    definition: Any = kind
    fields = {key_of(field.name): field for field in dataclasses.fields(definition)}
    for key in table:
        if key not in fields:
            raise InputError(f"{where}: unknown setting {key!r}{did_you_mean(key, fields)}")
    values = {}
    for key, field in fields.items():
        if key in special and key in table:
            values[field.name] = special[key](table[key])
        elif key in table:
            values[field.name] = _read(types_of(definition)[field.name], table[key], f"{where}: {key}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            meaning = attribute_docstrings(definition).get(field.name, "")
            raise InputError(f"{where}: missing {key}: {' '.join(meaning.split()).rstrip('.')}")
    try:
        return kind(**values)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _read(hint: Any, value: Any, where: str) -> Any:
    """A value as the type of its field.

    Raises:
        InputError: the value has another type, or is outside of the range of the field.
    """
    ranges = [mark for mark in marks_of(hint) if isinstance(mark, Range)]
    base = get_args(hint)[0] if marks_of(hint) else hint
    result, expected = _convert(base, value)
    if result is None or not all(each.accepts(result) for each in ranges):
        known = get_args(_item(base)) if get_origin(_item(base)) is Literal else ()
        for word in _items(value):
            if known and isinstance(word, str) and word not in known:
                raise InputError(f"{where}: unknown {word!r}{did_you_mean(word, known)}")
        limits = "".join(f" {each}" for each in ranges)
        raise InputError(f"{where}: expected {expected}{limits}, got {json.dumps(value, default=str)}")
    return result


def _convert(base: Any, value: Any) -> tuple[Any, str]:
    """The value, or None if it has another type; and what was expected."""
    items = _items(value)
    if _is_interval(base):
        low, high = items if isinstance(value, list) and len(items) == 2 else (1, 0)
        number = get_args(base)[0]
        is_fine = all(_scalar(number, each) is not None for each in (low, high)) and low <= high
        return (number(low), number(high)) if is_fine else None, "[low, high] with low ≤ high"
    if get_origin(base) is tuple:
        results = tuple(_scalar(get_args(base)[0], each) for each in items)
        return None if None in results or not results else results, f"a list of {_words(get_args(base)[0])}"
    return _scalar(base, value), _words(base)


def _is_interval(base: Any) -> bool:
    return get_origin(base) is tuple and get_args(base) in ((float, float), (int, int))


def _item(base: Any) -> Any:
    """The type of the items of a tuple; another type is its own."""
    return get_args(base)[0] if get_origin(base) is tuple else base


def _items(value: Any) -> list[Any]:
    """A list as it is; another value is a list of one."""
    return value if isinstance(value, list) else [value]


def _scalar(base: Any, value: Any) -> Any:
    if get_origin(base) is Literal:
        return value if value in get_args(base) else None
    if isinstance(value, bool) or base is bool:
        return value if isinstance(value, bool) and base is bool else None
    if base is float:
        return float(value) if isinstance(value, (int, float)) else None
    return value if isinstance(value, base) and value != "" else None


def _words(base: Any) -> str:
    if get_origin(base) is Literal:
        return "one of " + ", ".join(map(str, get_args(base)))
    return {bool: "true or false", str: "text", **NUMBER_WORDS}[base]


@functools.cache
def attribute_docstrings(config: type) -> dict[str, str]:
    """The string that follows each field in the source of a dataclass and of those that it inherits from."""
    texts: dict[str, str] = {}
    for each in reversed(config.__mro__):
        if dataclasses.is_dataclass(each):
            (definition,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
            assert isinstance(definition, ast.ClassDef)
            texts |= {
                ast.unparse(field.target): ast.literal_eval(text.value)
                for field, text in itertools.pairwise(definition.body)
                if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
            }
    return texts
