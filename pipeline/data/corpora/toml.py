"""TOML files read strictly: every key is asked for, by its type, or it is an error."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from pipeline.errors import InputError

T = TypeVar("T")


def load_toml(path: Path) -> TomlTable:
    """The top table of a file.

    Raises:
        InputError: it is not TOML.
    """
    try:
        return TomlTable(path, "", tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a TOML file: {error}") from error


class TomlTable:
    """One table of a TOML file; every key must be taken once, by its type."""

    def __init__(self, path: Path, name: str, values: Mapping[str, object]) -> None:
        self.path = path
        self.name = name
        self.values = dict(values)

    def error(self, key: str, message: str) -> InputError:
        return InputError(f"{self.path}: {self.name + '.' if self.name else ''}{key}: {message}")

    def finish(self) -> None:
        for key in self.values:
            raise self.error(key, "no such key; see manifests/README.md")

    def take(self, key: str) -> object:
        if key not in self.values:
            raise self.error(key, "is missing")
        return self.values.pop(key)

    def text(self, key: str) -> str:
        value = self.take(key)
        if not isinstance(value, str) or not value:
            raise self.error(key, f"must be a text, not {value!r}")
        return value

    def optional_text(self, key: str) -> str | None:
        return self.text(key) if key in self.values else None

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        value = self.text(key)
        if value not in choices:
            raise self.error(key, f"{value!r} is none of {', '.join(choices)}")
        return value

    def flag(self, key: str) -> bool | None:
        if key not in self.values:
            return None
        value = self.take(key)
        if not isinstance(value, bool):
            raise self.error(key, f"must be true or false, not {value!r}")
        return value

    def number(self, key: str) -> float:
        return self._numbers(key, [self.take(key)])[0]

    def numbers(self, key: str) -> tuple[float, ...]:
        value = self.take(key)
        return self._numbers(key, value if isinstance(value, list) else [value])

    def _numbers(self, key: str, values: list[object]) -> tuple[float, ...]:
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                raise self.error(key, f"must be a number, not {value!r}")
        return tuple(float(value) for value in values if isinstance(value, int | float))

    def texts(self, key: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        if default is not None and key not in self.values:
            return default
        value = self.take(key)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(key, f"must be a list of texts, not {value!r}")
        return tuple(value)

    def parsed(self, key: str, parse: Callable[[str], T]) -> T:
        return self._parse(key, self.text(key), parse)

    def many(self, key: str, parse: Callable[[str], T]) -> tuple[T, ...]:
        """A text, or a list of one or more."""
        texts = self.texts(key) if isinstance(self.values.get(key), list) else (self.text(key),)
        if not texts:
            raise self.error(key, "is empty")
        return tuple(self._parse(key, text, parse) for text in texts)

    def _parse(self, key: str, text: str, parse: Callable[[str], T]) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise self.error(key, str(error)) from error

    def table(self, key: str) -> TomlTable | None:
        if key not in self.values:
            return None
        value = self.take(key)
        if not isinstance(value, dict):
            raise self.error(key, f"must be a table, not {value!r}")
        return TomlTable(self.path, f"{self.name}.{key}" if self.name else key, value)

    def mapping(self, key: str) -> dict[str, str]:
        table = self.table(key)
        if table is None:
            return {}
        for name, value in table.values.items():
            if not isinstance(value, str):
                raise table.error(name, f"must be a text, not {value!r}")
        return {name: str(value) for name, value in table.values.items()}
